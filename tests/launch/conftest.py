"""A Slurm to submit trainings to, and a bound for the tests that wait for jobs."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import fake_slurm

# A test takes a few seconds, with a real Slurm two minutes
BOUND = 200


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Ends a test that waits for a job which never ends: as long as jobs are in the queue of a
    cluster, a training waits for them.
    """

    def stop(*_: object) -> None:
        raise TimeoutError(f"the test took more than {BOUND} s: the traceback shows its wait")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(BOUND)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a substitute for Slurm (helpers/fake_slurm.py), which is on the PATH."""
    folder = fake_slurm.install_to(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield folder
    fake_slurm.end_all(folder)
