"""What computes the answers: a running Ollama that has the model, or llama.cpp in a process of its own. Both show the same face.

Nothing here talks to any host but this one, unless OLLAMA_HOST names another.
"""

import copy
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

from antimatter import files
from antimatter.data.special_tokens import SPECIAL
from antimatter.export.ollama import TAG, OllamaConfig, manifest_path
from antimatter.llama.client import Client, Hangup
from antimatter.llama.header import ChatFacts, chat_facts, read_header
from antimatter.llama.server import Llama

Choice = Literal["auto", "ollama", "embedded"]
OLLAMA_PORT = 11434
STORE = Path("models/ollama/models")  # of stage ollama
_LOOK = 2.0  # seconds to wait for a sign of Ollama: it is on this machine, or as good as absent
_PAUSE = 5.0  # seconds between two vain starts of llama.cpp
_TIMEOUT = 600.0  # seconds between two pieces of an answer: a cold 300M model may load first


@dataclass(frozen=True)
class Finish:
    """How an answer ended. Counts and speed are the engine's own, where it gives them."""

    # The model or a stop text ended it; or it reached its number of tokens
    reason: Literal["stop", "length"]
    prompt_tokens: int  # [BOS] included
    completion_tokens: int
    tokens_per_second: float  # of the completion


class Engine(Protocol):
    name: str  # "llama.cpp" or "Ollama"
    model: str  # as people call it
    description: str  # for people: engine, model, where
    n_ctx: int  # tokens of prompt and answer together
    chat: ChatFacts | None  # None: a base model, which continues text

    def count(self, text: str) -> int:
        """Tokens of a prompt, [BOS] included."""
        ...

    def stream(
        self, prompt: str, config: OllamaConfig, n_predict: int, seed: int | None = None
    ) -> Generator[str, None, Finish]:
        """The continuation of `prompt`, piece by piece, at most `n_predict` tokens; then, as the generator's value, how it ended.

        Closing the generator ends the generation. Without a seed, the engine picks one.

        Raises:
            ConnectionError: the engine refused, or broke off.
        """
        ...

    def until(self, hangup: Hangup) -> "Engine":
        """The same engine; what it is asked through this ends, with ConnectionError, as soon as somebody hangs up, also while it reads the prompt."""
        ...

    def check(self) -> None:
        """Raises ConnectionError if it can answer nobody."""
        ...

    def close(self) -> None: ...


class EmbeddedEngine:
    """llama.cpp in a process of its own, with the GGUF file itself. Should the process die, the next question starts another.

    Args:
        parallel: answers at a time, each with a context of its own.
    """

    def __init__(self, path: Path, num_ctx: int, parallel: int = 1) -> None:
        header = read_header(path)
        self.chat = header.chat
        self.n_ctx = min(num_ctx, header.context_length)
        # Bytes that could fit
        self._longest = max(
            20_000,
            self.n_ctx * max(map(len, header.keys.get("tokenizer.ggml.tokens", ())), default=128),
        )
        self.name, self.model = "llama.cpp", path.stem
        self.description = f"embedded llama.cpp, {path}"
        self._runtime = _Restarting(lambda: Llama(path, self.n_ctx, parallel=parallel))
        self._hangup = Hangup()

    @property
    def _llama(self) -> Llama:
        return self._runtime.llama().until(self._hangup)

    def until(self, hangup: Hangup) -> Self:
        copied = copy.copy(self)
        copied._hangup = hangup
        return copied

    def check(self) -> None:
        self._runtime.llama()

    def count(self, text: str) -> int:
        """Exact for whatever could fit. More is counted in pieces: each thread of llama.cpp keeps the memory of a text, 60 MB for one of 1 MB."""
        llama = self._llama
        pieces = range(0, max(len(text), 1), self._longest)
        return (
            sum(len(llama.tokenize(text[i : i + self._longest], special=True)) for i in pieces) + 1
        )

    def stream(
        self, prompt: str, config: OllamaConfig, n_predict: int, seed: int | None = None
    ) -> Generator[str, None, Finish]:
        stops = StopTexts(config.stop)
        body = {"prompt": prompt, "n_predict": n_predict, **_sampling(config, seed)}
        # Each event has the speed so far, which is the answer's if a stop text ends it there
        body["timings_per_token"] = True
        for event in self._llama.stream("/completion", body):
            if shown := stops.take(event["content"], last=event["stop"]):
                yield shown
            if stops.found or event["stop"]:
                limited = not stops.found and event["stop_type"] == "limit"
                counts = event["tokens_evaluated"], event["tokens_predicted"]
                speed = event["timings"]["predicted_per_second"]
                return Finish("length" if limited else "stop", *counts, speed)
        if rest := stops.take("", last=True):
            yield rest
        raise ConnectionError("llama.cpp broke off the answer: ask again")

    def close(self) -> None:
        self._runtime.close()


class _Restarting:
    """llama.cpp, and another one when it has died: an assertion in ggml should cost the answers under way and no more."""

    def __init__(self, start: Callable[[], Llama]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._llama = start()
        self._closed = False
        self._failure, self._failed_at = "", 0.0

    def llama(self) -> Llama:
        """Raises ConnectionError if it died and does not start again."""
        with self._lock:
            if not self._closed and not self._llama.alive:
                self._restart()
            return self._llama

    def _restart(self) -> None:
        if not self._failure or time.monotonic() - self._failed_at > _PAUSE:
            self._llama.close()
            try:
                self._llama, self._failure = self._start(), ""
            except (OSError, ValueError) as error:
                self._failure, self._failed_at = (
                    f"llama.cpp died and does not start again: {error}",
                    time.monotonic(),
                )
        if self._failure:
            raise ConnectionError(self._failure)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._llama.close()


class OllamaEngine:
    """A running Ollama. The prompt goes through raw, so that both engines see the same text.

    Raises:
        ConnectionError: there is no Ollama at `url`.
        LookupError: it does not have the model.
        ValueError: what the model says of its chat is damaged.
    """

    def __init__(self, url: str, config: OllamaConfig) -> None:
        self._client = Client(f"Ollama at {url}", url)
        self._model = f"{config.name}:{TAG}"
        models = self._models()
        if self._model not in models:
            raise LookupError(f"Ollama at {url} has no model {self._model}")
        self.digest = models[self._model]  # the sha256 of its manifest; empty if Ollama is silent
        self.name, self.model = "Ollama", config.name
        self.description = f"Ollama at {url}, model {self._model}"
        info: dict[str, Any] = (
            self._client.post("/api/show", {"model": self._model, "verbose": True}, _TIMEOUT).get(
                "model_info"
            )
            or {}
        )
        architecture = info.get("general.architecture", "")
        self.n_ctx = min(
            config.num_ctx, int(info.get(f"{architecture}.context_length", config.num_ctx))
        )
        self.chat = chat_facts(info)
        self._counter = functools.cache(lambda: _counter(info))

    def _models(self) -> dict[str, str]:
        """The digests of all models by their names."""
        try:
            models = self._client.get("/api/tags", _LOOK)["models"] or []
            digests = {model["name"]: model.get("digest", "") for model in models}
            return {name: str(digest).removeprefix("sha256:") for name, digest in digests.items()}
        except (OSError, KeyError, TypeError, AttributeError):
            raise ConnectionError(f"no Ollama answers at {self._client.url}") from None

    def until(self, hangup: Hangup) -> Self:
        copied = copy.copy(self)
        copied._client = self._client.until(hangup)
        return copied

    def check(self) -> None:
        if self._model not in self._models():
            raise ConnectionError(f"{self._client.name} has no model {self._model} any more")

    def count(self, text: str) -> int:
        return self._counter()(text) + 1

    def stream(
        self, prompt: str, config: OllamaConfig, n_predict: int, seed: int | None = None
    ) -> Generator[str, None, Finish]:
        options = {"num_ctx": self.n_ctx, "num_predict": n_predict, **_sampling(config, seed)}
        # Without a list of its own a request has the stop texts of the Modelfile
        options["stop"] = []
        body = {
            "model": self._model,
            "prompt": prompt,
            "raw": True,
            "stream": True,
            "shift": False,
            "truncate": False,
            "options": options,
        }
        stops, pieces, began = StopTexts(config.stop), list[str](), 0.0
        for line in self._client.lines("/api/generate", body, _TIMEOUT):
            began = began or time.monotonic()
            try:
                event = json.loads(line)
            except ValueError:
                break
            if "error" in event:
                raise ConnectionError(
                    f"{self._client.name} stopped: {' '.join(str(event['error']).split())}"
                )
            pieces.append(event.get("response", ""))
            done = event.get("done", False)
            if shown := stops.take(pieces[-1], last=done):
                yield shown
            if done:
                limited = not stops.found and event.get("done_reason") == "length"
                counts = event.get("prompt_eval_count", 0), event.get("eval_count", 0)
                nanoseconds = event.get("eval_duration", 0)
                speed = counts[1] * 1e9 / nanoseconds if nanoseconds else 0.0
                return Finish("length" if limited else "stop", *counts, speed)
            if stops.found:
                return self._finish(prompt, pieces, time.monotonic() - began)
        if rest := stops.take("", last=True):
            yield rest
        # Ollama ends a stream like this after 30 equal tokens in a row, and (0.30 and later) where
        # the model writes half a character
        raise ConnectionError(
            f"{self._client.name} broke off the answer, as it does at endless repetition and broken characters: ask otherwise"
        )

    def _finish(self, prompt: str, pieces: Sequence[str], seconds: float) -> Finish:
        """Of an answer that a stop text ended. Ollama counts at its own end, not awaited."""
        # A piece is one token, or the several that a character beyond ASCII can take
        count = sum(1 if piece.isascii() else self.count(piece) - 1 for piece in pieces if piece)
        return Finish("stop", self.count(prompt), count, (count - 1) / seconds if seconds else 0.0)

    def close(self) -> None: ...


class StopTexts:
    """Finds stop texts in an answer that comes in pieces; holds back only what may become one.

    Not left to the engines: llama.cpp, asked to stream, drops what it held back if the answer ends
    by its length (ggml-org/llama.cpp#9867, again in 2026). Ollama from 0.30 on runs its server.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.found = False
        self._texts, self._held = texts, ""

    def take(self, piece: str, last: bool) -> str:
        """What can be shown after this piece: once a stop text is `found`, all that is before it.

        Args:
            last: the answer ends here, so what was held back is no stop text.
        """
        text = self._held + piece
        if starts := [text.index(stop) for stop in self._texts if stop in text]:
            self.found = True
            return text[: min(starts)]
        begun = (n for stop in self._texts for n in range(1, len(stop)) if text.endswith(stop[:n]))
        shown = len(text) - (0 if last else max(begun, default=0))
        self._held = text[shown:]
        return text[:shown]


def _counter(info: Mapping[str, Any]) -> Callable[[str], int]:
    """Counts tokens without [BOS]: Ollama has no route that does, but tells the vocabulary."""
    texts, merges = info.get("tokenizer.ggml.tokens"), info.get("tokenizer.ggml.merges")
    if not texts or not merges:
        # A byte-level token is at least a byte: too many rather than too few
        return lambda text: len(text.encode())
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    ids = {text: i for i, text in enumerate(texts)}
    bpe = models.BPE(ids, [tuple(merge.split(" ", 1)) for merge in merges])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [AddedToken(text, normalized=False) for text in SPECIAL if text in ids]
    tokenizer.add_special_tokens(special)
    return lambda text: len(tokenizer.encode(text).ids)


def choose(
    choice: Choice,
    config: OllamaConfig,
    model: Callable[[], Path],
    say: Callable[[str], None],
    store: Path = STORE,
    environ: Mapping[str, str] = os.environ,
) -> Engine:
    """The engine asked for. `auto`: an Ollama that `running_ollama` accepts, else llama.cpp.

    Args:
        model: finds the GGUF file, if it is needed.

    Raises:
        OSError, ValueError: the engine asked for is not to be had.
    """
    if choice != "embedded":
        try:
            return running_ollama(config, say, store, environ, named=choice == "ollama")
        except (ConnectionError, LookupError) as error:
            if choice == "ollama":
                create = f"run `ollama create {config.name} -f {store.parent}/Modelfile`"
                fix = create if isinstance(error, LookupError) else "start it"
                raise ConnectionError(f"{error}: {fix}, or use `--engine embedded`") from None
            say(f"{error}: using the embedded llama.cpp")
    return EmbeddedEngine(model(), config.num_ctx)


def running_ollama(
    config: OllamaConfig,
    say: Callable[[str], None],
    store: Path = STORE,
    environ: Mapping[str, str] = os.environ,
    *,
    named: bool,
) -> OllamaEngine:
    """A running Ollama whose model is the one in `store`. `chat` and `serve` use no other.

    Args:
        named: Ollama was asked for by name. Then one is used also where there is no store to
            compare it with, and `say` is told.

    Raises:
        ConnectionError: none answers.
        LookupError: its model is missing, or another one, or cannot be compared.
    """
    url, manifest = ollama_url(environ.get("OLLAMA_HOST", "")), manifest_path(store, config.name)
    engine = OllamaEngine(url, config)
    model = f"{config.name}:{TAG}"
    if manifest.is_file():
        if engine.digest != files.sha256(manifest):
            raise LookupError(f"Ollama at {url} has another {model} than {store}")
        return engine
    unknown = f"{store} has no {model}, so that of Ollama at {url} cannot be compared"
    if not named:
        raise LookupError(unknown)
    say(unknown)
    return engine


def ollama_url(host: str) -> str:
    """What OLLAMA_HOST means, by the rules of Ollama's envconfig: no scheme is http at port 11434, a scheme alone brings its own port."""
    scheme, separator, rest = host.strip().strip("\"'").rpartition("://")
    scheme = scheme if separator else "http"
    default = {"http": 80, "https": 443}.get(scheme, OLLAMA_PORT) if separator else OLLAMA_PORT
    parts = urlsplit(f"//{rest}")
    try:
        port = parts.port or default
    except ValueError:
        port = default
    name = parts.hostname or "127.0.0.1"
    # Where a server listens is not where one calls it
    name = "127.0.0.1" if name == "0.0.0.0" else "::1" if name == "::" else name
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}"


def _sampling(config: OllamaConfig, seed: int | None) -> dict[str, Any]:
    """Every option that the two runtimes have different defaults for, said outright."""
    given = {} if seed is None else {"seed": seed}
    return given | {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "min_p": 0.0,
        "repeat_penalty": config.repeat_penalty,
        "repeat_last_n": 64,
    }
