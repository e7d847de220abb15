"""The ladder as a PNG: on the left its rungs with the law, on the right the forecast."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.ladder.fit import LN2, Ladder, data_bytes
from antimatter.ladder.scaling import Array, Interval
from antimatter.report import plotting

BLUES, RED, GREYS = ("#9ecae1", "#4292c6", "#08519c"), "#d94801", ("#969696", "#636363")


def draw(ladder: Ladder, path: Path) -> None:
    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    _rungs(left, right, ladder)
    flops = [result.run.flops for result in ladder.rungs]
    low, high, target = min(flops), max(flops), ladder.target.flops
    _frontier(left, ladder, low, 2 * high)
    _check(left, ladder)
    left.set(
        xlabel="FLOPs of training",
        ylabel="bits per byte on validation",
        xscale="log",
        title="The ladder: runs (dots) and the law (lines)",
    )
    _frontier(right, ladder, low, 3 * target)
    _forecast(right, ladder)
    right.axvspan(low, high, color=BLUES[-1], alpha=0.06, linewidth=0)
    right.set(
        xlabel="FLOPs of training",
        xscale="log",
        title=f"The forecast: {float(f'{target / high:.2g}'):,.0f} x the FLOPs",
    )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=9)
    plotting.save(figure, path)


def _rungs(left: Axes, right: Axes, ladder: Ladder) -> None:
    """The measured losses, and on the left the law's line for each width."""
    widths = sorted({result.run.model.n_embd for result in ladder.rungs})
    colors = [*BLUES[-len(widths) :], *[BLUES[-1]] * len(widths)]
    for width, color in zip(widths, colors, strict=False):
        rungs = sorted(
            (result for result in ladder.rungs if result.run.model.n_embd == width),
            key=lambda result: result.run.flops,
        )
        flops = [result.run.flops for result in rungs]
        bits = [result.bits_per_byte for result in rungs]
        weights = rungs[0].run.weights
        first, last = (data_bytes(ladder.base, result.run) for result in (rungs[0], rungs[-1]))
        data = np.geomspace(first, last, 40)
        line = [ladder.law.expected(weights, d).median / LN2 for d in data]
        left.plot(data / first * flops[0], line, color=color, linewidth=1.5)
        label = f"{width} wide, N = {weights / 1e6:.2g} M"
        left.plot(flops, bits, "o", color=color, markersize=6, label=label)
        right.plot(flops, bits, "o", color=color, markersize=4)


def _frontier(axes: Axes, ladder: Ladder, low: float, high: float) -> None:
    """The least loss that the law has for an amount of computation."""
    top = ladder.largest.run
    flops_per_product = top.flops / (top.weights * data_bytes(ladder.base, top))
    flops: Array = np.geomspace(low, high, 60)
    losses = ladder.law.frontier(flops / flops_per_product)
    least, middle, most = np.quantile(losses, (0.05, 0.5, 0.95), axis=1) / LN2
    label = "least loss for these FLOPs, 90%"
    axes.fill_between(flops, least, most, color=GREYS[0], alpha=0.3, linewidth=0, label=label)
    axes.plot(flops, middle, color=GREYS[1], linewidth=1, linestyle="--")


def _check(axes: Axes, ladder: Ladder) -> None:
    """The largest rung, and its prediction a little to the right of it."""
    flops, bits = ladder.largest.run.flops, ladder.largest.bits_per_byte
    check = ladder.check.times(1 / LN2)
    label = f"largest rung, predicted by the others: {100 * (check.median / bits - 1):+.1f}%"
    _interval(axes, 1.25 * flops, check, label)
    axes.plot(flops, bits, "o", markersize=13, markerfacecolor="none", color=RED)


def _forecast(axes: Axes, ladder: Ladder) -> None:
    bits = ladder.forecast.bits_per_byte
    _interval(axes, ladder.target.flops, bits, f"{ladder.target.name}: {bits.text()}")


def _interval(axes: Axes, flops: float, interval: Interval, label: str) -> None:
    error = [[interval.median - interval.low], [interval.high - interval.median]]
    axes.errorbar(
        flops,
        interval.median,
        error,
        fmt="D",
        color=RED,
        markersize=7,
        capsize=5,
        label=label,
    )
