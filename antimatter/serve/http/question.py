"""What a client asks for, whichever API it speaks: messages, and how to answer them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from antimatter.chat.template import Message, Role
from antimatter.errors import UserError
from antimatter.export.ollama import TAG, OllamaConfig
from antimatter.serve.backend import Generation
from antimatter.serve.http import values
from antimatter.serve.http.errors import APIError

MAX_MESSAGES, MAX_STOPS, MAX_STOP_LENGTH = 1000, 16, 256
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    # OpenAI's newer name of it
    "developer": "system",
}
# Keys of a message that change nothing if they are empty, which is how clients send an answer back
_MESSAGE_KEYS = {
    *("annotations", "audio", "function_call", "images", "reasoning_content", "refusal"),
    *("thinking", "tool_call_id", "tool_calls", "tool_name"),
}
SAMPLING = {
    *("temperature", "top_p", "top_k", "min_p", "typical_p"),
    *("repeat_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty"),
}
# Outside of these, llama.cpp's float32 overflows, or a probability is none; the penalties are
# OpenAI's
_INTERVALS = {
    "repeat_penalty": (0.01, 100),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


@dataclass(frozen=True, kw_only=True)
class Question:
    prompts: list[list[Message]]
    # How a prompt becomes text: with the roles of a chat model; as a text to continue; unchanged,
    # so that role tokens in it are role tokens
    style: Literal["chat", "continued", "raw"]
    generation: Generation
    choices: int = 1  # answers to each prompt
    stream: bool
    n_ctx: int | None = None  # tokens of prompt and answer; None: those of the model

    def seed(self, choice: int) -> int | None:
        """Of the answer `choice` to a prompt: the seed that is so much higher."""
        seed = self.generation.seed
        return None if seed is None else _runtime_seed(seed + choice)


def is_served(model: str, defaults: OllamaConfig) -> bool:
    return model in (defaults.name, f"{defaults.name}:{TAG}")


def messages(value: Any, may_be_empty: Collection[Role]) -> list[Message]:
    """A conversation of at least one message.

    Args:
        may_be_empty: the roles whose messages need no content.

    Raises:
        APIError: it is none.
    """
    if not isinstance(value, list) or not value:
        raise values.wrong("messages", "be a list with at least one message", value)
    if len(value) > MAX_MESSAGES:
        must = f"messages must be at most {MAX_MESSAGES}, got {len(value)}"
        raise APIError(400, must, param="messages")
    return [_message(some, f"messages[{i}]", may_be_empty) for i, some in enumerate(value)]


def _message(value: Any, name: str, may_be_empty: Collection[Role]) -> Message:
    if not isinstance(value, dict):
        raise values.wrong(name, 'be an object like {"role": "user", "content": "text"}', value)
    given, content = value.get("role"), value.get("content")
    if given in ("tool", "function"):
        problem = "is not supported: this model calls no tools"
        raise APIError(400, f'{name}.role "{given}" {problem}', param=f"{name}.role")
    if not isinstance(given, str) or given not in _ROLES:
        raise values.wrong(f"{name}.role", f"be {', '.join(_ROLES)}", given)
    role = _ROLES[given]
    for key in value.keys() - {"role", "content"}:
        _check_message_key(value[key], key, name)
    # The model cannot see who of several users speaks
    if value.get("name") is not None:
        values.text(value["name"], f"{name}.name")
    if content is None and role in may_be_empty:
        return Message(role, "")
    if isinstance(content, list):
        return Message(role, _joined(content, f"{name}.content"))
    return Message(role, values.text(content, f"{name}.content"))


def _check_message_key(value: Any, key: str, name: str) -> None:
    if value is None or key == "name" or (key in _MESSAGE_KEYS and value in ("", [])):
        return
    param = f"{name}.{key}"[:80]
    if key in _MESSAGE_KEYS:
        raise values.unsupported(param, value)
    message = f"{name} has the unknown key {values.shown(key)}: leave it out"
    raise APIError(400, message, param=param)


def _joined(parts: list[Any], name: str) -> str:
    """The texts of a content in parts."""
    if not parts:
        raise values.wrong(name, "be a text or a list of text parts", parts)
    texts = []
    for i, part in enumerate(parts):
        where = f"{name}[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise values.wrong(where, 'be an object like {"type": "text", "text": "…"}', part)
        if kind != "text":
            problem = f"{where}.type {values.shown(kind)} is not supported: this model reads text"
            raise APIError(400, problem, param=where)
        texts.append(values.text(part.get("text"), f"{where}.text"))
    return "".join(texts)


def generation(
    given: Mapping[str, Any], defaults: OllamaConfig, max_tokens: int | None, prefix: str = ""
) -> Generation:
    """The options of SAMPLING, `seed` and `stop`, with the defaults where there is none.

    Args:
        max_tokens: as from `length`; None is the default.
        prefix: of the keys in messages.
    """
    config: dict[str, Any] = {
        key: values.number(given[key], prefix + key)
        for key in ("temperature", "top_p")
        if key in given
    }
    changes: dict[str, Any] = {
        key: values.number(given[key], prefix + key, *interval)
        for key, interval in _INTERVALS.items()
        if key in given
    }
    try:
        chosen = replace(defaults, **config)
    except UserError as error:
        name = f"{prefix}{str(error).split()[0]}"
        raise APIError(400, f"{prefix}{error}"[:300], param=name[:60]) from None
    if "top_k" in given:
        # 0 and, for vLLM, -1 mean all tokens
        top_k = values.integer(given["top_k"], f"{prefix}top_k", -1, values.INT32_MAX)
        changes["top_k"] = max(top_k, 0)
    if "repeat_last_n" in given:
        name = f"{prefix}repeat_last_n"
        changes["repeat_last_n"] = values.integer(given["repeat_last_n"], name, -1, 2**31 - 1)
    if max_tokens is not None:
        changes["max_tokens"] = max_tokens
    # Any integer of 64 bits, as with OpenAI
    if (seed := given.get("seed")) is not None:
        seed = _runtime_seed(values.integer(seed, f"{prefix}seed", -(2**63), 2**63 - 1))
    stop = (*defaults.stop, *_stops(given.get("stop", []), f"{prefix}stop"))
    return replace(Generation.of(chosen, seed), stop=stop, **changes)


def length(value: Any, name: str, unlimited: tuple[int, ...] = (-1,)) -> int:
    """A maximum of tokens. Those of `unlimited` mean as many as fit."""
    if value in unlimited and not isinstance(value, bool | float):
        return values.INT32_MAX
    return values.integer(value, name, 1, values.INT32_MAX)


def _stops(value: Any, name: str) -> list[str]:
    """The texts that end an answer. An empty one ends none."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise values.wrong(name, "be a text or a list of texts", value)
    if len(texts) > MAX_STOPS:
        problem = f"{name} must be at most {MAX_STOPS} texts, got {len(texts)}"
        raise APIError(400, problem, param=name)
    for i, text in enumerate(texts):
        if len(values.text(text, f"{name}[{i}]")) > MAX_STOP_LENGTH:
            problem = f"must have at most {MAX_STOP_LENGTH} characters, got {len(text)}"
            raise APIError(400, f"{name}[{i}] {problem}", param=name)
    return [text for text in texts if text]


def _runtime_seed(seed: int) -> int:
    """The runtimes take 32 bits, and the last of those values means a random seed."""
    return seed % (2**32 - 1)
