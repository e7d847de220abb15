"""What became of the text as pictures, of one run or of several overlaid."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.report import plotting
from antimatter.report.plotting import AFTER, BEFORE, KEPT, Runs, coloured, numbers

RANKS = 200  # points of the frequency curve
REASONS = 16  # bars


def zipf(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Token frequencies by rank (Zipf 1949): (rank, count), ranks evenly spaced on a log scale, tokens that never occur left out."""
    ordered = np.sort(counts[counts > 0])[::-1]
    for rank in np.unique(np.geomspace(1, len(ordered), RANKS).round().astype(int)):
        yield int(rank), int(ordered[rank - 1])


def draw(drops: Path, lengths: Path, frequencies: Path, picture: Path) -> None:
    """Where the bytes went, document lengths before and after, and token frequencies, as a PNG. The same numbers give the same bytes."""
    runs = {"": plotting.read(drops, lengths, frequencies)}
    figure = Figure(figsize=(15, 5), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    where_the_bytes_went(left, runs)
    document_lengths(middle, runs)
    token_frequencies(right, runs)
    plotting.save(figure, picture)


def where_the_bytes_went(axes: Axes, runs: Runs) -> None:
    """Bars from the most bytes to the least, those of several runs side by side. They grow with the square root: small ones stay visible."""
    found, colours = [], []
    for run, colour in coloured(runs, "drops", "megabytes"):
        found.append(
            dict(zip(run["drops"]["reason"], next(numbers(run["drops"], "megabytes")), strict=True))
        )
        colours.append(colour)
    most = {
        reason: max(megabytes.get(reason, 0.0) for megabytes in found)
        for reason in dict.fromkeys(r for megabytes in found for r in megabytes)
    }
    shown = sorted(most, key=most.__getitem__)[-REASONS:]
    height = 0.8 / len(found)
    for i, (megabytes, colour) in enumerate(zip(found, colours, strict=True)):
        values = [megabytes.get(reason, 0.0) for reason in shown]
        places = np.arange(len(shown)) + height * ((len(found) - 1) / 2 - i)  # the first run on top
        bars = axes.barh(
            places,
            values,
            height,
            color=colour if len(runs) > 1 else [_colour(reason) for reason in shown],
        )
        axes.bar_label(
            bars, [f" {value:,.2f}" for value in values], fontsize=8 if len(runs) == 1 else 5
        )
    axes.set_yticks(range(len(shown)), [reason.replace("_", " ") for reason in shown])
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set(
        title="Where the bytes went",
        xlabel="megabytes (a bar grows with the square root)",
        xticks=[],
        xlim=(0, 1.3 * max(most.values())),
    )


def document_lengths(axes: Axes, runs: Runs) -> None:
    for run, colour in coloured(runs, "lengths", "raw"):
        sizes, raw, cleaned = numbers(run["lengths"], "bytes", "raw", "cleaned")
        axes.step(
            sizes,
            raw,
            ":" if len(runs) > 1 else "-",
            where="post",
            color=colour if len(runs) > 1 else BEFORE,
            label="raw",
        )
        axes.step(sizes, cleaned, where="post", color=colour, label="cleaned")
    plotting.log(axes, "x")
    axes.set(title="Length of the documents", xlabel="bytes of text", ylabel="documents")
    axes.legend(*(handles[:2] for handles in axes.get_legend_handles_labels()), frameon=False)


def token_frequencies(axes: Axes, runs: Runs) -> None:
    for run, colour in coloured(runs, "frequencies", "count"):
        axes.plot(*numbers(run["frequencies"], "rank", "count"), color=colour)
    plotting.log(axes, "x", "y")
    axes.set(title="Token frequencies", xlabel="rank", ylabel="occurrences in train")


def _colour(reason: str) -> str:
    return {"kept": KEPT, "trimmed": BEFORE}.get(reason, AFTER)
