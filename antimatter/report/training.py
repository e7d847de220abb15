"""A training as pictures, of one run or of several overlaid: its loss, its steps, its speed, and what it knows of rare tokens."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.errors import UserError
from antimatter.report import plotting
from antimatter.report.plotting import BEFORE, Runs, coloured, means, numbers

FEW = 100  # tokens of validation: a perplexity over fewer is hollow


def draw(
    training: Path, validation: Path, backtracks: Path, bins: Path, losses: Path, steps: Path
) -> None:
    """Two PNGs: loss, and perplexity by frequency; learning rate, and gradient norm. The same numbers give the same bytes.

    Raises:
        ValueError: a curve without a row.
    """
    runs = {"": plotting.read(training, validation, backtracks, bins)}
    for path in (training, validation, bins):
        if not any(runs[""][path.stem].values()):
            raise UserError(f"{path} holds no row: run `dvc repro checkpoints` to make it anew")
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
    """Of several runs the train loss is drawn as its mean too, and validation is dashed."""
    alone = len(runs) == 1
    for run, colour in coloured(runs, "training", "loss"):
        steps, losses = numbers(run["training"], "step", "loss")
        if alone:
            axes.plot(steps, losses, color=BEFORE, linewidth=1, label="train")
        else:
            _faint_with_mean(axes, steps, losses, colour)
    for run, colour in coloured(runs, "validation", "loss"):
        steps, losses = numbers(run["validation"], "step", "loss")
        axes.plot(
            steps,
            losses,
            "o-" if alone else "o--",
            color=colour,
            linewidth=2,
            markersize=3,
            label=f"validation, {losses[-1]:.3f} at the end",
        )
    axes.set(
        xlabel="step",
        ylabel="loss, nats per token",
        title="" if alone else "Train loss, and validation (dashed)",
    )
    plotting.log(axes, "y")
    _mark_backtracks(axes, runs)
    axes.legend(frameon=False)


def learning_rate(axes: Axes, runs: Runs) -> None:
    for run, colour in coloured(runs, "training", "learning_rate"):
        axes.plot(*numbers(run["training"], "step", "learning_rate"), color=colour)
    axes.set(title="Learning rate", xlabel="step", ylim=(0, None))
    _mark_backtracks(axes, runs)


def gradient_norm(axes: Axes, runs: Runs) -> None:
    for run, colour in coloured(runs, "training", "gradient_norm"):
        steps, norms = numbers(run["training"], "step", "gradient_norm")
        _faint_with_mean(axes, steps, norms, colour)
    axes.set(title="Gradient norm before clipping", xlabel="step")
    plotting.log(axes, "y")
    _mark_backtracks(axes, runs)


def throughput(axes: Axes, runs: Runs) -> None:
    for run, colour in coloured(runs, "throughput", "tokens_per_second"):
        axes.plot(
            *numbers(run["throughput"], "step", "tokens_per_second"), color=colour, linewidth=1
        )
    axes.set(title="Tokens per second in training", xlabel="step", ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:,.0f}")


def perplexity(axes: Axes, runs: Runs) -> None:
    """By how often a token occurs in train."""
    for run, colour in coloured(runs, "bins", "tokens"):
        occurrences, perplexities, tokens = numbers(run["bins"], "at_most", "perplexity", "tokens")
        axes.plot(occurrences, perplexities, color=colour, linewidth=2)
        faces = [colour if enough else "white" for enough in tokens >= FEW]
        axes.scatter(occurrences, perplexities, s=20, facecolors=faces, edgecolors=colour, zorder=3)
    axes.set(
        xlabel=f"occurrences of the token in train, at most\n(hollow: seen under {FEW} times in validation)",
        ylabel="perplexity on validation",
    )
    plotting.log(axes, "x", "y")


def _faint_with_mean(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(*means(steps, values), color=colour, linewidth=1.2)


def _mark_backtracks(axes: Axes, runs: Runs) -> None:
    """A dotted line where the loss spiked and training went back."""
    for run, colour in coloured(runs, "backtracks", "step"):
        for i, step in enumerate(next(numbers(run["backtracks"], "step"))):
            axes.axvline(
                step,
                color=colour,
                linestyle=":",
                linewidth=1,
                label="_" if i else "loss spike: went back",
            )
