"""A new persona for a tuned model, by the command."""

import shutil
from pathlib import Path

import pytest
from helpers import tiny_pipeline

from antimatter import files
from antimatter.chat import collection
from antimatter.cli import main as cli
from antimatter.cli import options
from antimatter.model import weights
from antimatter.training.trainer import Trainer


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--output mine", "mine has letter.txt, which this command does not write"),
        ("--output mine/..", "'mine/..' is used as a whole"),
        ("--output .", "'.' is used as a whole"),
        ("--output file", "file is a file: name a folder"),
        ("--output file/x", "file is not a folder"),
        ("--output link", "link is a link"),
        ("--output folders", "folders has config.json/thesis, which this command does not write"),
        ("--output theirs", "theirs/config.json is not a model config"),
        ("--output x --from nowhere", "--from nowhere has no file config.json: name the folder"),
        ("--output x --from file", "--from file has no file config.json: name the folder"),
    ],
)
def test_paths_that_do_not_fit_are_refused_before_the_training(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "folders/config.json", "theirs"):
        Path(name).mkdir(parents=True)
    Path("mine/letter.txt").write_text("dear")
    Path("folders/config.json/thesis").write_text("long")
    Path("theirs/config.json").write_text('{"model": "of another program"}')
    Path("file").write_text("text")
    Path("link").symlink_to("mine")
    before = sorted(tmp_path.rglob("*"))
    model = [] if "--from" in arguments else ["--from", str(here / "models/tuned")]
    assert cli.main(["tune", "persona.yaml", *model, *arguments.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_tuning_says_that_it_starts_again(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pause(trainer: Trainer) -> None:
        raise InterruptedError("paused, nothing is lost")

    monkeypatch.setattr(Trainer, "run", pause)
    output = tmp_path / "out"
    assert cli.main(["tune", "prompts/persona.yaml", "--output", str(output)]) == 130
    error = capsys.readouterr().err
    assert f"nothing was written to {output}" in error and "nothing is lost" not in error
    assert not output.exists()


def test_damaged_conversations_are_named(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(here / "data/conversations", tmp_path / "conversations")
    table = copy / collection.TABLE
    table.unlink()
    table.write_bytes(b"no parquet")
    monkeypatch.setattr(options, "CONVERSATIONS", copy)
    output = str(tmp_path / "out")
    assert cli.main(["tune", "prompts/persona.yaml", "--output", output]) == 1
    error = capsys.readouterr().err
    assert f"{table} is missing or damaged" in error and "dvc repro conversations" in error
