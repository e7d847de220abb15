"""The stage `checkpoints` on two machines, of which one is lost, ends in the bytes of two processes
on one machine. Slurm is a substitute; the stage and its processes are real.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers import small_checkout

STEPS = 60


def run(folder: Path, *, watch: Callable[[], None] = lambda: None) -> str:
    """Runs the stage to its end and returns what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # DVC would keep the resume directory
    environment.pop("DVC_STAGE", None)
    environment.pop("PYTHONPATH", None)
    command = list(small_checkout.COMMAND)
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as stage:
        watch()
        _, errors = stage.communicate(timeout=300)
    assert stage.returncode == 0, errors
    return errors


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_machines_one_of_them_lost_leave_the_bytes_of_two_processes(
    tmp_path: Path, slurm: Path, token_file: Callable[..., np.ndarray]
) -> None:
    tokens = token_file(3000)
    parameters = {"checkpoints.steps": STEPS}
    here = small_checkout.make(tmp_path / "here", tokens, parameters | {"runtime.devices": 2})
    run(here)
    nodes = {"runtime.executor": "slurm", "runtime.nodes": 2}
    there = small_checkout.make(tmp_path / "there", tokens, parameters | nodes)

    def lose_the_second() -> None:
        until(lambda: list(there.glob(".state/checkpoints-*/step-00000010.pt")))
        _, second = (slurm / "jobs/1/tasks").read_text().split()
        os.kill(int(second), signal.SIGKILL)

    output = run(there, watch=lose_the_second)
    assert small_checkout.outputs(there) == small_checkout.outputs(here)
    assert "(FAILED): starting again from step" in output and "resuming from step" in output
    assert "process 0 lost another one" in output and "Traceback" not in output
    assert f"step     {STEPS}/{STEPS}" in output
    # Neither states nor logs are left
    assert not list(there.glob(".state/*/*"))
