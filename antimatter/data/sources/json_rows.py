"""The values in a file of JSON, whatever its form: one a line, one array of them, one or several
pretty-printed, or one object that holds the array.

The content tells the form, not the ending. Of equal keys in an object the last one counts, and NaN
is a number, as for Python.
"""

import io
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, TextIO

from antimatter.data.sources import encodings
from antimatter.data.sources.faults import Fault, Report, shown
from antimatter.data.sources.opened import Source

MAX_RECORD = 1 << 25  # characters of one value
MAX_OBJECT = 1 << 28  # characters of one object that is a whole file
MIN_PROSE = 40  # characters of a text that is no title, name or date
CHUNK = 1 << 20  # characters of a JSON array that are read at a time

_SPACE = re.compile(r"\s*")
_ADDRESS = re.compile(r"\w+://")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
# An error in these last characters of a chunk may come from the cut alone: "\ud83d\ude00" is the
# longest token of JSON, apart from a string
_CUT = 12


# Keys of a row of text or of a conversation
_OWN_TEXT = {"text", "content", "body", "prompt", "instruction", "question"}


class Row(NamedTuple):
    number: int  # from 1: of the line, or of the row in the array or table
    unit: str  # what it counts: line or row
    value: Any
    size: int  # about, in bytes, for the share of what is skipped


def rows(source: Source, report: Report) -> Iterator[Row]:
    """The values of a file, in order. Broken lines are reported.

    Raises:
        Fault: the file is no text, or no JSON from some place on.
    """
    encoding = encodings.of(source, report)
    # So that a damaged byte costs its line only
    errors = "surrogateescape" if encoding.codec == "utf-8" else encoding.errors

    def opened() -> TextIO:
        return io.TextIOWrapper(source.open(), encoding.codec, errors, newline="\n")

    with opened() as stream:
        head = list(islice((line for line in _lines(stream) if line[1].strip()), 2))
    first = head[0][1].lstrip() if head else ""
    with opened() as stream:
        if first.startswith("["):
            yield from _array(stream, source)
        elif len(head) < 2 or _is_value(first) or head[1][1].lstrip().startswith(('{"', "{'")):
            yield from _unwrapped(_of_lines(stream, source, report), len(head) == 1, source, report)
        else:
            yield from _unwrapped(_whole(stream, source), True, source, report)


def _is_value(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    """The length and the text of each line; the text is cut if it is longer than MAX_RECORD."""
    while line := stream.readline(MAX_RECORD + 1):
        length, end = len(line), line[-1:]
        while length > MAX_RECORD and end != "\n" and (more := stream.readline(CHUNK)):
            length, end = length + len(more), more[-1:]
        yield length, line


def _of_lines(stream: TextIO, source: Source, report: Report) -> Iterator[Row]:
    fix = f"correct the line, or take the file out of {source.key}"
    for number, (length, line) in enumerate(_lines(stream), 1):
        if not line.strip():
            continue
        try:
            if length > MAX_RECORD:
                raise ValueError(f"it is longer than {MAX_RECORD:,} characters")
            if not line.isascii() and _ESCAPED_BYTE.search(line):
                reason = "is not UTF-8"
                report.skip(Fault(source.path, reason, fix, line=number, size=length))
                continue
            value = json.loads(line)
        # ValueError alone is that of a number of more than 4,300 digits
        except (ValueError, RecursionError) as error:
            reason = f"is not JSON ({error})"
            report.skip(Fault(source.path, reason, fix, line=number, size=length))
            continue
        yield Row(number, "line", value, length)


def _array(stream: TextIO, source: Source) -> Iterator[Row]:
    number = 0
    try:
        for value in elements(stream):
            number += 1
            yield Row(number, "row", value, 0)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        fix = f"correct it, or take the file out of {source.key}"
        reason, size = f"is not JSON ({reason})", source.size
        fault = Fault(source.path, reason, fix, line=number + 1, unit="row", size=size)
        raise fault from None


def elements(stream: TextIO) -> Iterator[Any]:
    """The elements of a JSON array, one after the other: it may be larger than the memory.

    Raises:
        json.JSONDecodeError: read only its `msg`; its position is relative to a chunk.
    """
    decode = json.JSONDecoder().raw_decode
    text, before = "", "["
    # Each chunk decodes a long element from its beginning, so chunks double in length
    while more := stream.read(max(CHUNK, len(text))):
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
        if len(text) > MAX_RECORD + CHUNK:
            reason = f"an element is longer than {MAX_RECORD:,} characters"
            raise json.JSONDecodeError(reason, "", 0)
    if not re.fullmatch(r"\s*\]\s*" if before == "," else r"\s*\[\s*\]\s*", text):
        raise json.JSONDecodeError("the array is cut off, or does not end with `]`", "", 0)


def _space(text: str, start: int) -> int:
    """The end of the white space that begins at `start`."""
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _whole(stream: TextIO, source: Source) -> Iterator[Row]:
    """The values of a file that stand behind each other over several lines each."""
    text = stream.read(MAX_OBJECT + 1)
    decode = json.JSONDecoder().raw_decode
    end, number = _space(text, 0), 0
    try:
        if len(text) > MAX_OBJECT:
            raise ValueError(f"an object of more than {MAX_OBJECT:,} characters")
        while end < len(text):
            begin = end
            value, end = decode(text, begin)
            number += 1
            yield Row(number, "row", value, end - begin)
            end = _space(text, end)
    except (ValueError, RecursionError) as error:
        fix = f"correct it, or take it out of {source.key}"
        line = text.count("\n", 0, getattr(error, "pos", 0)) + 1
        reason, lost = f"is not JSON ({error})", source.size
        raise Fault(source.path, reason, fix, line=line, size=lost) from None


def _unwrapped(
    found: Iterator[Row], may_hold_all: bool, source: Source, report: Report
) -> Iterator[Row]:
    """Rows; or, if there is a single one, the objects that it holds.

    Args:
        may_hold_all: whether there may be a single row.
    """
    first = next(found, None) if may_hold_all else None
    lists = _lists_in(first.value) if first else {}
    second = next(found, None) if lists else None
    if lists and second is None:
        key, *others = lists
        if others:
            kept = "write each list to a file"
            report.note(f"{shown(source.path)}: read `{key}`, not `{'`, `'.join(others)}`: {kept}")
        for number, value in enumerate(lists[key], 1):
            yield Row(number, "row", value, 0)
        return
    yield from (row for row in (first, second) if row is not None)
    yield from found


def _lists_in(value: Any) -> dict[str, list[Any]]:
    """The lists of objects in an object that is no text itself, such as that of {"version": 2,
    "data": [{...}]}: those with texts, the longest first, or the only one. Also the objects of
    {"id 1": {...}, "id 2": {...}}, which have keys in common. Messages belong to one conversation.
    """
    if not isinstance(value, dict) or "messages" in value or "mapping" in value:
        return {}
    # Of Telegram
    if isinstance(value.get("chats"), dict):
        return {}
    if any(isinstance(value.get(key), str) for key in _OWN_TEXT) or "role" in value:
        return {}
    inner = list(value.values())
    if len(inner) > 1 and all(isinstance(row, dict) and row for row in inner):
        shared = set.intersection(*map(set, inner))
        return {"": inner} if any(_is_text_key(key, inner) for key in shared) else {}
    lists = {
        key: rows
        for key, rows in value.items()
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    }
    lists = {
        key: rows
        for key, rows in lists.items()
        if not all({"role", "from"} & row.keys() for row in rows)
    }
    sizes = {key: _prose(rows) for key, rows in lists.items()}
    own = sum(_prose(one) for key, one in value.items() if key not in lists)
    if not any(sizes.values()):
        return lists if len(lists) == 1 and not own else {}
    if own > max(sizes.values()):
        return {}
    return {key: lists[key] for key in sorted(lists, key=lambda key: -sizes[key]) if sizes[key]}


def _is_text_key(key: str, rows: list[dict[str, Any]]) -> bool:
    """Whether objects have their texts there."""
    return key.lower() in _OWN_TEXT or 2 * sum(_prose(row[key]) > 0 for row in rows) >= len(rows)


def _prose(value: Any) -> int:
    """The characters of longer texts in a value."""
    if isinstance(value, str):
        return len(value) if len(value) >= MIN_PROSE and not _ADDRESS.match(value) else 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_prose, inner))
