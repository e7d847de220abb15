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


class Table(dict[str, list[str]]):
    """The columns of a CSV, which names its file in errors."""

    def __init__(self, columns: dict[str, list[str]], source: str, fix: str) -> None:
        super().__init__(columns)
        self.source = source
        self.fix = fix

    def __missing__(self, name: str) -> list[str]:
        raise self.damaged(f"the column {name} is missing")

    def damaged(self, reason: str) -> UserError:
        return UserError(f"{self.source} is damaged ({reason}): {self.fix}")


Run = dict[str, Table]  # the tables of one revision, by the names in revisions.TABLES
Runs = dict[str, Run]  # by revision

PARTS = 40  # of a noisy curve, each drawn as its mean
REBUILD = "run `dvc repro` to rebuild it"
# Columns of places and amounts: finite and not negative, while a loss that diverged is inf or nan
AMOUNTS = frozenset(
    "step at_most rank bytes raw cleaned count tokens megabytes tokens_per_second".split()
)
LARGEST = 1e18  # that an amount may be
# That the charts of a stage cannot do without, by table
NEEDED = {
    "training": ("step", "loss", "learning_rate", "gradient_norm"),
    "validation": ("step", "loss"),
    "bins": ("at_most", "perplexity", "tokens"),
    "drops": ("reason", "megabytes"),
    "lengths": ("bytes", "raw", "cleaned"),
    "frequencies": ("rank", "count"),
    "gguf": ("type", "megabytes", "perplexity", "kl"),
    "shares": ("measure",),
}

# Of a single run: train or raw; validation or cleaned; kept text
BEFORE, AFTER, KEPT = "#c3b8ee", "#7358db", "#2f9e6e"
# Of text, and of lines and ticks, as on the page of `dvc plots`
QUIET, LINE = "#5d5a6e", "#c9c6d4"
# Of several runs: the colors of DVC's charts, in their order
REVISIONS = ("#945dd6", "#13adc7", "#f46837", "#48bb78", "#4299e1", "#ed8936", "#f56565")


def parse(text: str, source: str, fix: str = REBUILD) -> Table:
    """The columns of a CSV, which may have no row below its header.

    Args:
        text: decoded with errors="replace".
        source, fix: name the file, and what to do about it, in errors.

    Raises:
        UserError: it is not UTF-8, it is empty, or a row has not one value for each column.
    """
    table = Table({}, source, fix)
    if "\ufffd" in text:
        raise table.damaged("it is not UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[list[str]] = []
    try:
        for row in reader:
            rows.append(row)
            if len(row) != len(rows[0]):
                counts = f"{len(row)} values, the header has {len(rows[0])}"
                raise table.damaged(f"line {reader.line_num} has {counts}")
    except csv.Error as error:
        raise table.damaged(f"line {reader.line_num}: {error}") from None
    if not rows or not rows[0]:
        raise table.damaged("it has no header")
    header, *rows = rows
    table.update({name: [row[i] for row in rows] for i, name in enumerate(header)})
    return table


def read_table(path: Path) -> Table:
    """Raises UserError if it is missing, or as parse() does."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro` to write it")
    return parse(path.read_text(encoding="utf-8", errors="replace"), str(path))


def read(**paths: Path) -> Run:
    """The tables of one run, by the names of the arguments.

    Raises:
        UserError: as read_table(), or a table has no row, or lacks a column.
    """
    run = {name: read_table(path) for name, path in paths.items()}
    for name, table in run.items():
        # Raises for a column that is missing
        if not any([table[column] for column in NEEDED[name]]):
            raise table.damaged("it has no row")
    return run


def numbers(table: Table, *names: str) -> Iterator[np.ndarray]:
    """The columns of these names, each (rows,).

    Raises:
        UserError: there is no such column, or it has a value that cannot be drawn.
    """
    for name in names:
        column = table[name]
        try:
            values = np.array(column, dtype=float)
        except ValueError as error:
            raise table.damaged(f"the column {name}: {error}") from None
        if name in AMOUNTS:
            # Not `values > LARGEST`, which is false for nan
            bad = ~((values >= 0) & (values <= LARGEST))
            if bad.any():
                value = column[int(bad.argmax())]
                raise table.damaged(f"the column {name} must lie in [0, {LARGEST:g}], got {value}")
        elif len(values) and not (abs(values) <= LARGEST).any():
            raise table.damaged(f"the column {name} has no finite number, only {column[0]}")
        # The scale of an axis overflows near the largest float
        values[abs(values) > LARGEST] = np.nan
        yield values


def colored(runs: Runs, name: str, column: str) -> Iterator[tuple[Run, str]]:
    """Each run whose table `name` has rows in this column, with its color.

    A run has the same color in every chart.
    """
    for (_, color), run in zip(colors(runs), runs.values(), strict=True):
        if name in run and run[name].get(column):
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
    # A curve may consist of step 0 alone
    last = steps.max() or 1.0
    part = np.minimum(PARTS - 1, PARTS * np.sqrt(steps / last)).astype(int)
    counts = np.bincount(part)
    is_used = counts > 0
    sums = np.bincount(part, steps)[is_used], np.bincount(part, values)[is_used]
    return sums[0] / counts[is_used], sums[1] / counts[is_used]


def log(axes: Axes, *names: str) -> None:
    """Makes the axes `x`, `y` or both logarithmic, except one without a positive value.

    An axis of less than a decade gets numbers at its minor ticks.
    """
    for name in names:
        axis = axes.xaxis if name == "x" else axes.yaxis
        if not np.isfinite(axis.get_minpos()):
            continue
        axes.set(**{f"{name}scale": "log"})
        low, high = axis.get_data_interval()
        if low > 0 and high < 10 * low:
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")


def save(figure: Figure, path: Path) -> None:
    """Gives all charts their style and writes the PNG. Equal numbers give equal bytes."""
    for axes in figure.axes:
        axes.grid(color=LINE, alpha=0.4, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", color=LINE, labelcolor=QUIET, labelsize=9)
        axes.spines[:].set_color(LINE)
        axes.spines[["top", "right"]].set_visible(False)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(QUIET)
        axes.title.set(fontsize=11, fontweight="bold")
    with files.replacing(path) as partial:
        # By default the version of matplotlib is in the file
        figure.savefig(partial, format="png", metadata={"Software": None})
