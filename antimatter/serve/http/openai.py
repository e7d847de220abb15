"""OpenAI's API: chat completions, completions, and the list of models.

The keys of OpenAI are known here, those of sampling that llama.cpp's server has besides, and those
that change nothing in an answer. For values of keys that would, and are not implemented, see
antimatter/serve/http/values.py.
"""

import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from antimatter.chat.template import Message
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts
from antimatter.serve.backend import Finish
from antimatter.serve.http import question, values
from antimatter.serve.http.answers import Event, Part, Queued, Started
from antimatter.serve.http.errors import APIError
from antimatter.serve.http.question import SAMPLING, Question

MAX_CHOICES = 128  # OpenAI's
_LENGTHS = ("max_tokens", "max_completion_tokens")
_OPTIONS = {
    *("best_of", "model", "n", "seed", "stop", "stream", "stream_options"),
    *_LENGTHS,
    *SAMPLING,
}
_IGNORED = {
    *("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    *("service_tier", "store", "user"),
}
_FIXED: dict[str, list[Any]] = {
    "echo": [False],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "modalities": [["text"]],
    "parallel_tool_calls": [True, False],
    "reasoning_effort": ["none"],
    "response_format": [{"type": "text"}],
    "suffix": [""],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "top_logprobs": [0],
    "verbosity": ["medium"],
}


def parse_chat(body: bytes, defaults: OllamaConfig) -> "tuple[Question, Reply]":
    """Raises APIError."""
    given = _read(body, "messages", "prompt", defaults)
    conversation = question.messages(given.get("messages"), {"assistant"})
    return _asked(given, [conversation], "chat", defaults)


def parse_completion(body: bytes, defaults: OllamaConfig) -> "tuple[Question, Reply]":
    """Raises APIError."""
    given = _read(body, "prompt", "messages", defaults)
    texts = _prompts(given.get("prompt"))
    return _asked(given, [[Message("user", text)] for text in texts], "continued", defaults)


def _read(body: bytes, content: str, other: str, defaults: OllamaConfig) -> dict[str, Any]:
    """The keys of a request for `content`, which may have no value for `other`."""
    fixed = _FIXED | {other: []}
    given = values.select(values.parse_object(body), {*_OPTIONS, content}, _IGNORED, fixed)
    check_model(values.text(given.get("model", defaults.name), "model"), defaults)
    _check_stream_options(given.get("stream_options", {}))
    return given


def _prompts(value: Any) -> list[str]:
    if not isinstance(value, list):
        return [values.text(value, "prompt", must="be a text or a list of texts")]
    if any(isinstance(item, int | list) for item in value):
        problem = "prompt must be a text or a list of texts: token ids are not supported"
        raise APIError(400, problem, param="prompt")
    if not 1 <= len(value) <= MAX_CHOICES:
        raise values.wrong("prompt", f"have 1 to {MAX_CHOICES} texts", value)
    return [values.text(text, f"prompt[{i}]") for i, text in enumerate(value)]


def _asked(
    given: Mapping[str, Any],
    prompts: list[list[Message]],
    style: Literal["chat", "continued"],
    defaults: OllamaConfig,
) -> "tuple[Question, Reply]":
    n = values.integer(given.get("n", 1), "n", 1, MAX_CHOICES)
    if n * len(prompts) > MAX_CHOICES:
        problem = f"n times the number of prompts must be at most {MAX_CHOICES}"
        raise APIError(400, f"{problem}, got {n} times {len(prompts)}", param="n")
    # OpenAI's default is n
    if values.integer(given.get("best_of", n), "best_of", 1, MAX_CHOICES) != n:
        raise values.unsupported("best_of", given["best_of"])
    asked = Question(
        prompts=prompts,
        style=style,
        generation=question.generation(given, defaults, _length(given)),
        choices=n,
        stream=values.boolean(given.get("stream", False), "stream"),
    )
    includes_usage = given.get("stream_options", {}).get("include_usage", False)
    return asked, Reply(style == "chat", defaults.name, len(prompts), n, includes_usage)


def _length(given: Mapping[str, Any]) -> int | None:
    """The two keys mean the same. LiteLLM's agents send both."""
    lengths = {key: question.length(given[key], key) for key in _LENGTHS if key in given}
    if len(set(lengths.values())) > 1:
        shown = " and ".join(f"{key} {values.shown(given[key])}" for key in lengths)
        raise APIError(400, f"{shown} differ: leave one out", param=_LENGTHS[0])
    return next(iter(lengths.values()), None)


def _check_stream_options(value: Any) -> None:
    known = {"include_usage", "include_obfuscation"}
    if not isinstance(value, dict) or not value.keys() <= known:
        raise values.wrong("stream_options", 'be like {"include_usage": true}', value)
    for key, option in value.items():
        if option is not None:
            values.boolean(option, f"stream_options.{key}")


def check_model(model: str, defaults: OllamaConfig) -> None:
    """Raises APIError if it is not the one that is served."""
    if not question.is_served(model, defaults):
        problem = f"does not exist: this server has {defaults.name}"
        message = f"the model {values.shown(model)} {problem}"
        raise APIError(404, message, param="model", code="model_not_found")


class Reply:
    """Builds the JSON of the answers to a question: of the whole, or of its chunks.

    Besides OpenAI's keys, `antimatter` has the speed, and how many messages did not fit.
    """

    content_type = "text/event-stream; charset=utf-8"

    def __init__(
        self, is_chat: bool, model: str, n_prompts: int, n: int, includes_usage: bool
    ) -> None:
        prefix = "chatcmpl" if is_chat else "cmpl"
        self._is_chat, self._includes_usage, self._n = is_chat, includes_usage, n
        self._head = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self._pieces: list[list[str]] = [[] for _ in range(n_prompts * n)]
        self._finishes: dict[int, Finish] = {}
        self._dropped_turns = 0

    def add(self, event: Event) -> None:
        """For whole()."""
        match event:
            case Started(dropped, _):
                self._dropped_turns = dropped
            case Part(choice, str(text)):
                self._pieces[choice].append(text)
            case Part(choice, Finish() as finish):
                self._finishes[choice] = finish

    def whole(self) -> dict[str, Any]:
        choices = []
        for i, pieces in enumerate(self._pieces):
            text = "".join(pieces)
            message = {"message": {"role": "assistant", "content": text}}
            content = message if self._is_chat else {"text": text}
            choices.append(_choice(i, content, self._finishes[i].reason))
        own = self._own([*self._finishes.values()])
        answer = self._object("chat.completion", choices)
        return answer | {"usage": self._usage(), "antimatter": own}

    def chunks(self, event: Event) -> Iterator[str]:
        """What a stream sends when this happens."""
        match event:
            case Queued(0):
                yield ": reading the prompt\n\n"
            case Queued(ahead):
                yield f": waiting, {ahead} before you\n\n"
            case Started(dropped, _):
                self._dropped_turns = dropped
                for choice in range(len(self._pieces)):
                    delta = {"role": "assistant", "content": ""}
                    yield self._chunk(choice, delta, "", {"dropped_turns": dropped})
            case Part(choice, str(text)):
                yield self._chunk(choice, {"content": text}, text)
            case Part(choice, Finish() as finish):
                self._finishes[choice] = finish
                yield self._chunk(choice, {}, "", self._own([finish]), finish.reason)
                if len(self._finishes) == len(self._pieces):
                    if self._includes_usage:
                        last = self._object("chat.completion.chunk", [])
                        yield _data(last | {"usage": self._usage()})
                    yield "data: [DONE]\n\n"

    def failure(self, error: APIError) -> str:
        """What a stream that has begun ends with."""
        return _data(error.openai())

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        text: str,
        own: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> str:
        content = {"delta": delta} if self._is_chat else {"text": text}
        chunk = self._object("chat.completion.chunk", [_choice(choice, content, reason)])
        if self._includes_usage:
            chunk["usage"] = None
        if own:
            chunk["antimatter"] = own
        return _data(chunk)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **self._head,
            "object": kind if self._is_chat else "text_completion",
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        """A prompt counts once, however many answers it has."""
        prompt = sum(self._finishes[i].prompt_tokens for i in range(0, len(self._pieces), self._n))
        completion = sum(finish.completion_tokens for finish in self._finishes.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def _own(self, finishes: Sequence[Finish]) -> dict[str, Any]:
        speed = sum(finish.tokens_per_second for finish in finishes) / len(finishes)
        return {
            "tokens_per_second": round(speed, 1) if math.isfinite(speed) else 0.0,
            "dropped_turns": self._dropped_turns,
        }


def model(
    defaults: OllamaConfig, description: str, n_ctx: int, chat: ChatFacts | None
) -> dict[str, Any]:
    """The one model. Besides OpenAI's keys: its engine, context and defaults; its kind, which is
    `chat` or `base`; and how a chat with it begins, empty for a base model.
    """
    facts = chat or ChatFacts("", "", ())
    return {
        "id": defaults.name,
        "object": "model",
        "created": 0,
        "owned_by": "antimatter",
        "engine": description,
        "context_length": n_ctx,
        "defaults": {
            "temperature": defaults.temperature,
            "top_p": defaults.top_p,
            "top_k": defaults.top_k,
            "repeat_penalty": defaults.repeat_penalty,
            "max_tokens": defaults.num_predict,
        },
        "kind": "base" if chat is None else "chat",
        "system": facts.system,
        "greeting": facts.greeting,
        "starters": list(facts.starters),
    }


def _choice(index: int, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": index, **content, "finish_reason": reason}


def _data(value: Any) -> str:
    return f"data: {values.dumps(value)}\n\n"
