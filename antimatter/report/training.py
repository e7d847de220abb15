"""Charts of a training, of one run or of several overlaid: loss, steps, speed, rare tokens."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.report import plotting
from antimatter.report.plotting import BEFORE, Runs, colored, means, numbers

FEW = 100  # tokens of validation: a perplexity over fewer is hollow


def draw(
    training: Path, validation: Path, backtracks: Path, bins: Path, losses: Path, steps: Path
) -> None:
    """Draws two PNGs: loss, and perplexity by frequency; learning rate, and gradient norm.

    Raises:
        UserError: a table is damaged, or a curve has no row.
    """
    run = plotting.read(training=training, validation=validation, bins=bins)
    # Most runs have no row of it
    runs = {"": {**run, "backtracks": plotting.read_table(backtracks)}}
    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    loss(left, runs)
    perplexity(right, runs)
    plotting.save(figure, losses)
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    learning_rate(left, runs)
    gradient_norm(right, runs)
    plotting.save(figure, steps)


def loss(axes: Axes, runs: Runs) -> None:
    """For several runs, the train loss has its mean on top, and validation is dashed."""
    is_single = len(runs) == 1
    for run, color in colored(runs, "training", "loss"):
        steps, losses = numbers(run["training"], "step", "loss")
        if is_single:
            axes.plot(steps, losses, color=BEFORE, linewidth=1, label="train")
        else:
            _faint_with_mean(axes, steps, losses, color)
    for run, color in colored(runs, "validation", "loss"):
        steps, losses = numbers(run["validation"], "step", "loss")
        axes.plot(
            steps,
            losses,
            "o-" if is_single else "o--",
            color=color,
            linewidth=2,
            markersize=3,
            label=f"validation, {losses[-1]:.3f} at the end",
        )
    axes.set(
        xlabel="step",
        ylabel="loss, nats per token",
        title="Train and validation loss" + ("" if is_single else " (dashed)"),
    )
    plotting.log(axes, "y")
    _finish(axes, runs)
    axes.legend(frameon=False)


def learning_rate(axes: Axes, runs: Runs) -> None:
    for run, color in colored(runs, "training", "learning_rate"):
        axes.plot(*numbers(run["training"], "step", "learning_rate"), color=color)
    axes.set(title="Learning rate", xlabel="step", ylim=(0, None))
    _finish(axes, runs)


def gradient_norm(axes: Axes, runs: Runs) -> None:
    for run, color in colored(runs, "training", "gradient_norm"):
        steps, norms = numbers(run["training"], "step", "gradient_norm")
        _faint_with_mean(axes, steps, norms, color)
    axes.set(title="Gradient norm before clipping", xlabel="step")
    plotting.log(axes, "y")
    _finish(axes, runs)


def throughput(axes: Axes, runs: Runs) -> None:
    for run, color in colored(runs, "throughput", "tokens_per_second"):
        speeds = numbers(run["throughput"], "step", "tokens_per_second")
        axes.plot(*speeds, color=color, linewidth=1)
    axes.set(title="Tokens per second in training", xlabel="step", ylim=(0, None))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")


def perplexity(axes: Axes, runs: Runs) -> None:
    """Perplexity by how often a token occurs in train."""
    for run, color in colored(runs, "bins", "tokens"):
        occurrences, perplexities, tokens = numbers(run["bins"], "at_most", "perplexity", "tokens")
        axes.plot(occurrences, perplexities, color=color, linewidth=2)
        faces = [color if enough else "white" for enough in tokens >= FEW]
        axes.scatter(occurrences, perplexities, s=20, facecolors=faces, edgecolors=color, zorder=3)
    hollow = f"(hollow: seen under {FEW} times in validation)"
    axes.set(
        xlabel=f"occurrences of the token in train, at most\n{hollow}",
        ylabel="perplexity on validation",
        title="Perplexity by how often a token occurs",
    )
    plotting.log(axes, "x", "y")


def _faint_with_mean(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str) -> None:
    axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.3)
    axes.plot(*means(steps, values), color=color, linewidth=1.2)


def _finish(axes: Axes, runs: Runs) -> None:
    """Adds the numbers of the steps, and a dotted line where the loss spiked and training went
    back.
    """
    axes.xaxis.set_major_formatter("{x:,.0f}")
    for run, color in colored(runs, "backtracks", "step"):
        for i, step in enumerate(next(numbers(run["backtracks"], "step"))):
            # A label that begins with _ is not in the legend
            label = "_" if i else "loss spike: went back"
            axes.axvline(step, color=color, linestyle=":", linewidth=1, label=label)
