"""The requests and responses of the HTTP API: OpenAI's chat completions and completions, with the
options that the backends implement.

Validation is strict, because a client whose option is silently ignored gets an answer that it did
not ask for. Unknown keys, wrong types, and values that would change the answer but are not
implemented are refused by name.
"""

import json
import math
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts
from antimatter.serve.backend import Finish, Generation

ROLES = ("system", "user", "assistant")
MAX_MESSAGES, MAX_STOPS, MAX_STOP_LENGTH = 1000, 16, 256
_NUMBERS = ("temperature", "top_p", "repeat_penalty")
_LENGTHS = ("max_tokens", "max_completion_tokens")
# Accepted, because they change nothing in the answer
_IGNORED = {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
# Options of OpenAI that are not implemented, with the values that ask for what is done anyway
_FIXED: dict[str, list[Any]] = {
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
_OPTIONS = {
    *("messages", "prompt", "model", "seed", "stop", "stream", "stream_options", "top_k"),
    *_NUMBERS,
    *_LENGTHS,
}
_SURROGATE = re.compile("[\ud800-\udfff]")


class APIError(Exception):
    """A response that is an error: its status, and a message of one line."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", **headers: str
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind}}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Request:
    is_chat: bool
    messages: list[Message]
    generation: Generation
    stream: bool


def parse(body: bytes, is_chat: bool, defaults: OllamaConfig) -> Request:
    """The body of a request: for a conversation (`is_chat`), or for one text to continue.

    Raises:
        UserError: one line that names the key and its value.
        LookupError: it asks for a model that is not served.
    """
    other = "prompt" if is_chat else "messages"
    values = {}
    for key, value in _parse_json(body).items():
        is_known = key in _OPTIONS or key in _IGNORED or key in _FIXED
        # Clients send null for an option that is not set
        if value is None and is_known:
            continue
        if not is_known or key == other:
            raise UserError(f"the key {_shown(key)} is not known here: leave it out")
        if key in _FIXED and not any(_is_same(value, fixed) for fixed in _FIXED[key]):
            raise UserError(f"{key} {_shown(value)} is not supported: leave it out")
        values[key] = value
    model = _text(values.get("model", defaults.name), "model")
    if model not in (defaults.name, f"{defaults.name}:latest"):
        served = f"this server has {defaults.name}"
        raise LookupError(f"the model {_shown(model)} does not exist: {served}")
    if is_chat:
        messages = _messages(values.get("messages"))
    else:
        messages = [Message("user", _text(values.get("prompt"), "prompt"))]
    _check_stream_options(values.get("stream_options", {}))
    stream = _boolean(values.get("stream", False), "stream")
    return Request(is_chat, messages, _generation(values, defaults), stream)


@dataclass
class Answer:
    """Builds the JSON of one answer: of the whole, or of its chunks."""

    is_chat: bool
    model: str
    id: str
    created: int  # seconds since 1970
    dropped_turns: int = 0  # messages that did not fit

    @classmethod
    def new(cls, is_chat: bool, model: str) -> Self:
        prefix = "chatcmpl" if is_chat else "cmpl"
        return cls(is_chat, model, f"{prefix}-{secrets.token_hex(12)}", int(time.time()))

    def whole(self, text: str, finish: Finish) -> dict[str, Any]:
        message = {"message": {"role": "assistant", "content": text}}
        return self._object("chat.completion", message if self.is_chat else {"text": text}, finish)

    def first_chunk(self) -> dict[str, Any]:
        chunk = self._chunk({"role": "assistant", "content": ""}, "")
        return chunk | {"antimatter": {"dropped_turns": self.dropped_turns}}

    def chunk(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text}, text)

    def last_chunk(self, finish: Finish) -> dict[str, Any]:
        return self._chunk({}, "", finish)

    def _chunk(
        self, delta: dict[str, Any], text: str, finish: Finish | None = None
    ) -> dict[str, Any]:
        content = {"delta": delta} if self.is_chat else {"text": text}
        return self._object("chat.completion.chunk", content, finish)

    def _object(self, kind: str, content: dict[str, Any], finish: Finish | None) -> dict[str, Any]:
        reason = finish.reason if finish else None
        value = {
            "id": self.id,
            "object": kind if self.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, **content, "finish_reason": reason}],
        }
        if finish:
            speed = finish.tokens_per_second
            value["usage"] = {
                "prompt_tokens": finish.prompt_tokens,
                "completion_tokens": finish.completion_tokens,
                "total_tokens": finish.prompt_tokens + finish.completion_tokens,
            }
            value["antimatter"] = {
                "tokens_per_second": round(speed, 1) if math.isfinite(speed) else 0.0,
                "dropped_turns": self.dropped_turns,
            }
        return value


def models(
    defaults: OllamaConfig, description: str, n_ctx: int, chat: ChatFacts | None
) -> dict[str, Any]:
    """The one model. Besides OpenAI's keys: its engine, context and defaults; its kind, which is
    `chat` or `base`; and how a chat with it begins, empty for a base model.
    """
    facts = chat or ChatFacts("", "", ())
    model = {
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
    return {"object": "list", "data": [model]}


def dumps(value: Any) -> str:
    """Compact JSON. Half of a surrogate pair, which UTF-8 cannot encode, becomes `?`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()


def _parse_json(body: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value:
                raise UserError(f"duplicate key {_shown(key)}")
            value[key] = item
        return value

    def whole(text: str) -> int:
        # int() refuses some more, with a hint for who writes Python
        if len(text) > 4000:
            raise UserError(f"{text[:40]}… is too large a number")
        return int(text)

    def finite(text: str) -> float:
        if not math.isfinite(float(text)):
            raise UserError(f"{text[:40]} is not a finite number")
        return float(text)

    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=whole,
            parse_float=finite,
            parse_constant=finite,
        )
    except UnicodeDecodeError as error:
        raise UserError(f"the body is not UTF-8, see byte {error.start}") from None
    except RecursionError:
        raise UserError("the body is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"the body must be a JSON object, got {_shown(value)}")
    return value


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise UserError(f"messages must be a list with at least one message, got {_shown(value)}")
    if len(value) > MAX_MESSAGES:
        raise UserError(f"messages must be at most {MAX_MESSAGES}, got {len(value)}")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(value)]


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        example = '{"role": "user", "content": "text"}'
        raise UserError(f"{name} must be an object like {example}, got {_shown(value)}")
    for key in value:
        # Clients send null for a field that is not set
        if key not in ("role", "content") and value[key] is not None:
            raise UserError(f"{name} has the unknown key {_shown(key)}: leave it out")
    if value.get("role") not in ROLES:
        raise UserError(f"{name}.role must be {', '.join(ROLES)}, got {_shown(value.get('role'))}")
    return Message(value["role"], _text(value.get("content"), f"{name}.content"))


def _generation(values: Mapping[str, Any], defaults: OllamaConfig) -> Generation:
    changes: dict[str, Any] = {key: _number(values[key], key) for key in _NUMBERS if key in values}
    if "top_k" in values:
        changes["top_k"] = _integer(values["top_k"], "top_k", 1, 2**31 - 1)
    lengths = [key for key in _LENGTHS if key in values]
    if len(lengths) > 1:
        raise UserError(f"{' and '.join(lengths)} mean the same: leave one out")
    for key in lengths:
        changes["num_predict"] = _integer(values[key], key, 1, 2**31 - 1)
    # Outside of this range llama.cpp's float32 overflows
    if not 0.01 <= changes.get("repeat_penalty", 1) <= 100:
        shown = _shown(values["repeat_penalty"])
        raise UserError(f"repeat_penalty must lie in [0.01, 100], got {shown}")
    try:
        config = replace(defaults, **changes)
    except UserError as error:
        message = str(error).replace("num_predict", lengths[0] if lengths else "max_tokens")
        raise UserError(message[:300]) from None
    stop = (*defaults.stop, *_stops(values.get("stop", [])))
    return replace(Generation.of(config, _seed(values.get("seed"))), stop=stop)


def _stops(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise UserError(f"stop must be a text or a list of texts, got {_shown(value)}")
    if len(texts) > MAX_STOPS:
        raise UserError(f"stop must be at most {MAX_STOPS} texts, got {len(texts)}")
    for i, text in enumerate(texts):
        if not 1 <= len(_text(text, f"stop[{i}]")) <= MAX_STOP_LENGTH:
            raise UserError(
                f"stop[{i}] must have 1 to {MAX_STOP_LENGTH} characters, got {len(text)}"
            )
    return texts


def _check_stream_options(value: Any) -> None:
    if not isinstance(value, dict) or not set(value) <= {"include_usage", "include_obfuscation"}:
        example = '{"include_usage": true}'
        raise UserError(f"stream_options must be like {example}, got {_shown(value)}")
    # The usage is always included
    for key in value:
        _boolean(value[key], f"stream_options.{key}")


def _seed(value: Any) -> int | None:
    """Any integer of 64 bits, as with OpenAI. The runtimes take 32 bits, and the last of those
    values means a random seed.
    """
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
    if match := _SURROGATE.search(value):
        raise UserError(f"{name} has half of a surrogate pair, \\u{ord(match[0]):04x}")
    return value


def _is_same(value: Any, fixed: Any) -> bool:
    return isinstance(value, bool) == isinstance(fixed, bool) and bool(value == fixed)


def _shown(value: Any) -> str:
    """A value of a request, short enough for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
