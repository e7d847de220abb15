"""A training learns, and ends in the same bytes however often it was interrupted."""

import json
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import train_process
from helpers.forked import Forked, finish
from helpers.train_process import CONFIG, Spoilt, assert_same_bytes, trainer_in

from antimatter.data.batches import Batches
from antimatter.model.gpt import GPT
from antimatter.training.step import Objective, accumulate_gradients
from antimatter.training.trainer import Result, StepStats, Trainer

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
WaitFor = Callable[[Path, Forked], None]

pytestmark = pytest.mark.usefixtures("torch_as_before")


def steps_of(path: Path) -> list[int]:
    return [int(row.split(",")[0]) for row in path.read_text().splitlines()[1:]]


def test_a_killed_run_ends_in_the_same_bytes_as_an_undisturbed_one(
    tmp_path: Path, tokens: Path, capsys: pytest.CaptureFixture[str], wait_for: WaitFor
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_process.run(tokens, whole)
    for saved in (10, 40):
        process = Forked(tokens, killed, "--pause=0.03")
        wait_for(killed / "state" / f"step-{saved:08d}.pt", process)
        time.sleep(random.random() * 0.2)
        process.kill()
        finish(process, -signal.SIGKILL)
    capsys.readouterr()
    train_process.run(tokens, killed)
    resumed = re.search(r"resuming from step (\d+) of 60", capsys.readouterr().err)
    assert resumed and int(resumed[1]) >= 40
    assert_same_bytes(killed, whole)
    # The first step of a process is no measure of its speed
    assert steps_of(whole / "throughput.csv") == list(range(2, 61))
    measured = steps_of(killed / "throughput.csv")
    assert measured == sorted(set(measured))
    assert set(range(2, 61)) - set(measured) <= set(range(11, 60, 10))


def test_sigterm_saves_the_step_in_hand(tmp_path: Path, tokens: Path, wait_for: WaitFor) -> None:
    paused = tmp_path / "paused"
    process = Forked(tokens, paused, "--pause=0.03")
    wait_for(paused / "state" / "step-00000010.pt", process)
    process.terminate()
    output = finish(process, 130)
    assert "paused at step" in output and "run again to resume" in output
    train_process.run(tokens, tmp_path / "whole")
    train_process.run(tokens, paused)
    assert_same_bytes(paused, tmp_path / "whole")


def test_a_run_without_observers_ends_in_the_same_bytes(tmp_path: Path, tokens: Path) -> None:
    """What is in closure.OBSERVERS decides no byte: samples, progress, live figures."""
    # Samples are drawn after every fifth validation
    config = replace(CONFIG, training=replace(CONFIG.training, validate_every=2))
    train_process.run(tokens, tmp_path / "observed", config)
    train_process.run(tokens, tmp_path / "alone", config, observed=False)
    assert json.loads((tmp_path / "observed/live.json").read_text())["sample"]
    assert not (tmp_path / "alone/live.json").exists()
    assert_same_bytes(tmp_path / "observed", tmp_path / "alone")


def test_training_learns_what_there_is_to_learn(tmp_path: Path, tokens: Path) -> None:
    result = train_process.run(tokens, tmp_path / "run")
    header, *rows = (tmp_path / "run" / "validation.csv").read_text().splitlines()
    assert header == "step,loss"
    assert [row.split(",")[0] for row in rows] == ["0", "20", "40", "60"]
    # Untrained, every token is equally likely
    assert float(rows[0].split(",")[1]) == pytest.approx(np.log(64), abs=0.2)
    assert result.validation_loss < 3.5
    assert result.tokens == 60 * 8 * 16


def test_micro_batches_add_up_to_the_whole_batch(
    tiny_gpt: GPT, token_file: Callable[..., np.ndarray]
) -> None:
    batch = Batches([token_file(1000)], batch_size=8, block_size=16, seed=1).at(0)
    gradients, losses = [], []
    for micro in (8, 2):
        tiny_gpt.zero_grad()
        gradient = accumulate_gradients(Objective(tiny_gpt), batch, micro, "fp32", NO_SCALER)
        losses.append(gradient.loss.item())
        parts = [p.grad.flatten() for p in tiny_gpt.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


class Emulating(Spoilt):
    """Computes in the precision that it is asked for, also where the machine only emulates it."""

    emulates = True


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_as_float32_does(
    tmp_path: Path, tokens: Path, precision: str
) -> None:
    full = replace(CONFIG, training=replace(CONFIG.training, steps=30))
    half = replace(full, training=replace(full.training, precision=precision))  # type: ignore[arg-type]
    expected = train_process.run(tokens, tmp_path / "full", full).validation_loss
    result = train_process.run(tokens, tmp_path / "half", half, kind=Emulating)
    assert result.validation_loss == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("first", "then"), [("fp32", "fp16"), ("fp16", "fp32")])
def test_a_run_resumes_where_a_device_computes_in_another_precision(
    tmp_path: Path, tokens: Path, first: str, then: str
) -> None:
    """A run in bf16 that a T4 resumes computes in fp16 there, and the state has no loss scale."""
    for precision, steps in ((first, 20), (then, 60)):
        training = replace(CONFIG.training, steps=steps, precision=precision)  # type: ignore[arg-type]
        config = replace(CONFIG, training=training)
        assert train_process.run(tokens, tmp_path / "run", config, kind=Emulating).steps == steps


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
@pytest.mark.skipif(
    " " in sys.prefix, reason="torch.compile does not quote the paths that it gives to the compiler"
)
# Of torch.compile itself
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_it_is_the_same_training_to_rounding(tmp_path: Path, tokens: Path) -> None:
    shape = replace(train_process.SHAPE, dropout=0.0)
    losses = []
    for compiled in (False, True):
        training = replace(CONFIG.training, steps=12, log_every=1, compile=compiled)
        folder = tmp_path / str(compiled)
        train_process.run(tokens, folder, replace(CONFIG, training=training), shape=shape)
        losses.append(np.loadtxt(folder / "training.csv", delimiter=",", skiprows=1)[:, 1])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_full_disk_ends_the_run_in_one_clear_line_and_loses_nothing(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, run = torch.save, tmp_path / "run"

    def full(state: dict[str, dict[str, int]], path: Path) -> None:
        if state["state"]["step"] == 30:
            path.write_bytes(b"half a state")
            # As torch reports it
            reason = "PytorchStreamWriter failed writing file data/13: file write failed"
            raise RuntimeError(f"[enforce fail at inline_container.cc:1034] . {reason}")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"could not save .*step-00000030.pt: .* step 20"):
        train_process.run(tokens, run)
    monkeypatch.undo()
    train_process.run(tokens, run)
    train_process.run(tokens, tmp_path / "whole")
    assert_same_bytes(run, tmp_path / "whole")


class PausedAt14(Trainer):
    def apply_gradient(self, stats: StepStats) -> None:
        super().apply_gradient(stats)
        if self.state.step == 12:
            signal.raise_signal(signal.SIGTERM)


def test_a_resumed_run_continues_with_its_balance(tmp_path: Path, tokens: Path) -> None:
    config = replace(CONFIG, loss=replace(CONFIG.loss, rare_token_power=0.5))
    whole, paused, off = (tmp_path / name for name in ("whole", "paused", "off"))
    train_process.run(tokens, whole, config)
    # The signal of step 13 is seen in step 14
    with pytest.raises(InterruptedError, match="paused at step 14 of 60"):
        train_process.run(tokens, paused, config, kind=PausedAt14)
    train_process.run(tokens, paused, config)
    assert_same_bytes(paused, whole)
    train_process.run(tokens, off)
    name = "final.safetensors"
    assert (off / name).read_bytes() != (whole / name).read_bytes()


def test_the_latest_figures_are_there_for_those_who_watch(tmp_path: Path, tokens: Path) -> None:
    train_process.run(tokens, tmp_path / "run")
    live = json.loads((tmp_path / "run/live.json").read_text())
    assert (live["state"], live["step"], live["steps"]) == ("finished", 60, 60)
    # The peak of a CPU is unknown, so there is no MFU
    assert live["tokens_per_second"] > 0 and live["memory_gb"] > 0 and live["mfu"] is None
    assert live["gradient_norm"] > 0 and live["seconds_left"] == 0


def test_each_validation_is_reported(tmp_path: Path, tokens: Path) -> None:
    reports: list[Result] = []
    trainer = trainer_in(tmp_path / "run", tokens)
    trainer.report = reports.append
    result = trainer.run()
    assert [report.steps for report in reports] == [0, 20, 40, 60]
    assert reports[0].train_loss is None
    assert reports[0].validation_loss == pytest.approx(np.log(64), abs=0.2)
    assert reports[1].tokens == 20 * 8 * 16 and reports[1].train_loss is not None
    assert reports[-1] == result


def test_a_configuration_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps must be below .*\(60\), got 60"):
        replace(CONFIG, schedule=replace(CONFIG.schedule, warmup_steps=60))
    with pytest.raises(ValueError, match=r"micro_batch must divide the 8 sequences .* got 3"):
        replace(CONFIG, runtime=replace(CONFIG.runtime, micro_batch=3)).micro_batch(1)
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of the 3 devices, got 8"):
        CONFIG.micro_batch(3)
