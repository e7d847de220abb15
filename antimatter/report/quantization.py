"""Charts of what a smaller GGUF file costs, of one run or of several overlaid."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.report import plotting
from antimatter.report.plotting import Runs, colored, numbers

# Nats per token. Below it is rounding, whose logarithm would be noise
EXACT = 1e-10


def draw(sizes: Path, picture: Path) -> None:
    """Draws one PNG: perplexity, and distance from torch, against the size of the file."""
    runs = {"": plotting.read(gguf=sizes)}
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    perplexity(left, runs)
    divergence(right, runs)
    plotting.save(figure, picture)


def perplexity(axes: Axes, runs: Runs) -> None:
    """Relative to the largest file, so that revisions can be compared."""

    def excess(sizes: np.ndarray, values: np.ndarray) -> np.ndarray:
        return 100 * (values / values[sizes.argmax()] - 1)

    _plot(axes, runs, "perplexity", excess)
    axes.set(title="Perplexity of the GGUF files", ylabel="above that of the largest, %")


def divergence(axes: Axes, runs: Runs) -> None:
    _plot(axes, runs, "kl", lambda _, values: np.maximum(values, EXACT))
    plotting.log(axes, "y")
    axes.set(title="Distance of the GGUF files from torch", ylabel="KL, nats per token")


def _plot(
    axes: Axes, runs: Runs, column: str, transform: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    # The highest point of each file type, where its name is written
    tops: dict[str, tuple[float, float]] = {}
    for run, color in colored(runs, "gguf", column):
        sizes, values = numbers(run["gguf"], "megabytes", column)
        values = transform(sizes, values)
        axes.plot(sizes, values, "o-", color=color)
        for name, size, value in zip(run["gguf"]["type"], sizes, values, strict=True):
            points = [tops.get(name, (size, value)), (size, value)]
            tops[name] = max(points, key=lambda point: point[1])
    for name, point in tops.items():
        axes.annotate(
            name,
            point,
            xytext=(5, 5),
            textcoords="offset points",
            rotation=35,
            rotation_mode="anchor",
        )
    plotting.log(axes, "x")
    axes.set(xlabel="megabytes")
    axes.margins(0.2)
