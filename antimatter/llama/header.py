"""Reads the header of a GGUF file: its keys and the shapes of its tensors.

This is the check before anything is built on a file or started from it. The parser is our own,
because gguf.GGUFReader takes seconds for a large vocabulary and does not return on some damaged
files (docs/decisions/0036-gguf-header.md).

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
# The value types, as struct names them
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Bytes of a value in F32 and F16. Quantized types count as a quarter, less than any of them needs
_BYTES = {0: 4, 1: 2}
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
# Far above any count or length in a real file. Without a limit a damaged file could ask for
# terabytes of memory
_MAX_COUNT, _MAX_LENGTH = 1 << 20, 1 << 24

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
    """How a chat begins, from the keys of a GGUF file; None for a base model, which continues text.

    The keys decide, not the chat template in the file, because Ollama does not return that.

    Args:
        keys: from the file itself, or from Ollama's /api/show.

    Raises:
        UserError: a key has a value of the wrong type.
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
    tensors: dict[str, tuple[int, ...]]  # shapes in ggml's order, the fastest axis first

    @property
    def architecture(self) -> str:
        return str(self.keys.get("general.architecture", "unknown"))

    @property
    def context_length(self) -> int:
        return int(self.keys[f"{self.architecture}.context_length"])

    @property
    def chat(self) -> ChatFacts | None:
        """None for a base model, which continues text."""
        return chat_facts(self.keys)

    @property
    def n_parameters(self) -> int:
        """Values in the file.

        More than the model's own count: the rewritten feed-forward networks are 6C wide, not 4C.
        """
        return sum(math.prod(shape) for shape in self.tensors.values())


def read_header(path: Path) -> Header:
    """The keys and tensor shapes of a GGUF file.

    Raises:
        UserError: the file is missing, is not a GGUF file, is damaged, or has no context length.
    """
    fix = "name another file, or run `dvc repro gguf` if it is of the pipeline"
    if not path.is_file():
        raise UserError(f"{path} is missing: {fix}")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            start = f"it does not begin with {MAGIC.decode()}"
            raise UserError(f"{path} is not a GGUF file: {start}; {fix}")
        try:
            header, size = _read(file)
            if path.stat().st_size < size:
                raise ValueError("its tensors are cut short")
        except ValueError as error:
            raise UserError(f"{path} is a damaged GGUF file ({error}): {fix}") from None
    key = f"{header.architecture}.context_length"
    if key not in header.keys:
        raise UserError(f"{path} is not a model: the key {key} is missing; {fix}")
    return header


def _read(file: BinaryIO) -> tuple[Header, int]:
    """The header, and the least number of bytes that the file must have.

    Raises:
        ValueError: the file is damaged; the message says how, without the name of the file.
    """
    version, n_tensors, n_keys = _unpack(file, "IQQ")
    if version != VERSION:
        raise ValueError(f"version {version}, not {VERSION}")
    keys = {}
    for _ in range(_bounded(n_keys, _MAX_COUNT)):
        name = _string(file)
        keys[name] = _value(file, _integer(file, "I"))
    tensors, data = {}, 0
    for _ in range(_bounded(n_tensors, _MAX_COUNT)):
        name = _string(file)
        n_dimensions = _bounded(_integer(file, "I"), _MAX_DIMENSIONS)
        tensors[name] = _unpack(file, f"{n_dimensions}Q")
        kind, offset = _unpack(file, "IQ")
        data = max(data, offset + int(math.prod(tensors[name]) * _BYTES.get(kind, 0.25)))
    _check(keys)
    alignment = keys.get("general.alignment", 32)
    start = math.ceil(file.tell() / alignment) * alignment
    return Header(keys, tensors), start + data


def _check(keys: dict[str, Any]) -> None:
    """Raises ValueError if a key that is read here or by callers has a value of the wrong type."""

    def require(key: str, is_valid: Callable[[Any], bool], kind: str) -> None:
        if key in keys and not is_valid(keys[key]):
            raise ValueError(f"{key} must be {kind}, got {keys[key]!r:.60}")

    require("general.architecture", lambda x: isinstance(x, str) and x.isprintable(), "a name")
    context_length = f"{keys.get('general.architecture')}.context_length"
    require(context_length, lambda x: _is_count(x) and x > 0, "a number of tokens")
    require("general.alignment", lambda x: _is_count(x) and x.bit_count() == 1, "a power of 2")
    require("general.file_type", _is_count, "a number")
    require("tokenizer.ggml.tokens", _is_texts, "a list of texts")
    chat_facts(keys)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _numbers(file, kind, 1)[0]
    kind, count = _unpack(file, "IQ")
    _bounded(count, _MAX_COUNT)
    return [_string(file) for _ in range(count)] if kind == _STRING else _numbers(file, kind, count)


def _numbers(file: BinaryIO, kind: int, count: int) -> list[Any]:
    if kind not in _CODES:
        raise ValueError(f"a value of type {kind}")
    return list(_unpack(file, f"{count}{_CODES[kind]}"))


def _string(file: BinaryIO) -> str:
    return _take(file, _bounded(_integer(file, "Q"), _MAX_LENGTH)).decode("utf-8")


def _integer(file: BinaryIO, code: str) -> int:
    return int(_unpack(file, code)[0])


def _unpack(file: BinaryIO, codes: str) -> tuple[Any, ...]:
    pattern = f"<{codes}"
    return struct.unpack(pattern, _take(file, struct.calcsize(pattern)))


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends inside the header")
    return data


def _bounded(count: int, most: int) -> int:
    if count > most:
        raise ValueError(f"a count of {count}")
    return count
