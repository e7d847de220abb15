"""What a GGUF file says about itself, read without numpy or torch: the check before anything is built on the file, or started from it.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from antimatter.errors import UserError

MAGIC = b"GGUF"
VERSION = 3
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
# Of a value in F32 and F16; quantised types are taken as a quarter, which is less than any of them
# needs
_BYTES = {0: 4, 1: 2}
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
# No count or length of ours comes near; a damaged file would otherwise ask for terabytes
_MOST = 1 << 28


# The keys of a model that was tuned to chat. A base model has none of them
CHAT_SYSTEM, CHAT_GREETING = "antimatter.chat.system", "antimatter.chat.greeting"
CHAT_STARTERS = "antimatter.chat.starters"  # texts, as JSON


@dataclass(frozen=True)
class ChatFacts:
    """How a chat with a model that was tuned to chat begins."""

    system: str  # the system text of its tuning, "" if there was none
    greeting: str  # to show before the first turn
    starters: tuple[str, ...]  # texts that a user might begin with


def chat_facts(keys: Mapping[str, Any]) -> ChatFacts | None:
    """What the keys of a GGUF file say of the chat, as the file or Ollama tells them; None if the
    model is a base model, which continues text.

    Not told by the template in the file: Ollama does not show it.

    Raises:
        ValueError: a key has a value of another kind.
    """
    if CHAT_STARTERS not in keys:
        return None
    texts = {key: keys.get(key, "") for key in (CHAT_SYSTEM, CHAT_GREETING)}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{key} must be a text, got {text!r:.60}")
    try:
        starters = json.loads(keys[CHAT_STARTERS])
    except (TypeError, ValueError, RecursionError):
        starters = None
    if not _is_texts(starters):
        shown = f"{keys[CHAT_STARTERS]!r:.60}"
        raise UserError(f"{CHAT_STARTERS} must be a list of texts in JSON, got {shown}")
    return ChatFacts(texts[CHAT_SYSTEM], texts[CHAT_GREETING], tuple(starters))


@dataclass(frozen=True)
class Header:
    keys: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]  # shapes as ggml orders them, the fastest axis first

    @property
    def architecture(self) -> str:
        return str(self.keys.get("general.architecture", "unknown"))

    @property
    def context_length(self) -> int:
        return int(self.keys[f"{self.architecture}.context_length"])

    @property
    def chat(self) -> ChatFacts | None:
        """None: a base model, which continues text."""
        return chat_facts(self.keys)

    @property
    def n_parameters(self) -> int:
        """Values in the file. Above the model's own count: the rewritten feed-forward networks are 6C wide, not 4C."""
        return sum(math.prod(shape) for shape in self.tensors.values())


def read_header(path: Path) -> Header:
    """The keys and tensor shapes of a GGUF file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a GGUF file, or it is cut short, or it tells no context length.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `dvc repro gguf` to make it, or `dvc pull` to fetch it"
        )
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise UserError(
                f"{path} is not a GGUF file: it does not begin with {MAGIC.decode()}; run `dvc repro gguf` to make it anew"
            )
        try:
            header, size = _read(file)
        except (struct.error, UnicodeDecodeError, ValueError, OverflowError, MemoryError) as error:
            raise UserError(
                f"{path} is a damaged GGUF file ({_one_line(error)}); run `dvc repro gguf` to make it anew"
            ) from None
    if path.stat().st_size < size:
        raise UserError(
            f"{path} is a damaged GGUF file (its tensors are cut short); run `dvc repro gguf` to make it anew"
        )
    if f"{header.architecture}.context_length" not in header.keys:
        raise UserError(
            f"{path} is not a model: the key {header.architecture}.context_length is missing; run `dvc repro gguf` to make it anew"
        )
    return header


def _read(file: BinaryIO) -> tuple[Header, int]:
    """The header, and the bytes that the file must have at least."""
    version, n_tensors, n_keys = _unpack(file, "<IQQ")
    if version != VERSION:
        raise UserError(f"version {version}, not {VERSION}")
    keys = {}
    for _ in range(_bounded(n_keys)):
        name = _string(file)
        keys[name] = _value(file, _unpack(file, "<I")[0])
    tensors, data = {}, 0
    for _ in range(_bounded(n_tensors)):
        name = _string(file)
        n_dimensions = _bounded(_unpack(file, "<I")[0], _MOST_DIMENSIONS)
        tensors[name] = _unpack(file, f"<{n_dimensions}Q")
        kind, offset = _unpack(file, "<IQ")
        data = max(data, offset + int(math.prod(tensors[name]) * _BYTES.get(kind, 0.25)))
    _check(keys)
    alignment = keys.get("general.alignment", 32)
    return Header(keys, tensors), -(-file.tell() // alignment) * alignment + data


def _check(keys: dict[str, Any]) -> None:
    """Raises ValueError if a key that is read here or by callers has a value of another kind."""

    def demand(key: str, good: Callable[[Any], bool], kind: str) -> None:
        if key in keys and not good(keys[key]):
            raise UserError(f"{key} must be {kind}, got {keys[key]!r:.60}")

    demand("general.architecture", lambda it: isinstance(it, str) and it.isprintable(), "a name")
    context_length = f"{keys.get('general.architecture')}.context_length"
    demand(context_length, lambda it: _is_count(it) and it > 0, "a number of tokens")
    demand("general.alignment", lambda it: _is_count(it) and it.bit_count() == 1, "a power of 2")
    demand("general.file_type", _is_count, "a number")
    demand("tokenizer.ggml.tokens", _is_texts, "a list of texts")
    chat_facts(keys)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _unpack(file, _pattern(kind))[0]
    item, count = _unpack(file, "<IQ")
    if item == _STRING:
        return [_string(file) for _ in range(_bounded(count))]
    pattern = _pattern(item)
    return [_unpack(file, pattern)[0] for _ in range(_bounded(count))]


def _pattern(kind: int) -> str:
    if kind not in _SCALARS:
        raise UserError(f"a value of type {kind}")
    return _SCALARS[kind]


def _string(file: BinaryIO) -> str:
    length = _bounded(_unpack(file, "<Q")[0])
    data = file.read(length)
    if len(data) < length:
        raise UserError("it ends inside a text")
    return data.decode("utf-8")


def _unpack(file: BinaryIO, pattern: str) -> tuple[Any, ...]:
    return struct.unpack(pattern, file.read(struct.calcsize(pattern)))


def _bounded(count: int, most: int = _MOST) -> int:
    if count > most:
        raise UserError(f"a count of {count}")
    return int(count)


def _one_line(error: Exception) -> str:
    return (
        "it ends inside the header"
        if isinstance(error, struct.error)
        else " ".join(str(error).split())
    )
