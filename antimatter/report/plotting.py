"""Common parts of all pictures: tables of numbers, colors, and PNGs without a time or a version.

A figure is made with matplotlib.figure.Figure, never with pyplot: that needs no screen and has no
global state.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from antimatter import files
from antimatter.errors import UserError

Table = dict[str, list[str]]  # the columns of a CSV
Run = dict[str, Table]  # the tables of one revision, by the names in revisions.TABLES
Runs = dict[str, Run]  # by revision

PARTS = 40  # of a noisy curve, each drawn as its mean

# Of a single run: train or raw; validation or cleaned; kept text
BEFORE, AFTER, KEPT = "#9ecae1", "#d94801", "#31a354"
# Of several runs: the colors of DVC's charts, in their order
REVISIONS = ("#945dd6", "#13adc7", "#f46837", "#48bb78", "#4299e1", "#ed8936", "#f56565")


def parse(text: str) -> Table:
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def read(**paths: Path) -> Run:
    """The tables of one run, by the names of the arguments."""
    return {name: parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def numbers(table: Table, *names: str) -> Iterator[np.ndarray]:
    """The columns of these names, each (rows,).

    Raises:
        UserError: there is no such column, or it has a value that is not a number.
    """
    for name in names:
        try:
            yield np.array(table[name], dtype=float)
        except (KeyError, ValueError) as error:
            reason = f"the column {name} of a CSV file under plots/ is damaged ({error})"
            raise UserError(f"{reason}: run `dvc repro` to rebuild it") from None


def colored(runs: Runs, name: str, column: str) -> Iterator[tuple[Run, str]]:
    """Each run whose table `name` has rows in this column, with its color.

    A run has the same color in every chart.
    """
    for (_, color), run in zip(colors(runs), runs.values(), strict=True):
        if run.get(name, {}).get(column):
            yield run, color if len(runs) > 1 else AFTER


def colors(revisions: Iterable[str]) -> list[tuple[str, str]]:
    return [(revision, REVISIONS[i % len(REVISIONS)]) for i, revision in enumerate(revisions)]


def legend(figure: Figure, revisions: Iterable[str]) -> None:
    """Adds a legend of the revisions and their colors above all charts."""
    lines = [
        Line2D([], [], color=color, linewidth=3, label=revision)
        for revision, color in colors(revisions)
    ]
    columns = min(len(lines), 4)
    figure.legend(handles=lines, loc="outside upper center", ncols=columns, frameon=False)


def means(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A noisy curve as the means of up to PARTS parts.

    The parts widen with the square root of the step, because a loss falls fast, then slowly.
    """
    part = np.minimum(PARTS - 1, PARTS * np.sqrt(steps / steps.max())).astype(int)
    counts = np.bincount(part)
    is_used = counts > 0
    sums = np.bincount(part, steps)[is_used], np.bincount(part, values)[is_used]
    return sums[0] / counts[is_used], sums[1] / counts[is_used]


def log(axes: Axes, *names: str) -> None:
    """Makes the axes `x`, `y` or both logarithmic.

    An axis of less than a decade gets numbers at its minor ticks.
    """
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        low, high = axis.get_data_interval()
        if low > 0 and high < 10 * low:
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")


def save(figure: Figure, path: Path) -> None:
    """Adds a grid to all charts and writes the PNG. Equal numbers give equal bytes."""
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    with files.replacing(path) as partial:
        # By default the version of matplotlib is in the file
        figure.savefig(partial, format="png", metadata={"Software": None})
