"""The backend that is a running Ollama, if its model is ours.

It connects to no other host than this one, unless OLLAMA_HOST names another.
"""

import asyncio
import functools
import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from antimatter import files
from antimatter.data.special_tokens import SPECIAL
from antimatter.errors import UserError
from antimatter.export.ollama import TAG, OllamaConfig, manifest_path
from antimatter.llama.client import BackendError, Client
from antimatter.llama.header import chat_facts
from antimatter.serve.backend import Finish, Generation, ModelFile
from antimatter.serve.stop_texts import StopTexts

STORE = Path("models/ollama/models")  # of stage ollama
PORT = 11434
T = TypeVar("T")
_PROBE_SECONDS = 2.0  # an Ollama on this machine answers at once, or is not there
_TIMEOUT = 600.0  # seconds between two pieces of an answer: a cold 300M model may load first


class WrongModelError(BackendError):
    """The running Ollama does not have the model of the store, or it cannot be compared."""


class OllamaBackend:
    """A running Ollama. It gets the prompt as raw text, so both backends see the same.

    Raises:
        WrongModelError: it does not have the model.
        BackendError: there is no Ollama at `url`, or it answers in another form than Ollama does.
        UserError: the keys of the model that describe its chat are damaged.
    """

    def __init__(self, url: str, config: OllamaConfig) -> None:
        self._client = Client(f"Ollama at {url}", url)
        self._model = f"{config.name}:{TAG}"
        try:
            digests = self._digests(self._client.call("/api/tags", timeout=_PROBE_SECONDS))
        except BackendError:
            raise BackendError(f"no Ollama answers at {url}") from None
        if self._model not in digests:
            raise WrongModelError(f"Ollama at {url} has no model {self._model}")
        self.digest = digests[self._model]  # the sha256 of its manifest; "" if Ollama has none
        self.description = f"Ollama at {url}, model {self._model}"
        body = {"model": self._model, "verbose": True}
        answer = self._client.call("/api/show", body, timeout=_TIMEOUT)
        info = self._value(answer, "model_info", dict[str, Any]())
        key = f"{info.get('general.architecture', '')}.context_length"
        self.n_ctx = min(config.num_ctx, self._value(info, key, config.num_ctx))
        self.chat = chat_facts(info)
        self._counter = functools.cache(lambda: _token_counter(info))
        self._info = info

    async def count(self, text: str) -> int:
        # In a thread: a text of 1 MB takes a second
        return await asyncio.to_thread(lambda: self._counter()(text) + 1)

    async def stream(
        self, prompt: str, generation: Generation
    ) -> AsyncGenerator[str | Finish, None]:
        options = generation.sampling() | {
            "num_ctx": self.n_ctx,
            "num_predict": generation.max_tokens,
            # Without this, the stop texts of the Modelfile would apply
            "stop": [],
        }
        body = {
            "model": self._model,
            "prompt": prompt,
            "raw": True,
            "stream": True,
            "shift": False,
            "truncate": False,
            "options": options,
        }
        stops, finish = StopTexts(generation.stop), None
        pieces, began = list[str](), 0.0
        lines = self._client.lines("/api/generate", body, _TIMEOUT)
        async with aclosing(lines):
            async for line in lines:
                began = began or time.monotonic()
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    break
                if isinstance(event, dict) and "error" in event:
                    message = " ".join(str(event["error"]).split())
                    raise BackendError(f"{self._client.name} stopped: {message}")
                is_done = self._value(event, "done", False)
                pieces.append(self._value(event, "response", ""))
                if shown := stops.take(pieces[-1], last=is_done):
                    yield shown
                if is_done:
                    finish = self._finish(event, stops.is_found)
                    break
                if stops.is_found:
                    # Ollama sends its counts only at its own end
                    finish = await self._count_finish(prompt, pieces, time.monotonic() - began)
                    break
        if finish:
            yield finish
            return
        if rest := stops.take("", last=True):
            yield rest
        # Ollama ends a stream like this after 30 equal tokens in a row and, from 0.30 on, where the
        # model generates an incomplete character
        raise BackendError(
            f"{self._client.name} broke off the answer, as it does at endless repetition and "
            "broken characters: ask in another way"
        )

    async def check(self) -> None:
        answer = await self._client.request("/api/tags", timeout=_PROBE_SECONDS)
        if self._model not in self._digests(answer):
            raise self._model_is_gone()

    async def file(self) -> ModelFile:
        answer = await self._client.request("/api/tags", timeout=_PROBE_SECONDS)
        digest = self._digests(answer).get(self._model)
        if digest is None:
            raise self._model_is_gone()
        entry = next(model for model in answer["models"] if model["name"] == self._model)
        return ModelFile(
            self._value(entry, "size", 0),
            digest,
            self._value(entry, "modified_at", ""),
            self._info,
            self._value(self._info, "general.parameter_count", 0),
        )

    def close(self) -> None: ...

    def _model_is_gone(self) -> BackendError:
        return BackendError(f"{self._client.name} has no model {self._model} any more")

    def _digests(self, answer: Any) -> dict[str, str]:
        """The sha256 of the manifest of each model, from the answer to /api/tags."""
        try:
            # null if there is none
            models = answer["models"] or []
            digests = {model["name"]: str(model.get("digest", "")) for model in models}
        except (KeyError, TypeError, AttributeError):
            raise self._not_ollama("models", answer) from None
        return {name: digest.removeprefix("sha256:") for name, digest in digests.items()}

    def _value(self, answer: Any, key: str, default: T) -> T:
        """A value of an answer; one of another type than `default` is a BackendError."""
        value = answer.get(key, default) if isinstance(answer, dict) else None
        is_valid = type(value) is type(default)
        # All numbers that are read here are counts of 64 bits
        if not is_valid or (isinstance(value, int) and not 0 <= value < 1 << 63):
            raise self._not_ollama(key, answer)
        return cast(T, value)

    def _not_ollama(self, key: str, answer: Any) -> BackendError:
        wrong = answer.get(key) if isinstance(answer, dict) else answer
        return BackendError(
            f"{self._client.name} does not answer as Ollama does ({key}: {wrong!r:.60}): "
            "is another program listening there?"
        )

    def _finish(self, event: Mapping[str, Any], is_stopped: bool) -> Finish:
        """Of the last event of an answer."""
        is_cut = not is_stopped and event.get("done_reason") == "length"
        prompt_tokens = self._value(event, "prompt_eval_count", 0)
        count = self._value(event, "eval_count", 0)
        nanoseconds = self._value(event, "eval_duration", 0)
        speed = count * 1e9 / nanoseconds if nanoseconds else 0.0
        prompt_seconds = self._value(event, "prompt_eval_duration", 0) / 1e9
        reason: Literal["stop", "length"] = "length" if is_cut else "stop"
        return Finish(reason, prompt_tokens, count, speed, prompt_seconds)

    async def _count_finish(self, prompt: str, pieces: Sequence[str], seconds: float) -> Finish:
        """Of an answer that a stop text ended."""
        # A piece is one token, or the several that a character beyond ASCII can take
        count = 0
        for piece in filter(None, pieces):
            count += 1 if piece.isascii() else await self.count(piece) - 1
        speed = (count - 1) / seconds if seconds else 0.0
        return Finish("stop", await self.count(prompt), count, speed)


def running_ollama(
    config: OllamaConfig,
    log: Callable[[str], None],
    store: Path = STORE,
    environ: Mapping[str, str] = os.environ,
    *,
    named: bool,
) -> OllamaBackend:
    """A running Ollama that has the model of `store`. `chat` and `serve` use no other.

    Args:
        named: the user asked for Ollama. Then it is used even without a store to compare its model
            with, and `log` says so.

    Raises:
        WrongModelError: the model is missing, is another one, or cannot be compared.
        BackendError: no Ollama answers.
        UserError: OLLAMA_HOST is not an address.
    """
    url, manifest = ollama_url(environ.get("OLLAMA_HOST", "")), manifest_path(store, config.name)
    backend = OllamaBackend(url, config)
    model = f"{config.name}:{TAG}"
    if manifest.is_file():
        if backend.digest != files.sha256(manifest):
            raise WrongModelError(f"Ollama at {url} has another {model} than {store}")
        return backend
    unknown = f"{store} has no {model}, so that of Ollama at {url} cannot be compared"
    if not named:
        raise WrongModelError(unknown)
    log(unknown)
    return backend


def ollama_url(host: str) -> str:
    """The address in OLLAMA_HOST, by the rules of Ollama's envconfig: without a scheme it is http
    at port 11434; a scheme alone means its own port.

    Raises:
        UserError: it is not an address.
    """
    scheme, separator, rest = host.strip().strip("\"'").rpartition("://")
    scheme = scheme if separator else "http"
    default = {"http": 80, "https": 443}.get(scheme, PORT) if separator else PORT
    try:
        parts = urlsplit(f"//{rest}")
        is_valid = scheme in ("http", "https") and rest.isprintable() and " " not in rest
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UserError(f"OLLAMA_HOST must be an address such as 127.0.0.1:11434, got {host!r}")
    try:
        port = parts.port or default
    except ValueError:
        port = default
    # The address that a server listens on may not be one to connect to
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", None: "127.0.0.1"}.get(
        parts.hostname, parts.hostname
    )
    address = f"[{name}]" if name and ":" in name else name
    return f"{scheme}://{address}:{port}{parts.path.rstrip('/')}"


def _token_counter(info: Mapping[str, Any]) -> Callable[[str], int]:
    """Counts tokens without [BOS]. Ollama has no route for it, but returns the vocabulary."""
    texts, merges = info.get("tokenizer.ggml.tokens"), info.get("tokenizer.ggml.merges")
    if not texts or not merges:
        # A byte-level token has at least one byte, so this is never too few
        return lambda text: len(text.encode())
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    try:
        ids = {text: i for i, text in enumerate(texts)}
        pairs = [merge.split(" ", 1) for merge in merges]
        # tokenizers would panic, which no `except Exception` catches
        if not all(a in ids and b in ids and a + b in ids for a, b in pairs):
            raise ValueError("a merge of tokens that do not exist")
        bpe = models.BPE(ids, [(a, b) for a, b in pairs])
    except (AttributeError, TypeError, ValueError) as error:
        raise BackendError(
            f"the vocabulary that Ollama returned is damaged ({error!s:.100}): "
            "use `--engine embedded`"
        ) from None
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [AddedToken(text, normalized=False) for text in SPECIAL if text in ids]
    tokenizer.add_special_tokens(special)
    return lambda text: len(tokenizer.encode(text).ids)
