"""Figures, tables and suggestions as text, for people."""

import difflib
from collections.abc import Iterable, Iterator, Sequence


def size(count: float) -> str:
    """Bytes in the unit that shows at least one digit: kB, MB or GB (powers of 1,000)."""
    if count < 1000:
        return f"{count:.0f} bytes"
    if count < 50_000:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def count(value: float) -> str:
    """A large number of weights or tokens: 1.68 M, 302 M, 20.00 B."""
    if value >= 1e9:
        return f"{value / 1e9:.2f} B"
    return f"{value / 1e6:.2f} M" if value < 1e7 else f"{value / 1e6:.0f} M"


def clock(seconds: float) -> str:
    """A duration: m:ss, h:mm:ss, and from 100 hours on whole hours."""
    if seconds >= 360_000:
        return f"{seconds / 3600:,.0f} h"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def plural(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def did_you_mean(word: str, known: Iterable[str], mark: str = "`") -> str:
    """` (did you mean `X`?)` for the known word that is nearest to a misspelt one, else nothing.

    Args:
        mark: quotes the word on both sides.
    """
    words = list(known)
    near = [name for name in words if word and name.startswith(word)]
    near = near or difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {mark}{near[0]}{mark}?)" if near else ""


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> Iterator[str]:
    """Aligned lines of a table whose first row is its header.

    Args:
        right: the columns that are aligned to the right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_right = set(right)
    for row in rows:
        cells = (
            cell.rjust(width) if i in to_right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
