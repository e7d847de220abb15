"""Charts of the data stages, of one run or of several overlaid."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.report import plotting
from antimatter.report.plotting import AFTER, BEFORE, KEPT, QUIET, Runs, colored, numbers

REASONS = 16  # bars


def draw(drops: Path, lengths: Path, frequencies: Path, picture: Path) -> None:
    """Draws one PNG: where the bytes went, document lengths before and after, token frequencies."""
    runs = {"": plotting.read(drops=drops, lengths=lengths, frequencies=frequencies)}
    figure = Figure(figsize=(15, 5), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    where_the_bytes_went(left, runs)
    document_lengths(middle, runs)
    token_frequencies(right, runs)
    plotting.save(figure, picture)


def where_the_bytes_went(axes: Axes, runs: Runs) -> None:
    """Bars from the most bytes to the least, those of several runs side by side.

    A bar grows with the square root, so that small ones are visible.
    """
    drops, colors = [], []
    for run, color in colored(runs, "drops", "megabytes"):
        amounts = next(numbers(run["drops"], "megabytes"))
        drops.append(dict(zip(run["drops"]["reason"], amounts, strict=True)))
        colors.append(color)
    most = {
        reason: max(megabytes.get(reason, 0.0) for megabytes in drops)
        for reason in dict.fromkeys(reason for megabytes in drops for reason in megabytes)
    }
    reasons = sorted(most, key=most.__getitem__)[-REASONS:]
    height = 0.8 / len(drops)
    is_single = len(runs) == 1
    for i, (megabytes, color) in enumerate(zip(drops, colors, strict=True)):
        values = [megabytes.get(reason, 0.0) for reason in reasons]
        # The first run is on top
        places = np.arange(len(reasons)) + height * ((len(drops) - 1) / 2 - i)
        shades = [_color(reason) for reason in reasons] if is_single else color
        bars = axes.barh(places, values, height, color=shades)
        # Those of more runs would cover one another
        if len(drops) <= 2:
            labels = [f" {value:,.2f}" for value in values]
            axes.bar_label(bars, labels, fontsize=8 if is_single else 7, color=QUIET)
    axes.set_yticks(range(len(reasons)), [reason.replace("_", " ") for reason in reasons])
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set(
        title="Where the bytes went",
        xlabel="megabytes (a bar grows with the square root)",
        xticks=[],
        xlim=(0, 1.3 * max(most.values()) or 1),
    )


def document_lengths(axes: Axes, runs: Runs) -> None:
    is_single = len(runs) == 1
    for run, color in colored(runs, "lengths", "raw"):
        sizes, raw, cleaned = numbers(run["lengths"], "bytes", "raw", "cleaned")
        style, shade = ("-", BEFORE) if is_single else (":", color)
        axes.step(sizes, raw, style, where="post", color=shade, label="raw")
        axes.step(sizes, cleaned, where="post", color=color, label="cleaned")
    plotting.log(axes, "x")
    axes.set(title="Length of the documents", xlabel="bytes of text", ylabel="documents")
    axes.legend(*(handles[:2] for handles in axes.get_legend_handles_labels()), frameon=False)


def token_frequencies(axes: Axes, runs: Runs) -> None:
    for run, color in colored(runs, "frequencies", "count"):
        axes.plot(*numbers(run["frequencies"], "rank", "count"), color=color)
    plotting.log(axes, "x", "y")
    axes.set(title="Token frequencies", xlabel="rank", ylabel="occurrences in train")


def _color(reason: str) -> str:
    return {"kept": KEPT, "trimmed": BEFORE}.get(reason, AFTER)
