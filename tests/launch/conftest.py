"""A Slurm to submit trainings to."""

import os
from pathlib import Path

import pytest
from helpers import fake_slurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a substitute for Slurm (helpers/fake_slurm.py), which is on the PATH."""
    folder = fake_slurm.install_to(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder
