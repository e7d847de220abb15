"""A new persona for a tuned model, by the command."""

import dataclasses
from pathlib import Path

import pytest
from helpers import tiny_pipeline

from antimatter import files
from antimatter.cli import main as cli
from antimatter.errors import UserError
from antimatter.evaluation.persona_tuning import PersonaTuning, tune
from antimatter.model import weights


@pytest.fixture
def here(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the pipeline has run."""
    monkeypatch.chdir(tiny_pipeline)
    return tiny_pipeline


@pytest.mark.usefixtures("torch_as_before")
def test_the_command_writes_a_model_with_the_new_persona(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text(tiny_pipeline.PERSONA.replace("name: Tim", "name: Ada"))
    before = files.sha256(here / "models/tuned/final.safetensors")
    persona, output = str(tmp_path / "other.yaml"), str(tmp_path / "ada")
    assert cli.main(["tune", persona, "--output", output, "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{output}: " in printed and " of 1 held-out questions" in printed
    _, provenance, chat = weights.read_config(tmp_path / "ada/config.json")
    assert chat is not None and chat["greeting"] == "Hi, I am Ada."
    assert provenance["initial"]["data"]["conversations"]
    assert files.sha256(tmp_path / "ada/final.safetensors") != before
    assert files.sha256(here / "models/tuned/final.safetensors") == before


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda text: text.replace("  held_out: [Hey]\n", "  held_out: []\n"), "hello"),
        (lambda text: text.replace("facts: {", "fact: {"), "`fact`"),
        (None, "missing"),
    ],
    ids=["none held out", "a wrong key", "no file"],
)
def test_a_bad_persona_is_one_line_and_nothing_is_written(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, named: str
) -> None:
    path = tmp_path / "bad.yaml"
    if callable(spoil):
        path.write_text(spoil(tiny_pipeline.PERSONA))
    assert cli.main(["tune", str(path), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "bad.yaml" in error and named in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["mine", "mine/..", ".", "file"])
def test_an_output_that_would_delete_other_files_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    (tmp_path / "file").write_text("text")
    request = PersonaTuning(
        **{field.name: Path(output) for field in dataclasses.fields(PersonaTuning)}
    )
    with pytest.raises(UserError, match="--output"):
        tune(request, print)
    assert (tmp_path / "mine/letter.txt").exists() and (tmp_path / "file").is_file()
