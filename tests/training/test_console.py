"""What a training reports: its curves, its progress line, and its speed."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.train_process import CONFIG, SHAPE, text_data

from antimatter.model.gpt import GPT
from antimatter.training import console
from antimatter.training.console import Console
from antimatter.training.curves import CSVLogger
from antimatter.training.distributed import SINGLE_PROCESS
from antimatter.training.observer import Progress

# Tokens in a step of CONFIG
TOKENS = 8 * 16


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as its only element."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def observer(
    tokens: Path, steps: int, speeds: CSVLogger | None = None, stream: io.StringIO | None = None
) -> Console:
    config = replace(CONFIG, training=replace(CONFIG.training, steps=steps))
    watcher = Console(GPT(SHAPE), text_data(tokens), config, SINGLE_PROCESS, throughput=speeds)
    watcher.line.stream = stream or io.StringIO()
    return watcher


def step(number: int) -> Progress:
    return Progress(number, loss=3.25, learning_rate=1e-3, gradient_norm=0.5)


def test_a_curve_can_be_put_back(tmp_path: Path) -> None:
    curve = CSVLogger(tmp_path / "loss.csv", ["step", "loss"])
    curve.add(1, 2.123456789)
    earlier = curve.snapshot()
    curve.add(2, 1.0)
    curve.restore(earlier)
    curve.add(2, 1.5)
    assert (tmp_path / "loss.csv").read_text() == "step,loss\n1,2.12346\n2,1.5\n"


def test_a_curve_that_was_deleted_is_whole_again(tmp_path: Path) -> None:
    """`dvc repro` deletes it when it starts again while a job on a cluster still trains."""
    path = tmp_path / "plots/loss.csv"
    curve = CSVLogger(path, ["step", "loss"])
    curve.add(1, 2.5)
    path.unlink()
    path.parent.rmdir()
    curve.add(2, 1.5)
    curve.add(3, 1.0)
    assert path.read_text() == curve.snapshot() == "step,loss\n1,2.5\n2,1.5\n3,1\n"
    # One that gets no further row too
    path.unlink()
    curve.complete()
    assert path.read_text() == curve.snapshot()


def test_progress_has_loss_speed_and_time_left(tokens: Path, clock: list[float]) -> None:
    stream = io.StringIO()
    watcher = observer(tokens, 100, stream=stream)
    watcher.on_start(39)
    # The first step warms up
    watcher.on_step(step(40))
    clock[0] += 20
    watcher.on_step(step(60))
    line = stream.getvalue()
    for part in ("step     60/100", "loss  3.250", f"{TOKENS} tokens/s", "0:40 left"):
        assert part in line


def test_the_throughput_leaves_out_pauses_and_the_first_step(
    tmp_path: Path, tokens: Path, clock: list[float]
) -> None:
    speeds = CSVLogger(tmp_path / "speeds.csv", ["step", "tokens_per_second"])
    watcher = observer(tokens, 800, speeds)

    def steps(first: int, last: int, seconds: float) -> None:
        for number in range(first, last + 1):
            clock[0] += seconds
            watcher.on_step(step(number))

    watcher.on_start(0)
    # Compiles
    steps(1, 1, 60)
    steps(2, 4, 1)
    with watcher.pause():
        clock[0] += 1000
    steps(5, 8, 2)
    # A backtrack
    watcher.on_start(4)
    steps(5, 5, 60)
    steps(6, 8, 0.5)
    # Every 800 / 200 steps
    expected = f"4,{TOKENS}\n8,{TOKENS // 2}\n8,{TOKENS * 2}\n"
    assert (tmp_path / "speeds.csv").read_text() == f"step,tokens_per_second\n{expected}"


@pytest.mark.parametrize("steps", [6, 399, 8000])
def test_the_curve_of_the_throughput_stays_small(tmp_path: Path, tokens: Path, steps: int) -> None:
    speeds = CSVLogger(tmp_path / "speeds.csv", ["step", "tokens_per_second"])
    watcher = observer(tokens, steps, speeds)
    for number in range(1, steps + 1):
        watcher.on_step(step(number))
    assert min(steps - 1, 199) <= len(speeds.snapshot().splitlines()) - 1 <= 399
