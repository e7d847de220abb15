"""Faults of a workspace are repaired or are one clear line: with DVC, on copies of a tiny pipeline
that has run.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.tiny_pipeline import DVC, ENVIRONMENT, dvc, run

from antimatter import files, params
from antimatter.errors import UserError
from antimatter.model.config import ModelConfig
from antimatter.training.config import OptimizerConfig, TrainConfig


@pytest.fixture
def folder(a_copy: Path) -> Path:
    """The tiny pipeline with its data, models and cache, to be damaged."""
    return a_copy


def ran(output: str) -> list[str]:
    """The stages that DVC has run."""
    return re.findall(r"Running stage '(\w+)'", output)


def lock(folder: Path) -> bytes:
    return (folder / "dvc.lock").read_bytes()


@pytest.mark.slow
def test_lost_outputs_come_from_the_cache(folder: Path, tiny_pipeline: Path) -> None:
    stages = params.load(folder / "dvc.lock")["stages"]
    lost = [folder / out["path"] for stage in stages.values() for out in stage["outs"]]
    assert folder / "data/shards" in lost and folder / "metrics/evaluation/samples.yaml" in lost
    for path in lost:
        files.remove(path)
    assert ran(dvc(folder, "repro")) == []
    assert lock(folder) == lock(tiny_pipeline)
    assert run(folder, "git", "status", "--porcelain").stdout == ""


def test_what_an_earlier_commit_measured_is_not_measured_again(
    folder: Path, tiny_pipeline: Path
) -> None:
    """Nor if the results of that commit are missing in Git: the run-cache has them."""
    params_file = folder / "params.yaml"
    before = params_file.read_text()
    after = before.replace("stride: 32", "stride: 16").replace("choices: 2", "choices: 1")
    params_file.write_text(after)
    assert ran(dvc(folder, "repro"))[:3] == ["checked", "evaluation", "answers"]
    assert lock(folder) != lock(tiny_pipeline)
    params_file.write_text(before)
    assert ran(dvc(folder, "repro")) == []
    assert lock(folder) == lock(tiny_pipeline)
    assert run(folder, "git", "status", "--porcelain").stdout == ""


def test_a_lost_cache_is_filled_from_the_outputs(folder: Path, tiny_pipeline: Path) -> None:
    """Without `dvc commit` everything would run again: DVC looks in the cache alone."""
    shutil.rmtree(folder / ".dvc/cache")
    dvc(folder, "commit", "--force")
    assert ran(dvc(folder, "repro")) == []
    assert lock(folder) == lock(tiny_pipeline)
    shutil.rmtree(folder / "models")
    dvc(folder, "checkout")
    assert (folder / "models/checkpoints/final.safetensors").is_file()


def test_a_folder_that_was_moved_is_up_to_date(folder: Path) -> None:
    moved = folder.rename(folder.with_name("another name"))
    assert ran(dvc(moved, "repro")) == []
    assert run(moved, "git", "status", "--porcelain").stdout == ""


def test_an_output_that_was_edited_is_written_again(folder: Path, tiny_pipeline: Path) -> None:
    path = folder / "data/tokenizer/tokenizer.json"
    path.chmod(0o644)
    path.unlink()
    path.write_text("{}")
    dvc(folder, "repro")
    assert path.read_bytes() == (tiny_pipeline / "data/tokenizer/tokenizer.json").read_bytes()
    assert lock(folder) == lock(tiny_pipeline)


def test_a_second_run_is_refused_and_the_first_one_ends_well(folder: Path) -> None:
    params_file = folder / "params.yaml"
    params_file.write_text(params_file.read_text().replace("steps: 200", "steps: 201", 1))
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
        trainer = int((saved[0].parent / "lock").read_text().split()[0])
        # Otherwise it could end before the second run begins
        os.kill(trainer, signal.SIGSTOP)
        try:
            second = run(folder, *DVC, "repro", "checkpoints")
        finally:
            os.kill(trainer, signal.SIGCONT)
        assert second.returncode != 0
        assert "is busy, it is being blocked by" in second.stderr
        assert f"(PID {first.pid})" in second.stderr
        assert first.wait(300) == 0


WRONG = {
    "model.n_layer=two": "model.n_layer must be a whole number, got 'two'",
    "checkpoints.steps=-1": "checkpoints.steps must be at least 1, got -1",
    "optimizer.learning_rate=1e-3x": "optimizer.learning_rate must be a number, got '1e-3x'",
    "checkpoints.precision=fp8": "checkpoints.precision must be one of fp32, bf16, fp16; got 'fp8'",
}
CONFIGS = {"model": ModelConfig, "checkpoints": TrainConfig, "optimizer": OptimizerConfig}


@pytest.mark.parametrize("value", WRONG)
def test_an_invalid_value_in_the_form_that_dvc_writes_is_named(tmp_path: Path, value: str) -> None:
    from dvc.utils import hydra

    shutil.copy("params.yaml", tmp_path)
    hydra.apply_overrides(tmp_path / "params.yaml", [value])
    section = value.partition(".")[0]
    with pytest.raises(UserError, match=re.escape(WRONG[value])):
        params.read(CONFIGS[section], section, tmp_path / "params.yaml")


def test_an_invalid_value_of_an_experiment_is_named_and_nothing_is_lost(
    folder: Path, tiny_pipeline: Path
) -> None:
    """A value that the stage refuses, and a name that DVC refuses."""
    refused = "model.n_layer=two"
    for value, message in [(refused, WRONG[refused]), ("model.n_layr=3", "n_layr")]:
        done = run(folder, *DVC, "exp", "run", "-S", value)
        assert done.returncode != 0, value
        assert message in done.stdout + done.stderr, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert run(folder, "git", "checkout", "--quiet", "params.yaml", "dvc.lock").returncode == 0
    assert ran(dvc(folder, "repro")) == []
    assert lock(folder) == lock(tiny_pipeline)


def test_the_commands_of_the_extension_for_vs_code_have_their_data(folder: Path) -> None:
    """The extension cannot run here. Its commands are in extension/src/cli/dvc of
    https://github.com/iterative/vscode-dvc.
    """

    def output(*command: str) -> str:
        return run(folder, *DVC, *command).stdout

    data = json.loads(output("exp", "show", "--json"))[0]["data"]
    assert data["params"]["params.yaml"]["data"]["optimizer"]["learning_rate"] > 0
    evaluation = data["metrics"]["metrics/evaluation/summary.json"]["data"]
    assert evaluation["perplexity"] > 1
    assert data["outs"]["models/checkpoints"]["hash"]
    stages = output("stage", "list", "--all")
    graph = params.load(folder / "dvc.yaml")["stages"]
    assert [line.split()[0] for line in stages.splitlines()] == list(graph)
    status = json.loads(output("data", "status", "--granular", "--unchanged", "--json"))
    assert "models/checkpoints/final.safetensors" in status["unchanged"]
    assert not status.get("uncommitted") and not status.get("committed")
