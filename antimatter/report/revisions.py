"""All charts of any revisions in one picture, for people without DVC.

The numbers are the CSV files under plots/, as Git has them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from antimatter.errors import UserError
from antimatter.report import data, plotting, quantization, training
from antimatter.report.plotting import Run, Runs, Table
from antimatter.repository import git

WORKSPACE = "workspace"  # the files as they are now, with or without Git
# By the name that the charts use
TABLES = {
    "training": "plots/checkpoints/training.csv",
    "validation": "plots/checkpoints/validation.csv",
    "backtracks": "plots/checkpoints/backtracks.csv",
    "throughput": "plots/checkpoints/throughput.csv",
    "bins": "plots/evaluation/bins.csv",
    "drops": "plots/cleaned/drops.csv",
    "lengths": "plots/cleaned/lengths.csv",
    "frequencies": "plots/shards/frequencies.csv",
    "gguf": "plots/gguf/sizes.csv",
}
COLUMNS = 3
Chart = Callable[[Axes, Runs], None]
# Each chart with the table and the column that it cannot do without, and with its width
CHARTS: list[tuple[Chart, str, str, int]] = [
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


def draw(revisions: Sequence[str], picture: Path) -> None:
    """Writes a PNG with every chart for which a revision has numbers.

    Args:
        revisions: commits, in any form that Git knows, names of DVC experiments, or `workspace`.
            Each has its own color.

    Raises:
        UserError: a revision is unknown, or has no numbers at all.
    """
    runs = {revision: read(revision) for revision in revisions}
    charts = [
        (chart, width)
        for chart, name, needed, width in CHARTS
        if any(plotting.colored(runs, name, needed))
    ]
    rows = _rows(charts)
    figure = Figure(figsize=(6 * COLUMNS, 5 * len(rows)), dpi=100, layout="constrained")
    grid = figure.add_gridspec(len(rows), COLUMNS)
    for i, row in enumerate(rows):
        column = 0
        for chart, width in row:
            chart(figure.add_subplot(grid[i, column : column + width]), runs)
            column += width
    if len(runs) > 1:
        plotting.legend(figure, list(runs))
    plotting.save(figure, picture)


def _rows(charts: list[tuple[Chart, int]]) -> list[list[tuple[Chart, int]]]:
    """The charts row by row: where a wide one does not fit, a later one fills the row."""
    rows: list[list[tuple[Chart, int]]] = []
    waiting = [*charts]
    while waiting:
        row: list[tuple[Chart, int]] = []
        for chart in [*waiting]:
            if sum(width for _, width in row) + chart[1] <= COLUMNS:
                row.append(chart)
                waiting.remove(chart)
        rows.append(row)
    return rows


def read(revision: str) -> Run:
    """The tables that a revision has."""
    commit = None if revision == WORKSPACE else _commit(revision)
    run = {name: table for name in TABLES if (table := _table(revision, commit, name)) is not None}
    if not any(any(table.values()) for table in run.values()):
        fix = "`dvc repro` makes them, and `git commit` keeps them"
        raise UserError(f"{revision} has no CSV files with numbers under plots/: {fix}")
    return run


def _table(revision: str, commit: str | None, name: str) -> Table | None:
    """A table of a commit, or of the workspace; None if there is none."""
    path = TABLES[name]
    if not commit:
        return plotting.read_table(Path(path)) if Path(path).is_file() else None
    # Before a folder for each stage, the tables had the names that the charts use
    for old_or_new in (path, f"plots/{name}.csv"):
        text = git.query("show", f"{commit}:./{old_or_new}")
        if text is not None:
            fix = "leave this revision out"
            return plotting.parse(text, f"{old_or_new} of {revision}", fix)
    return None


def _commit(revision: str) -> str:
    """The commit that Git knows by this name, or the newest experiment of this name.

    DVC stores an experiment at refs/exps/<2 digits of its base>/<the other digits>/<name>.
    """
    name = git.query(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    name = name or git.query(
        "for-each-ref",
        "--sort=-committerdate",
        "--count=1",
        "--format=%(objectname)",
        f"refs/exps/*/*/{revision}",
    )
    if not name:
        fix = f"see `git log` and `dvc exp list --all`; {WORKSPACE!r} is the files here"
        raise UserError(f"{revision!r} is not a commit and not an experiment: {fix}")
    return name.strip()
