"""The tokens that the small trainings read, and where to wait for one."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.forked import Forked


@pytest.fixture
def tokens(tmp_path: Path, token_file: Callable[..., np.ndarray]) -> Path:
    """A file of 3,000 tokens; one of them is frequent, the others are rare."""
    return save_tokens(token_file, tmp_path)


@pytest.fixture(scope="session")
def make_tokens(token_file: Callable[..., np.ndarray]) -> Callable[[Path], Path]:
    return lambda folder: save_tokens(token_file, folder)


def save_tokens(token_file: Callable[..., np.ndarray], folder: Path) -> Path:
    ids = token_file(3000)
    np.save(folder / "tokens.npy", np.where(ids < 32, ids, 7))
    return folder / "tokens.npy"


@pytest.fixture
def wait_for() -> Callable[[Path, Forked], None]:
    """Waits until a running training has written a file."""

    def wait(path: Path, process: Forked) -> None:
        for _ in range(600):
            if path.exists():
                return
            assert process.exitcode is None, process.stderr.read_text()
            time.sleep(0.1)
        raise AssertionError(f"{path} did not come")

    return wait
