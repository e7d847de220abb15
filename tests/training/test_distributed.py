"""Several processes that share a batch: the same losses, and no process left behind, however one of them ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import tiny_pipeline, train_process
from helpers.forked import Forked, finish
from helpers.train_process import CONFIG

from antimatter.model import devices

pytestmark = pytest.mark.usefixtures("torch_as_before")

TRAIN = str(Path(train_process.__file__))
TWO = (
    "--devices=2",
    "--set=model.dropout=0",
    "--set=training.log_every=1",
    "--set=loss.rare_token_power=0.5",
)
ALIKE_HERE: dict[str, Any] = {
    "config": replace(
        CONFIG,
        training=replace(CONFIG.training, log_every=1),
        loss=replace(CONFIG.loss, rare_token_power=0.5),
    ),
    "shape": replace(train_process.SHAPE, dropout=0.0),
}
# With a port and an id of its own: by default it would meet another test run on this machine.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def complete(tokens: Path, folder: Path, *launcher: str) -> str:
    """What a training on two processes says that nobody disturbs."""
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, TRAIN, str(tokens), str(folder), *TWO]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def losses(folder: Path) -> np.ndarray:
    """Of each step; the 60 of a run."""
    return np.loadtxt(folder / "training.csv", delimiter=",", skiprows=1)[:, 1]


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory, make_tokens: Callable[[Path], Path]) -> Path:
    """An undisturbed training on two processes, and in `said` what it has said."""

    def make(folder: Path) -> None:
        (folder / "said").write_text(complete(make_tokens(folder), folder))

    return tiny_pipeline.once(tmp_path_factory, "two processes", make)


@pytest.mark.parametrize("launcher", ["the first", "torchrun"])
def test_two_processes_have_the_losses_of_one(
    tmp_path: Path, tokens: Path, two: Path, launcher: str
) -> None:
    """Whoever starts them."""
    if launcher == "torchrun":
        said = complete(tokens, tmp_path / "two", *TORCHRUN)
        two = tmp_path / "two"
    else:
        said = (two / "said").read_text()
    train_process.run(tokens, tmp_path / "one", **ALIKE_HERE)
    assert said.count("step     60/60") == 1  # one speaks for both
    np.testing.assert_allclose(losses(two), losses(tmp_path / "one"), rtol=1e-5)
    assert (two / "validation.csv").read_text() == (tmp_path / "one/validation.csv").read_text()
    assert (two / "final.safetensors").exists()


@pytest.fixture
def running(tmp_path: Path, tokens: Path) -> tuple[Forked, psutil.Process]:
    """A training on two processes that has saved step 10, and its second process."""
    process = Forked(tokens, tmp_path / "run", "--pause=0.05", *TWO)
    until(
        lambda: process.exitcode is not None or (tmp_path / "run/state/step-00000010.pt").exists()
    )
    (other,) = psutil.Process(process.pid).children()
    return process, other


def test_when_the_first_process_is_killed_the_other_ends_and_the_run_goes_on_later(
    tmp_path: Path, tokens: Path, two: Path, running: tuple[Forked, psutil.Process]
) -> None:
    process, other = running
    process.kill()
    finish(process, -signal.SIGKILL)
    assert psutil.wait_procs([other], timeout=30)[1] == []
    assert "resuming from step" in finish(Forked(tokens, tmp_path / "run", *TWO), 0)
    for name in ("final.safetensors", "training.csv", "validation.csv", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (two / name).read_bytes(), name


def test_when_another_process_is_killed_the_first_says_so_and_ends(
    tmp_path: Path, running: tuple[Forked, psutil.Process]
) -> None:
    process, other = running
    other.kill()
    said = finish(process, 1)
    assert "device 1 ended with signal 9: run again to resume from the last saved state" in said
    assert list((tmp_path / "run/state").glob("step-*.pt"))


@pytest.mark.parametrize("whom", ["first", "other"])
def test_sigterm_to_any_process_pauses_all_at_the_same_step(
    tmp_path: Path,
    tokens: Path,
    running: tuple[Forked, psutil.Process],
    whom: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process, other = running
    (process if whom == "first" else other).terminate()
    said = finish(process, 130)
    assert psutil.wait_procs([other], timeout=30)[1] == []
    paused = re.search(r"paused at step (\d+)", said)
    assert paused and 10 <= int(paused[1]) < 60
    train_process.run(tokens, tmp_path / "run", **ALIKE_HERE)  # on one device now, in this process
    assert f"resuming from step {paused[1]} of 60" in capsys.readouterr().err
    train_process.run(tokens, tmp_path / "whole", **ALIKE_HERE)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=1e-5)


def test_more_devices_than_there_are_is_one_clear_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"runtime.devices is 4, but torch sees 2 GPUs here"):
        devices.count(4, "cuda")
    assert (
        devices.count(0, "cuda"),
        devices.count(1, "cuda"),
        devices.count(0, "cpu"),
        devices.count(3, "cpu"),
    ) == (2, 1, 1, 3)
