"""Finds the text in rows: the column that params.yaml names, or the one that must be it.

A path names a nested column: `data.body.text`; `messages[].content` takes the field of each element
of a list, and its texts are joined by blank lines. A column whose own name is the path has
precedence.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from antimatter.data.sources import paths
from antimatter.data.sources.csv_form import MAX_NAME
from antimatter.data.sources.faults import Fault, Report
from antimatter.data.sources.json_rows import Row
from antimatter.data.sources.opened import ERRORS, Source

# Names of text columns, the first that rows have is taken
NAMES = ("text", "content", "body", "article", "document", "story", "raw_content", "markdown")
SAMPLE = 100  # rows that decide
_MISSING = object()


def encodable(text: str) -> str:
    """A text that UTF-8 can encode: JSON can escape half of a surrogate pair, which becomes "?"."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def texts(
    rows: Iterator[Row], column: str, source: Source, report: Report
) -> Iterator[tuple[int, str]]:
    """The number and the text of each row; the text may be empty. A row that is itself a text is
    it. Rows without a text are reported.

    Args:
        column: empty: found by itself, from the first rows.

    Raises:
        Fault: no row has the column, or none is clearly that of the text.
    """
    head, broken = _head(rows)
    objects = [row.value for row in head if isinstance(row.value, dict)]
    setting = paths.column_setting(source.key)
    if objects:
        if not column:
            column = choose(objects, source, setting)
        elif all(value_at(value, column) is _MISSING for value in objects):
            first = next(row for row in head if isinstance(row.value, dict))
            reason, fix = f"has no column `{column}`", f"set {setting} to one of {_known(objects)}"
            at = {"line": first.number, "unit": first.unit, "size": source.size}
            raise Fault(source.path, reason, fix, **at)  # type: ignore[arg-type]
        report.counts[f"column {column[:MAX_NAME]}"] += 1
    for row in chain(head, () if broken else rows):
        try:
            text = _text(row.value, column, setting)
        except ValueError as error:
            reason, fix = error.args
            number, unit, size = row.number, row.unit, row.size
            report.skip(Fault(source.path, reason, fix, line=number, unit=unit, size=size))
            continue
        yield row.number, text
    if broken:
        raise broken


def _head(rows: Iterator[Row]) -> tuple[list[Row], Exception | None]:
    """The first rows, and what ended them: a file that is damaged further on has good rows too."""
    head: list[Row] = []
    try:
        for row in islice(rows, SAMPLE):
            head.append(row)
    except (Fault, *ERRORS) as error:
        return head, error
    return head, None


def _text(row: Any, column: str, setting: str) -> str:
    """The text of a row.

    Raises:
        ValueError: its arguments are what is wrong and the fix.
    """
    correct = f"correct it, or set {setting} to another"
    if isinstance(row, str):
        return encodable(row)
    if not isinstance(row, dict):
        reason = f"must be a JSON object or a text, got {row!r:.60}"
        raise ValueError(reason, f"{correct}; write one object a line")
    value = value_at(row, column)
    if value is _MISSING:
        raise ValueError(f"has no column `{column}`", correct)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"has no UTF-8 in `{column}`", correct) from None
    listed = value if isinstance(value, list) else [value]
    # A picture or a number among texts costs none of them
    if listed and not any(isinstance(one, str | None) for one in listed):
        raise ValueError(f"has no text in `{column}`, but {value!r:.60}", correct)
    return encodable("\n\n".join(one for one in listed if one and isinstance(one, str)))


def value_at(row: dict[str, Any], path: str) -> Any:
    """The value at a path; a list if the path leads through one."""
    if path in row:
        return in_parts(row[path])
    return _walk(row, path.replace("[]", "").split("."))


def in_parts(value: Any) -> Any:
    """A text that is a list of texts and of objects with one, such as a link within a sentence, as
    one text; any other value as it is.
    """
    if not isinstance(value, list):
        return value
    texts = [one.get("text") if isinstance(one, dict) else one for one in value]
    if not any(isinstance(one, dict) and isinstance(one.get("text"), str) for one in value):
        return value
    between = "" if any(isinstance(one, str) for one in value) else "\n\n"
    return between.join(text for text in texts if isinstance(text, str))


def _walk(value: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return in_parts(value)
    if isinstance(value, list):
        inner = [_walk(one, parts) for one in value]
        found = [one for one in inner if one is not _MISSING]
        flat = chain(*(one if isinstance(one, list) else [one] for one in found))
        return list(flat) if found else _MISSING
    if isinstance(value, dict) and parts[0] in value:
        return _walk(value[parts[0]], parts[1:])
    return _MISSING


def choose(objects: Sequence[dict[str, Any]], source: Source, setting: str) -> str:
    """The column of the text: the first of NAMES that holds text; or the only column, nested ones
    too, that holds prose in half of its rows.

    Raises:
        Fault: none, or more than one; with all columns.
    """
    names = {name.lower(): name for row in objects for name in row}
    for name in NAMES:
        if (column := names.get(name)) and any(_is_text(row.get(column)) for row in objects):
            return column
    leaves = list(dict.fromkeys(chain(*map(_leaves, objects))))
    found = [leaf for leaf in leaves if _is_prose([value_at(row, leaf) for row in objects])]
    if len(found) == 1:
        return found[0]
    which = f"several columns may be it: {', '.join(found)}" if found else "no column is clearly it"
    reason = f"does not say where its text is, {which}"
    fix = f"set {setting} to one of {_known(objects)}"
    raise Fault(source.path, reason, fix, size=source.size)


def _known(objects: Sequence[dict[str, Any]]) -> str:
    """The columns of rows, for people."""
    known = list(dict.fromkeys(chain(*map(_leaves, objects))))
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return ", ".join(known[:20]) + more or "(it has no columns)"


def _leaves(row: dict[str, Any], before: str = "") -> Iterator[str]:
    """The paths of the values in a row that hold no other values."""
    for name, value in row.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and inner and before.count(".") < 4:
            brackets = "[]" if isinstance(value, list) else ""
            yield from _leaves(inner, f"{before}{name}{brackets}.")
        else:
            yield before + name


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) for one in value)
    return isinstance(value, str | bytes)


def _is_prose(values: Sequence[Any]) -> bool:
    filled = [value for value in values if isinstance(value, str | list) and value]
    joined = [" ".join(map(str, one)) if isinstance(one, list) else one for one in filled]
    prose = [
        text
        for text in joined
        if (text.count(" ") >= 4 or len(text) >= 40) and not re.match(r"\w+://", text)
    ]
    return len(prose) > 0 and 2 * len(prose) >= len(filled)
