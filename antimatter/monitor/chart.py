"""Draws loss curves with characters: the dots of braille, or plain ASCII."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

Rows = list[tuple[float, ...]]  # of a CSV file: step, loss, and more
LARGEST = 1e300  # loss; exp() of the logarithm of a larger one could overflow
MARGIN = 9  # columns, for the numbers left of the chart


class Glyphs(NamedTuple):
    bits: tuple[tuple[int, ...], ...]  # of the dots in a character, by column and row
    cells: str  # the characters, by the sum of their bits
    validation: str
    backtrack: str
    axes: str  # side, side with a number, corner, bottom, bottom with a number


# U+2800: braille
UNICODE = Glyphs(
    ((1, 2, 4, 64), (8, 16, 32, 128)),
    " " + "".join(map(chr, range(0x2801, 0x2900))),
    "●",
    "▲",
    "│┤└─┬",
)
ASCII = Glyphs(((1, 2),), " '.:", "o", "^", "|++-+")


@dataclass(frozen=True)
class _Scale:
    """From the range of the steps to columns, and from that of the logarithms to rows."""

    first: float
    last: float
    top: float
    low: float

    def column(self, step: float, columns: int) -> int:
        return _place(step, self.first, self.last, columns)

    def row(self, loss: float, rows: int) -> int:
        return _place(loss, self.top, self.low, rows)


def chart(
    training: Rows, validation: Rows, backtracks: Rows, width: int, height: int, glyphs: Glyphs
) -> list[str]:
    """The loss over the steps, on a logarithmic axis.

    The curve is the mean of each column of dots.
    """
    curve, marks = (
        [(step, math.log(loss)) for step, loss, *_ in rows if 0 < loss < LARGEST]
        for rows in (training, validation)
    )
    if not curve + marks:
        return ["no loss yet: the first row comes after checkpoints.log_every steps"]
    # The other three rows are the legend, the axis and the steps
    columns, rows, across = width - MARGIN, height - 3, len(glyphs.bits)
    steps = [step for step, *_ in [*curve, *marks, *backtracks]]
    first, last = min(steps), max(*steps, min(steps) + 1)
    bins: dict[int, list[float]] = {}
    for step, loss in curve:
        bins.setdefault(_place(step, first, last, columns * across), []).append(loss)
    means = [(x, sum(values) / len(values)) for x, values in sorted(bins.items())]
    losses = [loss for _, loss in means + marks]
    scale = _Scale(first, last, max(losses), min(max(losses) - 1e-3, *losses))

    canvas = _canvas(means, marks, columns, rows, scale, glyphs)
    side, numbered, corner, *bottom = list(glyphs.axes)
    numbers = {}
    for y in {*range(0, rows - 2, 4), rows - 1}:
        loss = math.exp(scale.top + (scale.low - scale.top) * y / (rows - 1))
        numbers[y] = f"{loss:.3f}"[: MARGIN - 2]
    legend = [
        f"{glyphs.cells[-1]} training",
        f"{glyphs.validation} validation",
        *[f"{glyphs.backtrack} backtrack"] * bool(backtracks),
    ]
    axis, labels = _steps(first, last, columns, bottom)
    for step, *_ in backtracks:
        axis[scale.column(step, columns)] = glyphs.backtrack
    lines = [f"{'loss':>{MARGIN - 2}}  {'  '.join(legend)}"]
    for y, row in enumerate(canvas):
        edge = numbered if y in numbers else side
        lines.append(f"{numbers.get(y, ''):>{MARGIN - 2}} {edge}{''.join(row).rstrip()}")
    return [*lines, f"{corner:>{MARGIN}}{''.join(axis)}", f"{'step':>{MARGIN - 2}}  {labels}"]


def paint(text: str) -> str:
    """Colors for a terminal: the curve blue, validation yellow, backtracks and the warning red."""
    for pattern, color in (("[\u2801-\u28ff]+", 34), ("●", 33), ("▲|(?m:^warning:.*$)", 31)):
        text = re.sub(pattern, rf"\033[{color}m\g<0>\033[0m", text)
    return text


def _canvas(
    means: list[tuple[int, float]],
    marks: list[tuple[float, float]],
    columns: int,
    rows: int,
    scale: _Scale,
    glyphs: Glyphs,
) -> list[list[str]]:
    """The characters of the curve, row by row, with the marks of validation on top of it."""
    across, down = len(glyphs.bits), len(glyphs.bits[0])
    height = rows * down
    cells = [[0] * columns for _ in range(rows)]
    for x, y in _joined([(x, scale.row(loss, height)) for x, loss in means]):
        cells[y // down][x // across] |= glyphs.bits[x % across][y % down]
    canvas = [[glyphs.cells[bits] for bits in row] for row in cells]
    for step, loss in marks:
        y, x = scale.row(loss, height) // down, scale.column(step, columns * across) // across
        canvas[y][x] = glyphs.validation
    return canvas


def _place(value: float, first: float, last: float, size: int) -> int:
    """The index of a value among `size` equally spaced ones from first (0) to last (size - 1)."""
    return round((value - first) / (last - first) * (size - 1))


def _joined(points: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The dots of the straight lines from point to point."""
    yield from points[:1]
    for (x, y), (to_x, to_y) in pairwise(points):
        count = max(to_x - x, abs(to_y - y))
        yield from (
            (x + round((to_x - x) * i / count), y + round((to_y - y) * i / count))
            for i in range(1, count + 1)
        )


def _steps(first: float, last: float, columns: int, bottom: list[str]) -> tuple[list[str], str]:
    """The axis and its numbers: multiples of 1, 2 or 5 times a power of ten, at least about 14
    columns apart.
    """
    least = max(1.0, (last - first) * 14 / columns)
    power = 10 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    axis, labels = bottom[:1] * columns, ""
    for value in range(math.ceil(first / step) * step, math.floor(last) + 1, step):
        place, label = _place(value, first, last, columns), f"{value:,}"
        axis[place] = bottom[1]
        labels = labels.ljust(min(place - len(label) // 2, columns - len(label))) + label
    return axis, labels
