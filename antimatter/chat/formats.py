"""Conversations in local files, in the shapes that people use.

A file is .jsonl or .json (one object a line, or one array of objects; each also .gz or .zst), or
.parquet. The keys of a row tell its shape; other keys are ignored:

    messages                [{role, content}, ...] as OpenAI has them
    conversations, items    [{from, value}, ...] as ShareGPT has them
    instruction, output     texts, perhaps with `input`, as Alpaca has them
    prompt, completion      texts or lists of messages, as TRL has them
    prompt, response        the same
    question, answer        the same

A text in `system` comes before any of them. A row that is not a conversation is an error; no row is
dropped.
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
# An error in these last characters of a chunk may come from the cut alone: "\ud83d\ude00" is the
# longest token of JSON, apart from a string
_CUT = 12


def read(config: ConversationFiles, key: str) -> Iterator[Conversation]:
    """The conversations of all files that match a pattern, in the order of their names. Files are
    streamed, so they may be larger than the memory.

    Args:
        key: the key of params.yaml that names them, for errors.

    Raises:
        UserError: the pattern matches no file; a file has an unknown ending, cannot be read or has
            no conversation; a row has an unknown shape, or its messages are not a conversation.
    """
    for path in paths.required(config.pattern, key):
        is_empty = True
        for unit, number, row in _rows(path, key):
            is_empty = False
            try:
                turns = messages(row)
            except NotAConversation as error:
                fix = "correct it, or take it out of the file"
                raise UserError(f"{path}, {unit} {number}: {error}: {fix}") from None
            yield Conversation(f"{path}:{number}", config.pattern, "open", turns, config.licence)
        if is_empty:
            raise UserError(f"{path} holds no conversation: delete it, or take it out of {key}")


class NotAConversation(UserError):
    """A row is not a conversation. The text also names the reason in the metrics of the stage."""


def messages(row: object) -> tuple[Message, ...]:
    """The messages of a row of any shape.

    Raises:
        NotAConversation: it has no known shape, or is not a conversation. Without the place in the
            file.
    """
    if not isinstance(row, dict):
        raise NotAConversation(f"{row!r:.60} is not an object with keys")
    shape = _shape(row)
    if not shape:
        known = "; ".join(", ".join(names) for names in SHAPES)
        keys = ", ".join(map(str, row)) or "none"
        raise NotAConversation(f"its keys are {keys}; known are {known}")
    turns: list[Message] = []
    if row.get("system"):
        turns.append(Message("system", _text(row["system"], "`system`")))
    if len(shape) == 1:
        turns += _listed(row[shape[0]], f"`{shape[0]}`")
    elif shape[0] == "instruction":
        texts = (_text(row.get(name), f"`{name}`") for name in ("instruction", "input"))
        turns.append(Message("user", "\n\n".join(filter(None, texts))))
        turns.append(Message("assistant", _text(row["output"], "`output`")))
    else:
        turns += _side(row[shape[0]], "user", f"`{shape[0]}`")
        turns += _side(row[shape[1]], "assistant", f"`{shape[1]}`")
    if fault := problem(turns):
        raise NotAConversation(fault)
    return tuple(turns)


def _shape(keys: Collection[str]) -> tuple[str, ...]:
    """The shape of a row that has these keys; empty if there is none."""
    return next((shape for shape in SHAPES if all(name in keys for name in shape)), ())


def _side(value: object, role: Role, name: str) -> list[Message]:
    """A prompt or its completion: a text, or a list of messages."""
    return _listed(value, name) if isinstance(value, list) else [Message(role, _text(value, name))]


def _listed(values: object, name: str) -> list[Message]:
    if not isinstance(values, list):
        raise NotAConversation(f"{name} must be a list of messages, got {values!r:.60}")
    return [_message(value, f"message {number}") for number, value in enumerate(values, 1)]


def _message(value: object, where: str) -> Message:
    """A message of OpenAI or ShareGPT."""
    keys = value if isinstance(value, dict) else {}
    for call in TOOL_CALLS:
        if keys.get(call):
            raise NotAConversation(f"{where} calls a tool (`{call}`), which no role here can do")
    for role_key, text_key in (("role", "content"), ("from", "value")):
        if role_key in keys and text_key in keys:
            role = ROLES.get(str(keys[role_key]).lower())
            if role is None:
                known = ", ".join(ROLES)
                raise NotAConversation(
                    f"{where} has the role {keys[role_key]!r:.60}; known are {known}"
                )
            return Message(role, _text(keys[text_key], f"{where} ({role})"))
    raise NotAConversation(
        f"{where} must have role and content, or from and value, got {value!r:.60}"
    )


def _text(value: object, where: str) -> str:
    """A text, or the texts of a list of parts as OpenAI has them; None is an empty text."""
    if isinstance(value, list):
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else part
            if kind != "text":
                raise NotAConversation(f"{where} has a part that is no text: {kind!r:.60}")
        value = "\n".join(_text(part.get("text"), where) for part in value)
    if not isinstance(value, str | None):
        raise NotAConversation(f"{where} must be text, got {value!r:.60}")
    return local.encodable(local.plain(value or "")).strip()


# ---- files


def _rows(path: str, key: str) -> Iterator[tuple[str, int, Any]]:
    """The rows of a file, each with its unit (line or row) and its number, from 1."""
    ending = _ENDING.search(path)
    if not ending:
        known = ".jsonl, .json (each also .gz or .zst) and .parquet"
        raise UserError(f"{path} has an unknown ending: {key} takes {known}")
    at = local.Position()
    with local.user_errors(path, key, at):
        if ending["parquet"]:
            table = pq.ParquetFile(paths.located(path))
            names = table.schema_arrow.names
            # Of an unknown shape all columns, for the error
            columns = [*_shape(names), *OPTIONAL] if _shape(names) else names
            for batch in table.iter_batches(1000, columns=columns):
                for row in batch.to_pylist():
                    at.number += 1
                    yield "row", at.number, row
            return
        with local.unpacked(path, ending["packing"] or "") as packed:
            stream = io.BufferedReader(packed, _CHUNK)
            # A byte-order mark may come before the array
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
        json.JSONDecodeError: read only its `msg`; its position is relative to a chunk.
    """
    decode = json.JSONDecoder().raw_decode
    text, before = "", "["
    # Each chunk decodes a long element from its beginning, so chunks double in length
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
        raise json.JSONDecodeError("the array is cut off, or does not end with `]`", text, 0)


def _space(text: str, start: int) -> int:
    """The end of the white space that begins at `start`."""
    match = _SPACE.match(text, start)
    return match.end() if match else start
