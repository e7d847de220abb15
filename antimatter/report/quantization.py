"""What a smaller GGUF file costs, as a picture, of one run or of several overlaid."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.report import plotting
from antimatter.report.plotting import Runs, coloured, numbers

EXACT = 1e-10  # nats per token: less is rounding, and its logarithm noise


def draw(sizes: Path, picture: Path) -> None:
    """Perplexity, and distance from torch, against the size of the file, as a PNG. The same numbers give the same bytes."""
    runs = {"": plotting.read(sizes)}
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    perplexity(left, runs)
    divergence(right, runs)
    plotting.save(figure, picture)


def perplexity(axes: Axes, runs: Runs) -> None:
    """What the largest file has is nought, so that revisions can be compared."""
    _plot(
        axes, runs, "perplexity", lambda sizes, values: 100 * (values / values[sizes.argmax()] - 1)
    )
    axes.set(title="Perplexity of the GGUF files", ylabel="above that of the largest, %")


def divergence(axes: Axes, runs: Runs) -> None:
    _plot(axes, runs, "kl", lambda _, values: np.maximum(values, EXACT))
    plotting.log(axes, "y")
    axes.set(title="Distance of the GGUF files from torch", ylabel="KL, nats per token")


def _plot(
    axes: Axes, runs: Runs, column: str, shown: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    tops: dict[str, tuple[float, float]] = {}  # of each type, where its name stands
    for run, colour in coloured(runs, "gguf", column):
        sizes, values = numbers(run["gguf"], "megabytes", column)
        values = shown(sizes, values)
        axes.plot(sizes, values, "o-", color=colour)
        for name, size, value in zip(run["gguf"]["type"], sizes, values, strict=True):
            tops[name] = max(
                tops.get(name, (size, value)), (size, value), key=lambda place: place[1]
            )
    for name, place in tops.items():
        axes.annotate(
            name,
            place,
            xytext=(5, 5),
            textcoords="offset points",
            rotation=35,
            rotation_mode="anchor",
        )
    plotting.log(axes, "x")
    axes.set(xlabel="megabytes")
    axes.margins(0.2)
