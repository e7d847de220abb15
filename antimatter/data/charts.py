"""What became of the text, as one picture for people without DVC. The numbers are those of plots/*.csv."""

import csv
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")  # no screen needed

from matplotlib import pyplot as plt

from antimatter import files

RANKS = 200  # points of the frequency curve


def zipf(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Token frequencies by rank (Zipf 1949): (rank, count), ranks evenly spaced on a log scale, tokens that never occur left out."""
    ordered = np.sort(counts[counts > 0])[::-1]
    for rank in np.unique(np.geomspace(1, len(ordered), RANKS).round().astype(int)):
        yield int(rank), int(ordered[rank - 1])


def draw(drops: Path, lengths: Path, frequencies: Path, picture: Path) -> None:
    """Where the bytes went, document lengths before and after, and token frequencies, as a PNG. The same numbers give the same bytes."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 5), dpi=100, layout="constrained", width_ratios=[1.3, 1, 1])
    reasons, _, megabytes = _read(drops)
    shown = sorted(zip(map(float, megabytes), reasons, strict=True))[-16:]
    bars = left.barh([reason.replace("_", " ") for _, reason in shown], [mb for mb, _ in shown], color=[_colour(reason) for _, reason in shown])
    left.bar_label(bars, [f" {mb:,.2f}" for mb, _ in shown], fontsize=8)
    left.set(title="Where the bytes went", xlabel="megabytes", xscale="log")
    left.margins(x=0.15)

    sizes, raw, cleaned = (list(map(int, column)) for column in _read(lengths))
    middle.step(sizes, raw, where="post", color="#9ecae1", label="raw")
    middle.step(sizes, cleaned, where="post", color="#d94801", label="cleaned")
    middle.set(title="Length of the documents", xlabel="bytes of text", ylabel="documents", xscale="log")
    middle.legend(frameon=False)

    ranks, counts = (list(map(int, column)) for column in _read(frequencies))
    right.plot(ranks, counts, color="#d94801")
    right.set(title="Token frequencies", xlabel="rank", ylabel="occurrences in train", xscale="log", yscale="log")
    for axes in (left, middle, right):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    with files.replacing(picture) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})  # the version of matplotlib would be in the bytes
    plt.close(figure)


def _colour(reason: str) -> str:
    return {"kept": "#31a354", "trimmed": "#9ecae1"}.get(reason, "#d94801")


def _read(path: Path) -> list[list[str]]:
    """The columns of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return [list(column) for column in zip(*rows, strict=True)]
