"""A damaged CSV under plots/ is one line that names the file, whatever the damage."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from antimatter import files
from antimatter.cli import main as cli
from antimatter.errors import UserError
from antimatter.report import figures, plotting, revisions
from stages import report as stage

CURVE = "step,loss,learning_rate,gradient_norm\n5,8.1,0.1,1\n10,7.9,0.1,1.1\n20,7.5,0.1,0.9\n"
# Of the stage report, without backtracks.csv: most runs have no row of it
TABLES = {
    "answers/shares": "measure,base,tuned,low,high,base_low,base_high\nnext,.3,.6,.5,.7,.2,.4\n",
    "checkpoints/training": CURVE,
    "checkpoints/validation": "step,loss\n0,8.3\n20,7.6\n",
    "cleaned/drops": "reason,documents,megabytes\nkept,20,1.5\ntoo_short,4,0.1\n",
    "cleaned/lengths": "bytes,raw,cleaned\n1,29,0\n2,185,3\n4,99,80\n",
    "evaluation/bins": "at_most,vocabulary,tokens,loss,perplexity\n3,9,6,7,1755\n15,3,800,5,150\n",
    "gguf/sizes": "type,megabytes,perplexity,kl\nf32,8.2,682.1,1e-8\nf16,4.2,682.2,3e-7\n",
    "shards/frequencies": "rank,count\n1,2322\n2,1162\n4,500\n",
}


def column(text: str, index: int, value: str) -> str:
    """The CSV with this value in every row of a column."""
    header, *rows = [line.split(",") for line in text.splitlines()]
    lines = [header, *([*row[:index], value, *row[index + 1 :]] for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines)


DAMAGES: dict[str, Callable[[str], bytes]] = {
    "not UTF-8": lambda text: text.encode() + b"\xff\xfe\n",
    "empty": lambda text: b"",
    "a blank line": lambda text: b"\n",
    "only a header": lambda text: text.partition("\n")[0].encode() + b"\n",
    "a truncated row": lambda text: text.rstrip().rpartition(",")[0].encode(),
    "another header": lambda text: b"a,b\n1,2\n",
}


@pytest.fixture
def plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tables of a small run in the working directory."""
    monkeypatch.chdir(tmp_path)
    others = {
        "checkpoints/backtracks": "step,loss,back_to,rate_scale\n",
        "checkpoints/throughput": "step,tokens_per_second\n5,35856.4\n10,35423.5\n",
    }
    for name, text in {**TABLES, **others}.items():
        path = Path("plots") / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in figures.STAGES:
        files.write_json(Path("metrics") / name / "summary.json", {"loss": 1.5})
    Path("params.yaml").write_text("model: {n_layer: 2}\n")
    return Path("plots")


@pytest.mark.parametrize("damage", [*DAMAGES, "inf", "nan", "x"])
@pytest.mark.parametrize("table", TABLES)
def test_the_stage_names_the_file(
    plots: Path, table: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Takes most of the time, of the pictures before that one
    monkeypatch.setattr(plotting, "save", lambda figure, picture: None)
    path = plots / f"{table}.csv"
    # The second column of these two is not drawn
    index = 2 if table in ("cleaned/drops", "evaluation/bins") else 1
    text = path.read_text()
    is_text = damage in DAMAGES
    path.write_bytes(DAMAGES[damage](text) if is_text else column(text, index, damage).encode())
    with pytest.raises(UserError) as raised:
        stage.main(Path("metrics"), plots, Path("report"))
    error = str(raised.value)
    assert error.startswith(f"{path} is damaged (")
    assert error.endswith(": run `dvc repro` to rebuild it") and "\n" not in error


def test_a_missing_table_is_named(plots: Path) -> None:
    (plots / "gguf/sizes.csv").unlink()
    with pytest.raises(UserError, match=r"^plots/gguf/sizes.csv is missing: .*`dvc repro`"):
        stage.main(Path("metrics"), plots, Path("report"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("table", "index", "value"),
    [
        ("checkpoints/training", 0, "0"),
        ("checkpoints/training", 1, "-1"),
        ("checkpoints/training", 3, "0"),
        ("cleaned/drops", 2, "0"),
        ("cleaned/lengths", 0, "0"),
        ("shards/frequencies", 1, "0"),
        ("evaluation/bins", 0, "0"),
    ],
)
def test_a_column_without_a_positive_value_is_drawn(
    plots: Path, table: str, index: int, value: str
) -> None:
    path = plots / f"{table}.csv"
    path.write_text(column(path.read_text(), index, value))
    stage.main(Path("metrics"), plots, Path("report"))


@pytest.mark.parametrize("step", ["-5", "nan", "inf", "1e300"])
def test_a_step_that_is_no_place_is_named(plots: Path, step: str) -> None:
    path = plots / "checkpoints/training.csv"
    path.write_text(f"step,loss,learning_rate,gradient_norm\n{step},8.1,0.1,1\n5,8,0.1,1\n")
    with pytest.raises(UserError, match=rf"column step must lie in .*, got {re.escape(step)}\)"):
        stage.main(Path("metrics"), plots, Path("report"))


def test_a_diverged_curve_is_drawn(plots: Path) -> None:
    path = plots / "checkpoints/training.csv"
    path.write_text(path.read_text() + "9000,nan,0.1,inf\n9005,1e308,0.1,nan\n")
    stage.main(Path("metrics"), plots, Path("report"))


@pytest.mark.parametrize("content", [b"", b"step,loss\n0\n", b"\xff\n", b"step,loss\n0,x\n"])
def test_plots_names_the_file(
    plots: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plots / "checkpoints/validation.csv"
    path.write_bytes(content)
    assert cli.main(["plots"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} is damaged (") and error.count("\n") == 1
    assert not Path("plots.png").exists()


def test_plots_of_a_run_that_has_only_begun(plots: Path) -> None:
    """No file of a later stage, and curves of step 0 alone."""
    for folder in plots.iterdir():
        if folder.name != "checkpoints":
            shutil.rmtree(folder)
    curves = plots / "checkpoints"
    (curves / "training.csv").write_text("step,loss,learning_rate,gradient_norm\n0,8,0.1,1\n")
    (curves / "validation.csv").write_text("step,loss\n")
    (curves / "throughput.csv").write_text("step,tokens_per_second\n")
    assert cli.main(["plots"]) == 0


def test_a_revision_from_before_the_folders_of_the_stages(plots: Path) -> None:
    now = revisions.read("workspace")
    for name, path in revisions.TABLES.items():
        Path(path).rename(plots / f"{name}.csv")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    commands = (("init", "--quiet"), ("add", "plots"), ("commit", "--quiet", "-m", "old"))
    for command in commands:
        subprocess.run(["git", *identity, *command], check=True)
    assert revisions.read("HEAD") == now
    assert now.keys() == revisions.TABLES.keys()
    assert cli.main(["plots", "HEAD"]) == 0

    (plots / "drops.csv").write_bytes(b"reason,documents,megabytes\n\xff,1,1\n")
    subprocess.run(["git", *identity, "commit", "--quiet", "-a", "-m", "damaged"], check=True)
    error = r"^plots/drops.csv of HEAD is damaged \(it is not UTF-8\): leave this revision out$"
    with pytest.raises(UserError, match=error):
        revisions.read("HEAD")


def test_a_table_without_a_row_has_columns() -> None:
    assert plotting.parse("step,loss\n", "a.csv") == {"step": [], "loss": []}
