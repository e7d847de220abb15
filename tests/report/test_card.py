"""The model card has the figures of the last run."""

import re
import shutil
from pathlib import Path

import pytest

from antimatter import files
from antimatter.cli import main as cli
from antimatter.errors import UserError
from antimatter.report import card


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files of the last run that are in Git."""
    shutil.copy2("dvc.lock", tmp_path)
    for name in ("metrics", "plots"):
        shutil.copytree(name, tmp_path / name)
    return tmp_path


def test_the_card_in_git_is_of_the_last_run(copy: Path) -> None:
    card.write(copy / "card.md", copy)
    written, committed = (
        [line for line in path.read_text(encoding="utf-8").splitlines() if "| commit |" not in line]
        for path in (copy / "card.md", Path("docs/model-card.md"))
    )
    assert written == committed


def test_its_figures_are_those_of_the_metrics(copy: Path) -> None:
    text = card.card(card.RunRecord(copy))
    evaluation, checkpoints = (
        files.read_json(copy / "metrics" / stage / "summary.json")
        for stage in ("evaluation", "checkpoints")
    )
    assert f"| {evaluation['perplexity']:.2f} |" in text
    assert f"| parameters | {checkpoints['parameters']:,} |" in text
    assert files.read_json(copy / "metrics/checkpoints/provenance.json")["code"] in text
    # No field is left open
    assert "{" not in text and "None" not in text


def test_a_base_model_has_no_section_on_conversations(copy: Path) -> None:
    run = card.RunRecord(copy)
    for stage in run.stages.values():
        values = stage.get("params", {}).get("params.yaml", {})
        if "gguf" in values:
            values["gguf"]["model"] = "checkpoints"
    text = card.card(run)
    assert "## Evaluation" in text and "it continues text" in text
    assert "## Tuning" not in text and "## Conversation" not in text


def test_every_row_of_a_table_has_the_cells_of_its_header(copy: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", card.card(card.RunRecord(copy)), re.MULTILINE)
    assert len(tables) > 3
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize(
    "name",
    [
        "metrics/evaluation/summary.json",
        "metrics/checkpoints/provenance.json",
        "plots/raw/sources.csv",
    ],
)
def test_a_figure_of_another_run_is_refused(copy: Path, name: str) -> None:
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace("1", "2"))
    error = rf"{name} is not the file that dvc\.lock records: run `dvc repro`"
    with pytest.raises(UserError, match=error):
        card.card(card.RunRecord(copy))
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing: run `dvc repro`"):
        card.card(card.RunRecord(copy))


def test_the_command_writes_the_card(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy)
    assert cli.main(["card"]) == 0
    assert (copy / "docs/model-card.md").read_text(encoding="utf-8").startswith("---\nlicense: ")
    (copy / "dvc.lock").unlink()
    assert cli.main(["card"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: dvc.lock is missing: run `dvc repro`")
    assert error.count("\n") == 1
