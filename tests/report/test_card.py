"""The model card says what the files of the last run say."""

import re
import shutil
from pathlib import Path

import pytest

from antimatter import cli, files
from antimatter.report import card


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("dvc.lock", "metrics", "plots"):
        (shutil.copytree if Path(name).is_dir() else shutil.copy2)(name, tmp_path / name)
    return tmp_path


def test_the_card_in_git_is_of_the_last_run(copy: Path) -> None:
    card.write(copy / "card.md", copy)
    written, known = (
        (path).read_text(encoding="utf-8").splitlines()
        for path in (copy / "card.md", Path("docs/model-card.md"))
    )
    assert [line for line in written if not line.startswith("| commit |")] == [
        line for line in known if not line.startswith("| commit |")
    ]


def test_its_figures_are_those_of_the_metrics(copy: Path) -> None:
    text = card.card(card.Facts(copy))
    evaluation, checkpoints = (
        files.read_json(copy / f"metrics/{name}.json") for name in ("evaluation", "checkpoints")
    )
    assert f"| {evaluation['validation']['perplexity']:.2f} |" in text
    assert f"| parameters | {checkpoints['parameters']:,} |" in text
    assert files.read_json(copy / "metrics/provenance.json")["code"] in text
    assert "{" not in text and "None" not in text  # no field is left open


def test_a_table_holds_as_many_cells_as_its_head(copy: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", card.card(card.Facts(copy)), re.MULTILINE)
    assert len(tables) > 3
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize(
    "name", ["metrics/evaluation.json", "metrics/provenance.json", "plots/sources.csv"]
)
def test_a_figure_that_is_not_of_the_run_is_refused(copy: Path, name: str) -> None:
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace("1", "2"))
    with pytest.raises(
        ValueError, match=rf"{name} is not the file that dvc\.lock records: run `dvc repro`"
    ):
        card.card(card.Facts(copy))
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        card.card(card.Facts(copy))


def test_the_command_writes_it_where_it_is_asked_to(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy)
    assert cli.main(["card"]) == 0
    assert (copy / "docs/model-card.md").read_text(encoding="utf-8").startswith("---\nlicense: ")
    (copy / "dvc.lock").unlink()
    assert cli.main(["card"]) == 1
    assert (
        capsys.readouterr().err
        == "error: dvc.lock is missing: run `dvc repro`, or `git checkout dvc.lock`\n"
    )
