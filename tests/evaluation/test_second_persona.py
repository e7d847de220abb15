"""Another persona for a tuned model, by the command."""

from pathlib import Path

import pytest
from helpers import tiny_pipeline

from antimatter import cli, files
from antimatter.model import weights


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the pipeline has run."""
    monkeypatch.chdir(made)
    return made


@pytest.mark.usefixtures("torch_as_before")
def test_the_command_leaves_a_model_that_knows_its_new_persona(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text(tiny_pipeline.PERSONA.replace("name: Tim", "name: Ada"))
    before = files.sha256(here / "models/tuned/final.safetensors")
    arguments = [
        "tune",
        str(tmp_path / "other.yaml"),
        "--output",
        str(tmp_path / "ada"),
        "--epochs",
        "1",
    ]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/ada: " in said and " of 1 held-out questions" in said
    _, made_of, chat = weights.read_config(tmp_path / "ada/config.json")
    assert chat is not None and chat["greeting"] == "Hi, I am Ada."
    assert made_of["initial"]["data"]["conversations"]
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
