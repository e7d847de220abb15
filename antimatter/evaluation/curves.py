"""The curves as a picture, for people without DVC. The numbers are those of plots/*.csv."""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no screen needed

from matplotlib import pyplot as plt

from antimatter import files


def draw(training: Path, validation: Path, bins: Path, picture: Path) -> None:
    """Train and validation loss over the steps, and perplexity by how often a token occurs, as a PNG. The same numbers give the same bytes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), dpi=110, layout="constrained", width_ratios=(3, 2))
    steps, losses = _read(training, "step", "loss")
    left.plot(steps, losses, color="#9ecae1", linewidth=1, label="train")
    steps, losses = _read(validation, "step", "loss")
    left.plot(steps, losses, color="#d94801", linewidth=2, marker="o", markersize=3, label=f"validation, {losses[-1]:.3f} at the end")
    left.set(xlabel="step", ylabel="loss, nats per token", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    left.legend(frameon=False)
    occurrences, perplexities = _read(bins, "at_most", "perplexity")
    right.plot(occurrences, perplexities, color="#d94801", linewidth=2, marker="o", markersize=4)
    right.set(xlabel="occurrences of the token in train, at most", ylabel="perplexity on validation", xscale="log", yscale="log")
    for axes in (left, right):
        axes.grid(which="both", alpha=0.25)
    with files.replacing(picture) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})  # the version of matplotlib would be in the bytes
    plt.close(figure)


def _read(path: Path, x: str, y: str) -> tuple[list[int], list[float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} holds no row: run `dvc repro checkpoints` to make it anew")
    return [int(row[x]) for row in rows], [float(row[y]) for row in rows]
