"""How a CSV file is written: its delimiter, its quotes, and whether its first row names columns.

The first rows decide. A delimiter is one that gives them the same number of fields, at least two,
and that the first row has. Among equals, it is one without spaces after it, then the one with the
most fields. Excel's first line `sep=;` decides instead. Quotes within a quoted field are doubled,
or have a backslash if that leaves fewer rows broken. Quotes mean nothing in a file of tabs where
they are stray.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TextIO

DELIMITERS = ",;\t|"
# One column, whose texts may hold any delimiter: a control character that no text has
NONE = "\x1f"
SAMPLE = 1 << 19  # characters that decide
ROWS = 500  # rows of them
MAX_NAME = 60  # characters of a name of a column
WORDS = 4  # of a text; a name has fewer beside a number, or before a full stop

_SEPARATOR = re.compile(r"\"?sep=(.)\"?\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,:/-]*\s*")
# A backslash is not that of the quote if another one is before it
_ESCAPED = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
_WHOLE_QUOTES = re.compile(r'"(?:[^"]|"")*"')


class Form(NamedTuple):
    delimiter: str
    has_escapes: bool = False  # \" within quotes
    skipped: int = 0  # lines before the first row
    names: tuple[str, ...] = ()  # of the columns; empty: the first row has them


def form(sample: str, is_tsv: bool, column: str, known: Iterable[str]) -> Form:
    """How a file is written.

    Args:
        sample: its beginning, of up to SAMPLE characters.
        column: of the text, if its name is known.
        known: names in lower case, any of which a row of names may have.
    """
    lines = sample.splitlines(keepends=True)
    if len(sample) >= SAMPLE and len(lines) > 1:
        lines.pop()
    is_cut = len(sample) >= SAMPLE
    start = next((n for n, line in enumerate(lines) if line.strip()), 0)
    given = _SEPARATOR.fullmatch(lines[start]) if lines else None
    start = start + 1 if given else 0
    delimiters = given[1] if given else "\t" if is_tsv else DELIMITERS
    best, best_rows = Form(delimiters if len(delimiters) == 1 else NONE), None
    best_key: tuple[float, ...] = ()
    has_escapes = any('\\"' in line for line in lines)
    for delimiter in delimiters:
        for escapes in (False, True)[: 1 + has_escapes]:
            rows = _rows(lines[start:], delimiter, escapes, is_cut)
            key = _consistency(rows, delimiter)
            if key > best_key:
                best, best_rows, best_key = Form(delimiter, escapes), rows, key
    if best_rows is None:
        best_rows = _rows(lines[start:], best.delimiter, False, is_cut)
    first = next(iter(best_rows), None) or []
    names: tuple[str, ...] = ()
    if not _has_names([cell.strip() for cell in first], column, {*known}):
        names = tuple(str(n) for n in range(1, len(first) + 1))
    return best._replace(skipped=start, names=names)


def doubled(line: str) -> str:
    r"""A line whose quotes within fields are doubled, instead of \"."""
    return _ESCAPED.sub(r'\1""', line) if '\\"' in line else line


def are_stray(stream: TextIO, limit: int) -> bool:
    """Whether the quotes of a file of tabs do not enclose fields: fields begin with a quote and do
    not end with one, and yet nearly all lines are whole rows.

    Args:
        limit: characters of a line that are read at a time.
    """
    tabs, others, stray = 0, 0, 0
    while line := stream.readline(limit):
        if not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        tabs = tabs or len(fields) - 1
        others += len(fields) - 1 != tabs
        stray += sum(f.startswith('"') and not _WHOLE_QUOTES.fullmatch(f) for f in fields)
    # A field over several lines begins with such a quote too, but then has a line that is no row
    return tabs > 0 and 2 * others < stray


def _rows(
    lines: Sequence[str], delimiter: str, escapes: bool, is_cut: bool
) -> list[list[str] | None]:
    """The first rows that are not empty; None: a broken one."""
    given = map(doubled, lines) if escapes else iter(lines)
    reader = csv.reader(given, delimiter=delimiter, strict=True)

    def read() -> Iterator[list[str] | None]:
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield None
                continue
            if any(map(str.strip, row)):
                yield row

    rows = list(islice(read(), ROWS))
    # The end of the sample may be within quotes
    return rows[:-1] if is_cut and len(rows) > 1 and rows[-1] is None else rows


def _consistency(rows: Sequence[list[str] | None], delimiter: str) -> tuple[float, ...]:
    """The greater, the likelier a delimiter; empty if it cannot be it."""
    first = rows[0] if rows else None
    counts = Counter(len(row) for row in rows if row)
    if not first or len(first) < 2:
        return ()
    columns, n = counts.most_common(1)[0]
    if columns < 2:
        return ()
    cells = [cell for row in rows if row for cell in row[1:]]
    tight = sum(not cell.startswith(" ") for cell in cells) > 0.5 * len(cells)
    return (round(n / len(rows), 1), float(tight), float(columns))


def _has_names(cells: Sequence[str], column: str, known: set[str]) -> bool:
    """Whether a first row names the columns: it has a known name; or no long cell, no text, and
    not several numbers.
    """
    if column in cells or known & {cell.lower() for cell in cells}:
        return True
    numbers = sum(bool(_NUMBER.fullmatch(cell)) for cell in cells)
    texts = [cell for cell in cells if len(cell.split()) >= WORDS]
    is_text = any(numbers or cell.endswith((".", "!", "…", "。")) for cell in texts)
    is_long = any(len(cell) > MAX_NAME for cell in cells)
    return not (column.isdigit() or is_text or is_long or numbers > 1)
