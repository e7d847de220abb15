"""What the pictures for people without DVC share: runs as tables, their colours, and a PNG whose bytes depend on its numbers alone."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from antimatter import files

Table = dict[str, list[str]]  # the columns of a CSV
Run = dict[str, Table]  # plots/*.csv of one revision, by the name without .csv
Runs = dict[str, Run]  # by revision

PARTS = 40  # of a noisy curve, each drawn as its mean

# Of one run: train or raw; validation or cleaned; what is left
BEFORE, AFTER, KEPT = "#9ecae1", "#d94801", "#31a354"
# Of several: those of DVC's charts, in their order
REVISIONS = ("#945dd6", "#13adc7", "#f46837", "#48bb78", "#4299e1", "#ed8936", "#f56565")


def table(text: str) -> Table:
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def read(*paths: Path) -> Run:
    return {path.stem: table(path.read_text(encoding="utf-8")) for path in paths}


def numbers(columns: Table, *names: str) -> Iterator[np.ndarray]:
    """The columns of these names, each (rows,)."""
    for name in names:
        yield np.array(columns[name], dtype=float)


def coloured(runs: Runs, name: str, column: str) -> Iterator[tuple[Run, str]]:
    """Each run that has rows in this column of this table, with its colour: the same in every chart."""
    for (_, colour), run in zip(colours(runs), runs.values(), strict=True):
        if run.get(name, {}).get(column):
            yield run, colour if len(runs) > 1 else AFTER


def colours(revisions: Iterable[str]) -> list[tuple[str, str]]:
    return [(revision, REVISIONS[i % len(REVISIONS)]) for i, revision in enumerate(revisions)]


def legend(figure: Figure, revisions: Iterable[str]) -> None:
    """Which colour is which revision, above all charts."""
    lines = [
        Line2D([], [], color=colour, linewidth=3, label=revision)
        for revision, colour in colours(revisions)
    ]
    figure.legend(
        handles=lines, loc="outside upper center", ncols=min(len(lines), 4), frameon=False
    )


def means(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A noisy curve as the means of up to PARTS parts, which widen with the square root of the step: a loss falls fast, then slowly."""
    part = np.minimum(PARTS - 1, PARTS * np.sqrt(steps / steps.max())).astype(int)
    counts = np.bincount(part)
    there = counts > 0
    return np.bincount(part, steps)[there] / counts[there], np.bincount(part, values)[
        there
    ] / counts[there]


def log(axes: Axes, *names: str) -> None:
    """Makes `x`, `y` or both logarithmic, with numbers beside the ticks where there is less than a decade."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        low, high = axis.get_data_interval()
        if low > 0 and high < 10 * low:
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")


def save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    with files.replacing(path) as partial:
        # The version of matplotlib would be in the bytes
        figure.savefig(partial, format="png", metadata={"Software": None})
