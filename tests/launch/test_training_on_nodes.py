"""The stage `checkpoints` on two machines, of which one is lost, ends in the bytes of two processes
on one machine. Slurm is a substitute; the stage and its processes are real.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers import small_checkout

STEPS = 60


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
    here = small_checkout.make(tmp_path / "here", tokens, parameters)
    small_checkout.train_with_two_processes(here)
    nodes = {"runtime.executor": "slurm", "runtime.nodes": 2}
    there = small_checkout.make(tmp_path / "there", tokens, parameters | nodes)

    stage = small_checkout.start(there)
    until(lambda: list(there.glob(".state/checkpoints-*/step-00000010.pt")))
    _, second = (slurm / "jobs/1/tasks").read_text().split()
    os.kill(int(second), signal.SIGKILL)
    output = small_checkout.finish(stage)
    assert small_checkout.outputs(there) == small_checkout.outputs(here)
    assert "(FAILED): starting again from step" in output and "resuming from step" in output
    assert "process 0 lost another one" in output and "Traceback" not in output
    assert f"step     {STEPS}/{STEPS}" in output
    # Neither states nor logs are left
    assert not list(there.glob(".state/*/*"))
