"""Training that continues from given weights, as a stage: what is recorded, a kill, and verify."""

import csv
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from helpers.tiny_pipeline import DVC, ENVIRONMENT, commit, dvc, edit, run
from ruamel.yaml import YAML

from antimatter import files
from antimatter.cli import main as cli
from antimatter.export import huggingface
from antimatter.export.source import open_checkpoint
from antimatter.pipeline import check
from antimatter.verify.run import Request, verify

STEPS = 60


def first_loss(folder: Path) -> float:
    with (folder / "plots/checkpoints/validation.csv").open() as file:
        return float(next(csv.DictReader(file))["loss"])


@pytest.fixture
def further(a_copy: Path) -> Path:
    """A copy in which `checkpoints` continues from a folder that Git does not track."""
    source = open_checkpoint(a_copy / "models/checkpoints")
    words = a_copy / "data/tokenizer/tokenizer.json"
    huggingface.write(source, words, a_copy / "models/base-hf")
    values = {
        "tokenizer.initial": "models/base-hf",
        "checkpoints.initial": "models/base-hf",
        "checkpoints.steps": STEPS,
    }
    edit(a_copy, values)
    return a_copy


@pytest.mark.slow
def test_a_killed_run_and_verify_end_in_the_same_model(
    further: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = first_loss(further)
    tokenizer = (further / "data/tokenizer/tokenizer.json").read_bytes()
    last = YAML().load(further / "dvc.lock")["stages"]["shards"]
    digest = files.sha256(further / "models/base-hf/model.safetensors")
    with subprocess.Popen(
        [*DVC, "repro", "checkpoints"],
        cwd=further,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as repro:
        deadline = time.monotonic() + 300
        while not (saved := list(further.glob(".state/checkpoints-*/step-00000020.pt"))):
            assert repro.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(int((saved[0].parent / "lock").read_text().split()[0]), signal.SIGKILL)
        assert repro.wait(60) != 0
    assert "resuming from step" in dvc(further, "repro", "checkpoints")
    # The tokenizer was kept, so nothing that follows from it ran again
    assert (further / "data/tokenizer/tokenizer.json").read_bytes() == tokenizer
    assert YAML().load(further / "dvc.lock")["stages"]["shards"] == last
    # It began where the first training ended
    assert first_loss(further) < before - 1
    origin = files.read_json(further / "metrics/checkpoints/provenance.json")
    assert origin["data"]["initial"] == digest
    assert origin["initial"]["params"]["checkpoints"]["steps"] == 200
    assert files.read_json(further / "models/checkpoints/config.json")["provenance"] == origin

    commit(further, "further")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    lines: list[str] = []
    assert run(further, "git", "status", "--porcelain").stdout == ""
    report = verify(further, Request("checkpoints"), lines.append)
    assert "verify: checkpoints is identical" in lines, (lines, report.failed)


def test_changed_weights_are_another_run_and_the_check_names_them(
    further: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(further)
    before = first_loss(further)
    dvc(further, "repro", "checkpoints")
    assert cli.main(["check"]) == 0
    assert "has changed" not in capsys.readouterr().err
    # It began where the first training ended
    assert first_loss(further) < before - 1
    origin = files.read_json(further / "models/checkpoints/config.json")["provenance"]
    assert origin["data"]["initial"] == files.sha256(further / "models/base-hf/model.safetensors")
    assert origin["initial"]["params"]["checkpoints"]["steps"] == 200
    lock = (further / "dvc.lock").read_bytes()
    shutil.rmtree(further / "models/base-hf")
    huggingface.write(
        open_checkpoint(Path("models/checkpoints")),
        Path("data/tokenizer/tokenizer.json"),
        Path("models/base-hf"),
    )
    # DVC does not see it
    assert "Running stage" not in dvc(further, "repro", "checkpoints")
    assert cli.main(["check"]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: models/base-hf has changed since models/checkpoints was trained")
    assert "`dvc repro -f checkpoints`" in note
    dvc(further, "repro", "--force", "--single-item", "checkpoints")
    assert (further / "dvc.lock").read_bytes() != lock


def test_weights_that_do_not_fit_are_refused_before_anything_changes(
    further: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(further)
    fits = {"model.n_layer": 2, "tokenizer.vocab_size": 400, "tokenizer.initial": "models/base-hf"}
    deletes = "is an output, which DVC deletes"
    for values, words in (
        ({}, ""),
        ({"tokenizer.vocab_size": 401}, "400 tokens, but tokenizer.vocab_size is 401"),
        ({"tokenizer.initial": "absent"}, "absent is missing"),
        ({"tokenizer.initial": "data/tokenizer"}, f"data/tokenizer {deletes}"),
        ({"checkpoints.initial": "absent"}, "absent is no folder of a model"),
        ({"checkpoints.initial": "models/checkpoints/"}, f"models/checkpoints {deletes}"),
        ({"checkpoints.initial": "models/tuned"}, f"models/tuned {deletes}"),
        ({"checkpoints.initial": "", "tuned.initial": "models/tuned"}, f"models/tuned {deletes}"),
        # An output of an earlier stage
        ({"checkpoints.initial": "", "tuned.initial": "models/checkpoints"}, ""),
        ({"checkpoints.initial": "models/base-hf", "model.n_layer": 3}, "2 (params.yaml: 3)"),
    ):
        edit(further, fits | values)
        errors = check.problems(Path("params.yaml"))
        assert len(errors) == bool(words), errors
        assert words in "".join(errors)
    lock = (further / "dvc.lock").read_bytes()
    done = run(further, *DVC, "repro", "checkpoints")
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode != 0 and "n_layer 2 (params.yaml: 3)" in error
    assert (further / "dvc.lock").read_bytes() == lock
    assert (further / "models/checkpoints/final.safetensors").exists()
