"""Conversations in local files, in the shapes that people have.

A file is .jsonl or .json (one object a line, or one array of objects; each also .gz or .zst), or
.parquet. The keys of a row tell its shape; other keys are ignored:

    messages                [{role, content}, ...] as OpenAI has them
    conversations, items    [{from, value}, ...] as ShareGPT has them
    instruction, output     texts, perhaps with `input`, as Alpaca has them
    prompt, completion      texts or lists of messages, as TRL has them
    prompt, response        the same
    question, answer        the same

A text in `system` comes before any of them. What is no conversation is an error, never dropped.
"""

import io
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, TextIO

import pyarrow.parquet as pq

from antimatter.chat.config import ConversationFiles
from antimatter.chat.conversation import Conversation, problem
from antimatter.chat.template import Message, Role
from antimatter.data.sources import local, paths
from antimatter.errors import UserError

ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
}
# The first of them whose keys a row has is its shape
SHAPES = (
    ("messages",),
    ("conversations",),
    ("items",),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
OPTIONAL = ("input", "system")
TOOL_CALLS = ("tool_calls", "function_call")

_ENDING = re.compile(r"\.(?:jsonl?(?P<packing>\.gz|\.zst)?|(?P<parquet>parquet))$")
_SPACE = re.compile(r"\s*")
_CHUNK = 1 << 20  # characters of a JSON array that are read at a time
# Characters before the end of a chunk in which an error may come from the cut alone: as long as
# "\ud83d\ude00", the longest that JSON has in one piece, apart from a string
_CUT = 12


def read(config: ConversationFiles, key: str) -> Iterator[Conversation]:
    """The conversations of all files that a pattern names, in the order of their names. No file is
    held in memory.

    Args:
        key: where params.yaml names them, for errors.

    Raises:
        FileNotFoundError: the pattern matches no file.
        ValueError: a file of unknown ending, that cannot be read, or without a conversation; a row
            of unknown shape, or whose messages are no conversation.
    """
    for path in paths.required(config.pattern, key):
        found = False
        for unit, number, row in _rows(path, key):
            found = True
            try:
                said = messages(row)
            except ValueError as error:
                fix = "correct it, or take it out of the file"
                raise UserError(f"{path}, {unit} {number}: {error}: {fix}") from None
            yield Conversation(f"{path}:{number}", config.pattern, "open", said, config.licence)
        if not found:
            raise UserError(f"{path} holds no conversation: delete it, or take it out of {key}")


def messages(row: object) -> tuple[Message, ...]:
    """The messages of a row of any shape.

    Raises:
        ValueError: it is of no known shape, or no conversation; in words without the place.
    """
    if not isinstance(row, dict):
        raise UserError(f"{row!r:.60} is no object with keys")
    shape = _shape(row)
    if not shape:
        known = "; ".join(", ".join(names) for names in SHAPES)
        raise UserError(f"its keys are {', '.join(map(str, row)) or 'none'}; known are {known}")
    found: list[Message] = []
    if row.get("system"):
        found.append(Message("system", _text(row["system"], "`system`")))
    if len(shape) == 1:
        found += _listed(row[shape[0]], f"`{shape[0]}`")
    elif shape[0] == "instruction":
        asked, given = (_text(row.get(name), f"`{name}`") for name in ("instruction", "input"))
        found.append(Message("user", "\n\n".join(filter(None, (asked, given)))))
        found.append(Message("assistant", _text(row["output"], "`output`")))
    else:
        found += _side(row[shape[0]], "user", f"`{shape[0]}`")
        found += _side(row[shape[1]], "assistant", f"`{shape[1]}`")
    if fault := problem(found):
        raise UserError(fault)
    return tuple(found)


def _shape(keys: Collection[str]) -> tuple[str, ...]:
    """The shape of a row that has these keys; empty if they are of none."""
    return next((shape for shape in SHAPES if all(name in keys for name in shape)), ())


def _side(value: object, role: Role, name: str) -> list[Message]:
    """A prompt or its completion: a text, or a list of messages."""
    return _listed(value, name) if isinstance(value, list) else [Message(role, _text(value, name))]


def _listed(values: object, name: str) -> list[Message]:
    if not isinstance(values, list):
        raise UserError(f"{name} must be a list of messages, got {values!r:.60}")
    return [_message(value, f"message {number}") for number, value in enumerate(values, 1)]


def _message(value: object, where: str) -> Message:
    """A message of OpenAI or ShareGPT."""
    keys = value if isinstance(value, dict) else {}
    for call in TOOL_CALLS:
        if keys.get(call):
            raise UserError(f"{where} calls a tool (`{call}`), which no role here can do")
    for role_key, text_key in (("role", "content"), ("from", "value")):
        if role_key in keys and text_key in keys:
            role = ROLES.get(str(keys[role_key]).lower())
            if role is None:
                known = ", ".join(ROLES)
                raise UserError(f"{where} has the role {keys[role_key]!r:.60}; known are {known}")
            return Message(role, _text(keys[text_key], f"{where} ({role})"))
    raise UserError(f"{where} must have role and content, or from and value, got {value!r:.60}")


def _text(value: object, where: str) -> str:
    """A text, or the texts of a list of parts as OpenAI has them; no text is an empty one."""
    if isinstance(value, list):
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else part
            if kind != "text":
                raise UserError(f"{where} has a part that is no text: {kind!r:.60}")
        value = "\n".join(_text(part.get("text"), where) for part in value)
    if not isinstance(value, str | None):
        raise UserError(f"{where} must be text, got {value!r:.60}")
    return local.whole(local.plain(value or "")).strip()


# ---- files


def _rows(path: str, key: str) -> Iterator[tuple[str, int, Any]]:
    """The rows of a file, each with what its number counts (line or row) and the number, from 1."""
    ending = _ENDING.search(path)
    if not ending:
        known = ".jsonl, .json (each also .gz or .zst) and .parquet"
        raise UserError(f"{path} is of no known kind: {key} takes {known}")
    at = local.Position()
    with local.faults(path, key, at):
        if ending["parquet"]:
            table = pq.ParquetFile(paths.located(path))
            names = table.schema_arrow.names
            # Of an unknown shape all columns, for the error
            wanted = [*_shape(names), *OPTIONAL] if _shape(names) else names
            for batch in table.iter_batches(1000, columns=wanted):
                for row in batch.to_pylist():
                    at.number += 1
                    yield "row", at.number, row
            return
        with local.unpacked(path, ending["packing"] or "") as packed:
            stream = io.BufferedReader(packed, _CHUNK)
            if stream.peek(1).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                yield from _array(stream, path, key, at)
                return
            for line in stream:
                at.number += 1
                if line.strip():
                    yield "line", at.number, json.loads(line)


def _array(
    stream: io.BufferedReader,
    path: str,
    key: str,
    at: local.Position,
) -> Iterator[tuple[str, int, Any]]:
    try:
        for row in _elements(io.TextIOWrapper(stream, encoding="utf-8-sig")):
            at.number += 1
            yield "row", at.number, row
    except json.JSONDecodeError as error:
        fix = f"correct it, or take the file out of {key}"
        row_number = at.number + 1
        raise UserError(f"{path}, row {row_number} is not JSON ({error.msg}): {fix}") from None


def _elements(stream: TextIO) -> Iterator[Any]:
    """The elements of a JSON array, one after the other: it may be larger than the memory.

    Raises:
        json.JSONDecodeError: its `msg` counts; its position is one in a chunk.
    """
    decode = json.JSONDecoder().raw_decode
    text, before = "", "["
    # A long element is read in chunks that double, as each starts its decoding anew
    while more := stream.read(max(_CHUNK, len(text))):
        text, end = text + more, 0
        try:
            while text.startswith(before, begin := _space(text, end)):
                value, end = decode(text, _space(text, begin + 1))
                yield value
                before = ","
            if text[begin : begin + 1] not in ("", "]"):
                raise json.JSONDecodeError(f"Expecting '{before}'", text, begin)
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or error.pos >= len(text) - _CUT
            if not is_cut:
                raise
        text = text[end:]
    if not re.fullmatch(r"\s*\]\s*" if before == "," else r"\s*\[\s*\]\s*", text):
        raise json.JSONDecodeError("the array is broken off, or goes on wrongly", text, 0)


def _space(text: str, start: int) -> int:
    """Where white space from `start` on ends."""
    match = _SPACE.match(text, start)
    return match.end() if match else start
