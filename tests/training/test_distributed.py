"""Several processes that share a batch: the same losses, and all end, however one of them ends."""

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

from antimatter.errors import UserError
from antimatter.model import devices

pytestmark = pytest.mark.usefixtures("torch_as_before")

TRAIN = str(Path(train_process.__file__))
TWO = (
    "--devices=2",
    "--set=model.dropout=0",
    "--set=training.log_every=1",
    "--set=loss.rare_token_power=0.5",
)
# The same training in one process, here
ONE: dict[str, Any] = {
    "config": replace(
        CONFIG,
        training=replace(CONFIG.training, log_every=1),
        loss=replace(CONFIG.loss, rare_token_power=0.5),
    ),
    "shape": replace(train_process.SHAPE, dropout=0.0),
}
# --standalone chooses a free port: the default one may belong to another test run on this machine
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def complete(tokens: Path, folder: Path, *launcher: str) -> str:
    """Runs a training on two processes to its end and returns its output."""
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
    """The loss of each of the 60 steps."""
    return np.loadtxt(folder / "training.csv", delimiter=",", skiprows=1)[:, 1]


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory, make_tokens: Callable[[Path], Path]) -> Path:
    """A complete training on two processes, with its output in a file."""

    def make(folder: Path) -> None:
        (folder / "output").write_text(complete(make_tokens(folder), folder))

    return tiny_pipeline.once(tmp_path_factory, "two processes", make)


@pytest.mark.parametrize(
    "launcher", ["the main process", pytest.param("torchrun", marks=pytest.mark.slow)]
)
def test_two_processes_have_the_losses_of_one(
    tmp_path: Path, tokens: Path, two: Path, launcher: str
) -> None:
    if launcher == "torchrun":
        output = complete(tokens, tmp_path / "two", *TORCHRUN)
        two = tmp_path / "two"
    else:
        output = (two / "output").read_text()
    train_process.run(tokens, tmp_path / "one", **ONE)
    # Only the main process prints
    assert output.count("step     60/60") == 1
    np.testing.assert_allclose(losses(two), losses(tmp_path / "one"), rtol=1e-5)
    assert (two / "validation.csv").read_text() == (tmp_path / "one/validation.csv").read_text()
    assert (two / "final.safetensors").exists()


@pytest.fixture
def running(tmp_path: Path, tokens: Path) -> tuple[Forked, psutil.Process]:
    """A training on two processes that has saved step 10, and its second process."""
    process = Forked(tokens, tmp_path / "run", "--pause=0.05", *TWO)
    saved = tmp_path / "run/state/step-00000010.pt"
    until(lambda: process.exitcode is not None or saved.exists())
    (other,) = psutil.Process(process.pid).children()
    return process, other


def test_when_the_main_process_is_killed_the_other_ends_and_the_next_run_resumes(
    tmp_path: Path, tokens: Path, two: Path, running: tuple[Forked, psutil.Process]
) -> None:
    process, other = running
    process.kill()
    finish(process, -signal.SIGKILL)
    assert psutil.wait_procs([other], timeout=30)[1] == []
    assert "resuming from step" in finish(Forked(tokens, tmp_path / "run", *TWO), 0)
    for name in ("final.safetensors", "training.csv", "validation.csv", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (two / name).read_bytes(), name


def test_when_another_process_is_killed_the_main_one_reports_it_and_ends(
    tmp_path: Path, running: tuple[Forked, psutil.Process]
) -> None:
    process, other = running
    other.kill()
    assert re.search(r"device 1 ended with signal 9: .*resume", finish(process, 1))
    assert list((tmp_path / "run/state").glob("step-*.pt"))


@pytest.mark.parametrize("whom", ["main", "other"])
def test_sigterm_to_any_process_pauses_all_at_the_same_step(
    tmp_path: Path,
    tokens: Path,
    running: tuple[Forked, psutil.Process],
    whom: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process, other = running
    (process if whom == "main" else other).terminate()
    output = finish(process, 130)
    assert psutil.wait_procs([other], timeout=30)[1] == []
    paused = re.search(r"paused at step (\d+)", output)
    assert paused and 10 <= int(paused[1]) < 60
    # Now on one device
    train_process.run(tokens, tmp_path / "run", **ONE)
    assert f"resuming from step {paused[1]} of 60" in capsys.readouterr().err
    train_process.run(tokens, tmp_path / "whole", **ONE)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=1e-5)


def test_more_devices_than_there_are_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=r"runtime\.devices is 4, .* 2 GPUs"):
        devices.count(4, "cuda")
    counts = {(0, "cuda"): 2, (1, "cuda"): 1, (0, "cpu"): 1, (3, "cpu"): 3}
    assert {key: devices.count(*key) for key in counts} == counts
