"""The stage `checkpoints` on two machines, of which one is lost, ends in the bytes of two processes
on one machine. Slurm is a substitute; the stage and its processes are real.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import small_checkout

from antimatter.launch import attempts
from stages import checkpoints

pytestmark = pytest.mark.usefixtures("torch_as_before")


@pytest.fixture
def as_a_stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Runs the stage that submits in this process, and so with short waits."""
    monkeypatch.setattr(attempts, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(attempts, "LOG_SECONDS", 0.05)
    monkeypatch.setattr(sys, "orig_argv", list(small_checkout.COMMAND))
    for name, value in small_checkout.warm().items():
        monkeypatch.setenv(name, value)
    for name in ("DVC_STAGE", "RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(folder: Path) -> None:
        monkeypatch.chdir(folder)
        checkpoints.main(*map(Path, small_checkout.COMMAND[3:]))

    return run


def test_two_machines_one_of_them_lost_leave_the_bytes_of_two_processes(
    tmp_path: Path,
    slurm: Path,
    token_file: Callable[..., np.ndarray],
    as_a_stage: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    tokens, parameters = token_file(3000), {"checkpoints.steps": 400}
    here = small_checkout.make(tmp_path / "here", tokens, parameters)
    small_checkout.train_with_two_processes(here)
    nodes = {"runtime.executor": "slurm", "runtime.nodes": 2}
    there = small_checkout.make(tmp_path / "there", tokens, parameters | nodes)

    def lose_the_second() -> None:
        deadline = time.monotonic() + 120
        while not list(there.glob(".state/checkpoints-*/step-00000010.pt")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        _, second = (slurm / "jobs/1/tasks").read_text().split()
        os.kill(int(second), signal.SIGKILL)

    threading.Thread(target=lose_the_second, daemon=True).start()
    as_a_stage(there)
    assert small_checkout.outputs(there) == small_checkout.outputs(here)
    output = capfd.readouterr().err
    assert "(FAILED): starting again from step" in output and "resuming from step" in output
    assert "step    400/400" in output and "Traceback" not in output
    # Neither states nor logs are left
    assert not list(there.glob(".state/*/*"))
