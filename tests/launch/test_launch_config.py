"""Which machines train, from the section `runtime`."""

from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_pipeline import edit

from antimatter import params
from antimatter.errors import UserError
from antimatter.launch import inside, launch
from antimatter.launch.config import LaunchRuntime
from antimatter.pipeline import check

DEFAULT: dict[str, Any] = {
    **dict.fromkeys(("address", "partition", "time_limit"), ""),
    **{"executor": "local", "nodes": 1, "device": "auto", "devices": 0, "sbatch": ()},
}


def runtime(**values: Any) -> LaunchRuntime:
    return LaunchRuntime(**{**DEFAULT, **values})


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", inside.ATTEMPT, inside.TRAINING):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("values", "elsewhere"),
    [
        ({}, False),
        ({"executor": "slurm", "device": "cpu"}, True),
        ({"executor": "slurm", "devices": 4, "nodes": 2}, True),
        ({"executor": "ray", "address": "head:6379", "device": "cpu"}, True),
        # Ray on this machine alone
        ({"executor": "ray"}, False),
    ],
)
def test_the_executor_decides_where_a_training_runs(values, elsewhere, monkeypatch):
    assert launch.is_elsewhere(runtime(**values)) is elsewhere
    # Never again inside of a job, nor under torchrun
    for name in (inside.ATTEMPT, "RANK"):
        with monkeypatch.context() as context:
            context.setenv(name, "0")
            assert not launch.is_elsewhere(runtime(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 0, "executor": "slurm"}, r"nodes must be at least 1, got 0"),
        ({"nodes": 2}, r"nodes is 2, but executor local trains on this machine"),
        ({"nodes": 2, "executor": "ray"}, r"nodes is 2, but executor ray without an address"),
        ({"executor": "slurm"}, r"devices must be the number of GPUs of a machine.*got 0"),
        ({"executor": "slurm", "device": "cpu", "time_limit": "a day"}, r"time_limit .*'a day'"),
        ({"executor": "slurm", "device": "cpu", "sbatch": ("-A x",)}, r"--account=name, got '-A x"),
        ({"executor": "slurm", "device": "cpu", "sbatch": ("--qos x",)}, r"name, got '--qos x"),
        (
            {"executor": "slurm", "device": "cpu", "sbatch": ("--nodes=4",)},
            r"--nodes=4 cannot be given there: .* from nodes",
        ),
    ],
)
def test_a_value_that_cannot_train_is_one_line(values, message):
    with pytest.raises(UserError, match=message):
        runtime(**values)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # The formats of `man sbatch`
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("12:00:00", 12 * 3600),
        ("2-12", 60 * 3600),
        ("1-00:30", 24 * 3600 + 1800),
        ("1-02:03:04", 26 * 3600 + 184),
        ("", None),
        ("UNLIMITED", None),
    ],
)
def test_a_time_limit_has_the_formats_of_sbatch(text, seconds):
    assert runtime(executor="slurm", device="cpu", time_limit=text).limit_seconds() == seconds


def test_the_batch_must_be_a_multiple_of_all_processes(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(params.PARAMS.read_text(encoding="utf-8"))
    edit(tmp_path, {"runtime.executor": "slurm", "runtime.nodes": 5, "runtime.devices": 3})
    (problem,) = check.problems(tmp_path / "params.yaml")
    assert problem.startswith("checkpoints.batch_size must be a multiple of the 15 devices")
    edit(tmp_path, {"checkpoints.batch_size": 30})
    (problem,) = check.problems(tmp_path / "params.yaml")
    assert problem.startswith("tuned.batch_size must be a multiple of the 15 devices")


def test_a_job_trains_only_what_was_submitted(tmp_path, monkeypatch):
    inside.check(tmp_path / "checkpoints-1")
    monkeypatch.setenv(inside.TRAINING, "checkpoints-1")
    inside.check(tmp_path / "checkpoints-1")
    with pytest.raises(UserError, match=r"changed after this job was submitted"):
        inside.check(tmp_path / "checkpoints-2")
