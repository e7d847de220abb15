"""The loss curve as a picture, for people without DVC. The numbers are those of plots/*.csv."""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # no screen needed

from matplotlib import pyplot as plt

from antimatter import files


def draw_loss(training: Path, validation: Path, picture: Path) -> None:
    """Train and validation loss over the steps, on a log scale, as a PNG. The same numbers give the same bytes."""
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    steps, losses = _read(training)
    axes.plot(steps, losses, color="#9ecae1", linewidth=1, label="train")
    steps, losses = _read(validation)
    axes.plot(steps, losses, color="#d94801", linewidth=2, marker="o", markersize=3, label=f"validation, {losses[-1]:.3f} at the end")
    axes.set(xlabel="step", ylabel="loss, nats per token", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False)
    with files.replacing(picture) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})  # the version of matplotlib would be in the bytes
    plt.close(figure)


def _read(path: Path) -> tuple[list[int], list[float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path} holds no row: run `dvc repro checkpoints` to make it anew")
    return [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
