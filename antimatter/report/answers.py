"""Chart of the answers of the base and the tuned model."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from antimatter.report import plotting


def draw(shares: Path, picture: Path) -> None:
    """Draws one PNG: the share of each measure for both models, with its interval.

    Args:
        shares: a CSV with the columns of evaluation.conversation_page.HEADER.
    """
    table = plotting.read(shares=shares)["shares"]
    rows = np.arange(len(table["measure"]))
    figure = Figure(figsize=(9, 5.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, prefix, color, offset in (
        ("base", "base_", plotting.BEFORE, -0.2),
        ("tuned", "", plotting.AFTER, 0.2),
    ):
        values, low, high = plotting.numbers(table, name, f"{prefix}low", f"{prefix}high")
        errors = np.maximum(0, [values - low, high - values])
        axes.barh(rows + offset, values, 0.38, label=name, color=color)
        axes.errorbar(values, rows + offset, xerr=errors, fmt="none", ecolor="#1b1a22")
    axes.set_yticks(rows, table["measure"])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share, with its 95% interval", title="What it answers")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False)
    plotting.save(figure, picture)
