"""What goes wrong in a workspace either mends itself or is one clear line. Real DVC, on copies of a tiny pipeline that has run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.tiny_pipeline import ENVIRONMENT, dvc, run

from antimatter import files, params
from antimatter.model.config import ModelConfig
from antimatter.training.config import OptimizerConfig, TrainConfig

DVC = [sys.executable, "-m", "dvc"]


@pytest.fixture
def folder(a_copy: Path) -> Path:
    """The tiny pipeline with its data, models and cache, to be spoilt."""
    return a_copy


def ran(said: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", said)


def lock(folder: Path) -> bytes:
    return (folder / "dvc.lock").read_bytes()


def test_lost_outputs_come_from_the_cache(folder: Path, made: Path) -> None:
    """All but those of evaluation and answers, which would run again: DVC keeps no run-cache beside Markdown."""
    stages = params.load(folder / "dvc.lock")["stages"]
    lost = [
        folder / out["path"]
        for name, stage in stages.items()
        if name not in ("evaluation", "answers")
        for out in stage["outs"]
    ]
    assert folder / "data/shards" in lost and folder / "metrics/gguf/summary.json" in lost
    for path in lost:
        files.remove(path)
    said = dvc(folder, "repro")
    assert ran(said) == []
    assert lock(folder) == lock(made)
    assert run(folder, "git", "status", "--porcelain").stdout == ""


def test_a_lost_cache_is_filled_from_the_outputs(folder: Path, made: Path) -> None:
    """Without the `dvc commit` a repro would run everything again, as DVC asks the cache and not the workspace what there is."""
    shutil.rmtree(folder / ".dvc/cache")
    dvc(folder, "commit", "--force")
    assert ran(dvc(folder, "repro")) == []
    assert lock(folder) == lock(made)
    shutil.rmtree(folder / "models")
    dvc(folder, "checkout")
    assert (folder / "models/checkpoints/final.safetensors").is_file()


def test_a_folder_that_was_moved_is_up_to_date(folder: Path) -> None:
    moved = folder.rename(folder.with_name("another name"))
    assert ran(dvc(moved, "repro")) == []
    assert run(moved, "git", "status", "--porcelain").stdout == ""


def test_an_output_that_was_changed_by_hand_is_made_again(folder: Path, made: Path) -> None:
    path = folder / "data/tokenizer/tokenizer.json"
    path.chmod(0o644)
    path.unlink()
    path.write_text("{}")
    dvc(folder, "repro")
    assert path.read_bytes() == (made / "data/tokenizer/tokenizer.json").read_bytes()
    assert lock(folder) == lock(made)


def test_two_runs_at_once_are_told_apart(folder: Path, made: Path) -> None:
    (folder / "params.yaml").write_text(
        (folder / "params.yaml").read_text().replace("steps: 200", "steps: 201", 1)
    )
    with subprocess.Popen(
        [*DVC, "repro", "checkpoints"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        deadline = time.monotonic() + 200
        while not (saved := list(folder.glob(".state/checkpoints-*/step-*.pt"))):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        trainer = int((saved[0].parent / "lock").read_text())
        os.kill(
            trainer, signal.SIGSTOP
        )  # so that it cannot end before the second has begun, on however fast a machine
        try:
            second = run(folder, *DVC, "repro", "checkpoints")
        finally:
            os.kill(trainer, signal.SIGCONT)
        assert second.returncode != 0
        assert (
            "is busy, it is being blocked by" in second.stderr
            and f"(PID {first.pid})" in second.stderr
        )
        assert first.wait(300) == 0  # it has not noticed


WRONG = {
    "model.n_layer=two": "model.n_layer must be a whole number, got 'two'",
    "checkpoints.steps=-1": "checkpoints.steps must be at least 1, got -1",
    "optimizer.learning_rate=1e-3x": "optimizer.learning_rate must be a number, got '1e-3x'",
    "checkpoints.precision=fp8": "checkpoints.precision must be one of fp32, bf16, fp16; got 'fp8'",
}
CONFIGS = {"model": ModelConfig, "checkpoints": TrainConfig, "optimizer": OptimizerConfig}


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_value_as_dvc_writes_it_is_named(tmp_path: Path, value: str) -> None:
    from dvc.utils import hydra

    shutil.copy("params.yaml", tmp_path)
    hydra.apply_overrides(tmp_path / "params.yaml", [value])
    section = value.partition(".")[0]
    with pytest.raises(ValueError, match=re.escape(WRONG[value])):
        params.read(CONFIGS[section], section, tmp_path / "params.yaml")


def test_a_wrong_value_of_an_experiment_is_named_and_nothing_is_lost(
    folder: Path, made: Path
) -> None:
    """One that the stage refuses, and one that DVC refuses."""
    for value, words in [*list(WRONG.items())[:1], ("model.n_layr=3", "n_layr")]:
        done = run(folder, *DVC, "exp", "run", "-S", value)
        assert done.returncode != 0, value
        assert words in done.stdout + done.stderr, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert run(folder, "git", "checkout", "--quiet", "params.yaml", "dvc.lock").returncode == 0
    assert ran(dvc(folder, "repro")) == []
    assert lock(folder) == lock(made)


def test_what_the_extension_for_vs_code_asks_for_is_there(folder: Path) -> None:
    """Its commands, as of https://github.com/iterative/vscode-dvc, extension/src/cli/dvc; the extension itself cannot run here."""
    experiments = json.loads(run(folder, *DVC, "exp", "show", "--json").stdout)
    data = experiments[0]["data"]
    assert data["params"]["params.yaml"]["data"]["optimizer"]["learning_rate"] > 0
    assert data["metrics"]["metrics/evaluation/summary.json"]["data"]["validation"]["perplexity"] > 1
    assert data["outs"]["models/checkpoints"]["hash"]
    stages = run(folder, *DVC, "stage", "list", "--all").stdout
    graph = params.load(folder / "dvc.yaml")["stages"]
    assert [line.split()[0] for line in stages.splitlines()] == list(graph)
    status = json.loads(
        run(folder, *DVC, "data", "status", "--granular", "--unchanged", "--json").stdout
    )
    assert "models/checkpoints/final.safetensors" in status["unchanged"]
    assert not status.get("uncommitted") and not status.get("committed")
