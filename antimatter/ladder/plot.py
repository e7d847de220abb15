"""The ladder as a picture: its rungs with the law, and where the law leads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")  # no screen needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from antimatter import files
from antimatter.ladder.scaling import Array, Interval, Law

LN2 = np.log(2)
BLUES, RED = ("#9ecae1", "#4292c6", "#08519c"), "#d94801"


@dataclass(frozen=True)
class Point:
    width: int
    weights: float
    data: float  # bytes of text
    flops: float
    bits_per_byte: float


@dataclass(frozen=True)
class Target:
    name: str
    flops: float
    bits_per_byte: Interval


def draw(points: Sequence[Point], law: Law, check: Interval, target: Target, path: Path) -> None:
    """Left the rungs, a line for each size, with the largest one beside its prediction from the others; right the way to the target, as a PNG.

    Args:
        check: the largest rung as the others predict it, bits per byte.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), dpi=110, layout="constrained")
    top = max(points, key=lambda point: point.flops)
    share = top.flops / (top.weights * top.data)  # FLOPs per weight and byte
    widths = sorted({point.width for point in points})
    for width, color in zip(
        widths, [*BLUES[-len(widths) :], *[BLUES[-1]] * len(widths)], strict=False
    ):
        own = sorted(
            (point for point in points if point.width == width), key=lambda point: point.flops
        )
        data = np.geomspace(own[0].data, own[-1].data, 40)
        line = [law.expected(own[0].weights, d).median / LN2 for d in data]
        left.plot(data / own[0].data * own[0].flops, line, color=color, linewidth=1.5)
        label = f"{width} wide, N = {own[0].weights / 1e6:.2g} M"
        left.plot(
            [p.flops for p in own],
            [p.bits_per_byte for p in own],
            "o",
            color=color,
            markersize=6,
            label=label,
        )
        right.plot(
            [p.flops for p in own], [p.bits_per_byte for p in own], "o", color=color, markersize=4
        )
    low, high = min(point.flops for point in points), top.flops
    _band(left, law, share, low, 2 * high, "least loss for these FLOPs, 90%")
    error = [[check.median - check.low], [check.high - check.median]]
    label = f"largest rung, predicted by the others: {100 * (check.median / top.bits_per_byte - 1):+.1f}%"
    left.errorbar(
        1.25 * top.flops,
        check.median,
        error,
        fmt="D",
        color=RED,
        markersize=6,
        capsize=4,
        label=label,
    )
    left.plot(top.flops, top.bits_per_byte, "o", markersize=13, markerfacecolor="none", color=RED)
    left.set(
        xlabel="FLOPs of training",
        ylabel="bits per byte on validation",
        xscale="log",
        title="The ladder: runs (dots) and the law (lines)",
    )
    _band(right, law, share, low, 3 * target.flops, "least loss for these FLOPs, 90%")
    bits = target.bits_per_byte
    label = f"{target.name}: {bits.median:.2f} ({bits.low:.2f} to {bits.high:.2f})"
    right.errorbar(
        target.flops,
        bits.median,
        [[bits.median - bits.low], [bits.high - bits.median]],
        fmt="D",
        color=RED,
        markersize=7,
        capsize=5,
        label=label,
    )
    right.axvspan(low, high, color="#08519c", alpha=0.06, linewidth=0)
    right.set(
        xlabel="FLOPs of training",
        xscale="log",
        title=f"Where it leads: {float(f'{target.flops / high:.2g}'):,.0f} x the FLOPs",
    )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(which="major", alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    with files.replacing(path) as partial:
        # The version of matplotlib would be in the bytes
        figure.savefig(partial, format="png", metadata={"Software": None})
    plt.close(figure)


def _band(axes: Axes, law: Law, share: float, low: float, high: float, label: str) -> None:
    flops: Array = np.geomspace(low, high, 60)
    least, middle, most = np.quantile(law.frontier(flops / share), (0.05, 0.5, 0.95), axis=1) / LN2
    axes.fill_between(flops, least, most, color="#969696", alpha=0.3, linewidth=0, label=label)
    axes.plot(flops, middle, color="#636363", linewidth=1, linestyle="--")
