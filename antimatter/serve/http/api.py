"""What a request may say, and the shapes of the answers: OpenAI's chat completions and completions, as far as the model can do them.

Strict, since a key that is silently ignored is an answer that was not asked for: unknown keys, wrong types and values that would change the answer
and are not implemented are refused by name.
"""

import json
import math
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts
from antimatter.serve.backend import Finish

ROLES = ("system", "user", "assistant")
MOST_MESSAGES, MOST_STOPS, LONGEST_STOP = 1000, 16, 256
_NUMBERS = {"temperature": "temperature", "top_p": "top_p", "repeat_penalty": "repeat_penalty"}
_INTEGERS = {"top_k": "top_k", "max_tokens": "num_predict", "max_completion_tokens": "num_predict"}
# Change nothing in the answer
_IGNORED = {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
_FIXED: dict[str, list[Any]] = {  # OpenAI's, with the values that ask for what is done anyway
    "best_of": [1],
    "echo": [False],
    "frequency_penalty": [0],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "modalities": [["text"]],
    "n": [1],
    "parallel_tool_calls": [True, False],
    "presence_penalty": [0],
    "response_format": [{"type": "text"}],
    "suffix": [""],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "top_logprobs": [0],
}
_OWN = {
    "messages",
    "prompt",
    "model",
    "seed",
    "stop",
    "stream",
    "stream_options",
    *_NUMBERS,
    *_INTEGERS,
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Request:
    chat: bool
    messages: list[Message]
    config: OllamaConfig  # the defaults, and what the request changes
    seed: int | None
    stream: bool


def parse(body: bytes, chat: bool, defaults: OllamaConfig) -> Request:
    """The body of a request: for a conversation (`chat`), or for one text to continue.

    Raises:
        ValueError: one line that names the key and its value.
        LookupError: it asks for a model that is not served.
    """
    given = {
        key: value
        for key, value in _object(body).items()
        if value is not None or key not in _OWN | _IGNORED | set(_FIXED)
    }
    for key, value in given.items():
        if key not in _OWN | _IGNORED | set(_FIXED) or key == ("prompt" if chat else "messages"):
            raise UserError(f"the key {_shown(key)} is not known here: leave it out")
        if key in _FIXED and not any(_same(value, fixed) for fixed in _FIXED[key]):
            raise UserError(f"{key} {_shown(value)} is not supported: leave it out")
    if _text(given.get("model", defaults.name), "model") not in (
        defaults.name,
        f"{defaults.name}:latest",
    ):
        raise LookupError(
            f"the model {_shown(given['model'])} does not exist: this server has {defaults.name}"
        )
    messages = (
        _messages(given.get("messages"))
        if chat
        else [Message("user", _text(given.get("prompt"), "prompt"))]
    )
    _stream_options(given.get("stream_options", {}))
    return Request(
        chat,
        messages,
        _config(given, defaults),
        _seed(given.get("seed")),
        _boolean(given.get("stream", False), "stream"),
    )


@dataclass
class Answer:
    """The JSON of one answer."""

    chat: bool
    model: str
    id: str
    created: int  # seconds since 1970
    dropped: int = 0  # messages that no longer fitted

    @classmethod
    def begin(cls, asked: Request, model: str) -> "Answer":
        return cls(
            asked.chat,
            model,
            f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}",
            int(time.time()),
        )

    def whole(self, text: str, finish: Finish) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return self._object("chat.completion", said, finish)

    def first(self) -> dict[str, Any]:
        said: dict[str, Any] = (
            {"delta": {"role": "assistant", "content": ""}} if self.chat else {"text": ""}
        )
        return self._object("chat.completion.chunk", said) | {
            "antimatter": {"dropped_turns": self.dropped}
        }

    def piece(self, text: str) -> dict[str, Any]:
        return self._object(
            "chat.completion.chunk", {"delta": {"content": text}} if self.chat else {"text": text}
        )

    def last(self, finish: Finish) -> dict[str, Any]:
        return self._object(
            "chat.completion.chunk", {"delta": {}} if self.chat else {"text": ""}, finish
        )

    def _object(
        self, kind: str, said: dict[str, Any], finish: Finish | None = None
    ) -> dict[str, Any]:
        value = {
            "id": self.id,
            "object": kind if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, **said, "finish_reason": finish.reason if finish else None}],
        }
        if finish:
            counts = {
                "prompt_tokens": finish.prompt_tokens,
                "completion_tokens": finish.completion_tokens,
            }
            speed = (
                round(finish.tokens_per_second, 1)
                if math.isfinite(finish.tokens_per_second)
                else 0.0
            )
            value["usage"] = counts | {"total_tokens": sum(counts.values())}
            value["antimatter"] = {"tokens_per_second": speed, "dropped_turns": self.dropped}
        return value


def models(
    defaults: OllamaConfig,
    engine: str,
    n_ctx: int,
    chat: ChatFacts | None,
) -> dict[str, Any]:
    """The one model. Beside what OpenAI tells: its engine, context and defaults; its kind, which is
    `chat` or `base`; and how a chat with it begins, empty for a base model.
    """
    names = ("temperature", "top_p", "top_k", "repeat_penalty")
    values = {name: getattr(defaults, name) for name in names}
    facts = chat or ChatFacts("", "", ())
    model = {
        "id": defaults.name,
        "object": "model",
        "created": 0,
        "owned_by": "antimatter",
        "engine": engine,
        "context_length": n_ctx,
        "defaults": values | {"max_tokens": defaults.num_predict},
        "kind": "base" if chat is None else "chat",
        "system": facts.system,
        "greeting": facts.greeting,
        "starters": list(facts.starters),
    }
    return {"object": "list", "data": [model]}


def _object(body: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise UserError(f"the key {_shown(key)} stands twice")
            seen[key] = value
        return seen

    def finite(text: str) -> float:
        if not math.isfinite(float(text)):
            raise UserError(f"{text[:40]} is no number that can be computed with")
        return float(text)

    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=finite,
            parse_constant=finite,
        )
    except UnicodeDecodeError as error:
        raise UserError(f"the body is not UTF-8, see byte {error.start}") from None
    except RecursionError:
        raise UserError("the body is nested too deeply") from None
    except ValueError as error:  # also: more than 4,300 digits
        raise UserError(f"the body is not JSON that can be used: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"the body must be a JSON object, got {_shown(value)}")
    return value


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise UserError(f"messages must be a list with at least one message, got {_shown(value)}")
    if len(value) > MOST_MESSAGES:
        raise UserError(f"messages must be at most {MOST_MESSAGES}, got {len(value)}")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(value)]


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise UserError(
            f'{name} must be an object like {{"role": "user", "content": "text"}}, got {_shown(value)}'
        )
    for key in value:
        # Null is how a client's library sends what it has not
        if key not in ("role", "content") and value[key] is not None:
            raise UserError(
                f"{name} has the key {_shown(key)}, which is not known here: leave it out"
            )
    if value.get("role") not in ROLES:
        raise UserError(f"{name}.role must be {', '.join(ROLES)}, got {_shown(value.get('role'))}")
    return Message(value["role"], _text(value.get("content"), f"{name}.content"))


def _config(given: dict[str, Any], defaults: OllamaConfig) -> OllamaConfig:
    changes: dict[str, Any] = {
        _NUMBERS[key]: _number(given[key], key) for key in _NUMBERS if key in given
    }
    if (
        len(
            limits := [key for key in _INTEGERS if _INTEGERS[key] == "num_predict" and key in given]
        )
        > 1
    ):
        raise UserError(f"{' and '.join(limits)} mean the same: leave one out")
    changes |= {
        _INTEGERS[key]: _integer(given[key], key, 0, 2**31 - 1) for key in _INTEGERS if key in given
    }
    # Beyond, llama.cpp's float32 ends in infinity
    if not 0.01 <= changes.get("repeat_penalty", 1) <= 100:
        raise UserError(
            f"repeat_penalty must lie in [0.01, 100], got {_shown(given['repeat_penalty'])}"
        )
    try:
        config = replace(defaults, **changes)
    except ValueError as error:
        raise UserError(
            str(error).replace("num_predict", limits[0] if limits else "max_tokens")[:300]
        ) from None
    # Past the checks: line breaks and quotes, which a Modelfile cannot hold, are good in JSON
    object.__setattr__(config, "stop", (*defaults.stop, *_stops(given.get("stop", []))))
    return config


def _stops(value: Any) -> Sequence[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise UserError(f"stop must be a text or a list of texts, got {_shown(value)}")
    if len(texts) > MOST_STOPS:
        raise UserError(f"stop must be at most {MOST_STOPS} texts, got {len(texts)}")
    for i, text in enumerate(texts):
        if not 1 <= len(_text(text, f"stop[{i}]")) <= LONGEST_STOP:
            raise UserError(f"stop[{i}] must have 1 to {LONGEST_STOP} characters, got {len(text)}")
    return cast(list[str], texts)


def _stream_options(value: Any) -> None:
    if not isinstance(value, dict) or not set(value) <= {"include_usage", "include_obfuscation"}:
        raise UserError(
            f'stream_options must be like {{"include_usage": true}}, got {_shown(value)}'
        )
    for key in value:
        _boolean(value[key], f"stream_options.{key}")  # usage comes anyway


def _seed(value: Any) -> int | None:
    """Any integer of 64 bits, as with OpenAI. The runtimes take 32, of which the last stands for none."""
    return None if value is None else _integer(value, "seed", -(2**63), 2**63 - 1) % (2**32 - 1)


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name} must be an integer, got {_shown(value)}")
    if not least <= value <= most:
        raise UserError(f"{name} must lie in [{least}, {most}], got {_shown(value)}")
    return value


def _number(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{name} must be a number, got {_shown(value)}")
    return value


def _boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, got {_shown(value)}")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} must be a text, got {_shown(value)}")
    if found := _SURROGATE.search(value):
        raise UserError(f"{name} holds half a character, \\u{ord(found[0]):04x}")
    return value


def _same(value: Any, fixed: Any) -> bool:
    return isinstance(value, bool) == isinstance(fixed, bool) and bool(value == fixed)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
