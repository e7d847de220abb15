"""All charts of any revisions in one picture, for people without DVC. The numbers are plots/*.csv as Git has them."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.errors import UserError
from antimatter.report import data, plotting, quantization, training
from antimatter.report.plotting import Run, Runs

WORKSPACE = "workspace"  # the files as they are now, with or without Git
COLUMNS = 3
# What draws it, the table and the column without which it is nothing, its width
PANELS: list[tuple[Callable[[Axes, Runs], None], str, str, int]] = [
    (training.loss, "training", "loss", 2),
    (training.perplexity, "bins", "perplexity", 1),
    (training.learning_rate, "training", "learning_rate", 1),
    (training.gradient_norm, "training", "gradient_norm", 1),
    (training.throughput, "throughput", "tokens_per_second", 1),
    (data.where_the_bytes_went, "drops", "megabytes", 2),
    (data.document_lengths, "lengths", "raw", 1),
    (data.token_frequencies, "frequencies", "count", 1),
    (quantization.perplexity, "gguf", "perplexity", 1),
    (quantization.divergence, "gguf", "kl", 1),
]
NAMES = sorted({name for _, name, _, _ in PANELS} | {"validation", "backtracks"})


def draw(revisions: Sequence[str], picture: Path) -> None:
    """Writes a PNG of every chart for which a revision has numbers.

    Args:
        revisions: what Git knows as a commit, names of DVC experiments, or `workspace`; one colour each.

    Raises:
        ValueError: one of them is unknown, or has no numbers at all.
    """
    runs = {revision: read(revision) for revision in revisions}
    places: list[tuple[Callable[[Axes, Runs], None], int, int, int]] = []
    row = column = 0
    for panel, name, needed, width in PANELS:
        if any(plotting.coloured(runs, name, needed)):
            row, column = (row, column) if column + width <= COLUMNS else (row + 1, 0)
            places.append((panel, row, column, width))
            column += width
    figure = Figure(figsize=(6 * COLUMNS, 5 * (row + 1)), dpi=100, layout="constrained")
    grid = figure.add_gridspec(row + 1, COLUMNS)
    for panel, row, column, width in places:
        panel(figure.add_subplot(grid[row, column : column + width]), runs)
    if len(runs) > 1:
        plotting.legend(figure, list(runs))
    plotting.save(figure, picture)


def read(revision: str) -> Run:
    """The tables of a revision, those that it has."""
    commit = None if revision == WORKSPACE else _commit(revision)
    texts = {
        name: _workspace(name) if commit is None else _git("show", f"{commit}:./plots/{name}.csv")
        for name in NAMES
    }
    run = {name: plotting.table(text) for name, text in texts.items() if text}
    if not any(any(table.values()) for table in run.values()):
        raise UserError(
            f"{revision} has no plots/*.csv with numbers: `dvc repro` makes them, and `git commit` keeps them"
        )
    return run


def _workspace(name: str) -> str:
    path = Path("plots") / f"{name}.csv"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _commit(revision: str) -> str:
    """Of what Git knows, or else of the newest experiment of that name, which DVC keeps at refs/exps/<2 digits of its base>/<the others>/<name>."""
    name = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    name = name or _git(
        "for-each-ref",
        "--sort=-committerdate",
        "--count=1",
        "--format=%(objectname)",
        f"refs/exps/*/*/{revision}",
    )
    if not name:
        raise UserError(
            f"{revision!r} is no commit and no experiment: see `git log` and `dvc exp list --all`; {WORKSPACE!r} is the files here"
        )
    return name.strip()


def _git(*arguments: str) -> str:
    """What it says; nothing if it fails."""
    return subprocess.run(
        ["git", *arguments], capture_output=True, text=True, encoding="utf-8", check=False
    ).stdout
