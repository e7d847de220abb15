"""What a smaller GGUF file costs, as a picture, of one run or of several overlaid."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter import pictures
from antimatter.pictures import Runs, coloured, numbers

EXACT = 1e-10  # nats per token: less is rounding, and its logarithm noise


def draw(sizes: Path, picture: Path) -> None:
    """Perplexity, and distance from torch, against the size of the file, as a PNG. The same numbers give the same bytes."""
    runs = {"": pictures.read(sizes)}
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    perplexity(left, runs)
    divergence(right, runs)
    pictures.save(figure, picture)


def perplexity(axes: Axes, runs: Runs) -> None:
    _plot(axes, runs, "perplexity")
    axes.set(title="Perplexity of the GGUF files", ylabel="perplexity in llama.cpp")


def divergence(axes: Axes, runs: Runs) -> None:
    _plot(axes, runs, "kl")
    pictures.log(axes, "y")
    axes.set(title="Distance of the GGUF files from torch", ylabel="KL, nats per token")


def _plot(axes: Axes, runs: Runs, column: str) -> None:
    tops: dict[str, tuple[float, float]] = {}  # of each type, where its name stands
    for run, colour in coloured(runs, "gguf", column):
        sizes, values = numbers(run["gguf"], "megabytes", column)
        values = np.maximum(values, EXACT)
        axes.plot(sizes, values, "o-", color=colour)
        for name, size, value in zip(run["gguf"]["type"], sizes, values, strict=True):
            tops[name] = max(tops.get(name, (0.0, 0.0)), (size, value), key=lambda place: place[1])
    for name, place in tops.items():
        axes.annotate(name, place, xytext=(5, 5), textcoords="offset points")
    pictures.log(axes, "x")
    axes.set(xlabel="megabytes")
    axes.margins(0.15)
