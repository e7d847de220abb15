"""fp16 with loss scaling: steps that overflow, the growth of the loss scale, several processes."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import train_process
from helpers.forked import Forked, finish
from helpers.train_process import CONFIG, Spoilt, assert_same_bytes, gradient_of_first, trainer_in

from antimatter.data.batches import Batch
from antimatter.training.step import Gradient
from antimatter.training.trainer import StepStats

pytestmark = pytest.mark.usefixtures("torch_as_before")
FP16 = replace(CONFIG, training=replace(CONFIG.training, precision="fp16", log_every=1))


class Emulating(Spoilt):
    """Computes in fp16 on a machine without its arithmetic."""

    emulates = True


class Overflowing(Emulating):
    """The gradient of step 28 is not finite; `before` and `after` are the weights around it."""

    def compute_gradient(self, batch: Batch) -> Gradient:
        gradient = super().compute_gradient(batch)
        if self.state.step == 27:
            gradient_of_first(self).view(-1)[0] = torch.inf
        return gradient

    def apply_gradient(self, stats: StepStats) -> None:
        own = [parameter.detach().clone() for parameter in self.model.parameters()]
        averages = self.balance.averages.clone() if self.balance else torch.zeros(1)
        super().apply_gradient(stats)
        if self.state.step == 27:
            self.before, self.averages = own, averages
            self.after = [parameter.detach().clone() for parameter in self.model.parameters()]


def norms(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / "training.csv", delimiter=",", skiprows=1)[:, 3]


def test_a_step_that_overflows_is_skipped_reported_and_counted(
    tmp_path: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(FP16, loss=replace(CONFIG.loss, rare_token_power=0.5))
    trainer = trainer_in(tmp_path / "run", tokens, config, kind=Overflowing)
    assert isinstance(trainer, Overflowing)
    assert trainer.run().steps == 60
    pairs = zip(trainer.before, trainer.after, strict=True)
    assert all(torch.equal(before, after) for before, after in pairs)
    # Its losses are as valid as those of any step
    assert trainer.balance is not None
    assert not torch.equal(trainer.averages, trainer.balance.averages)
    assert trainer.scaler.get_scale() == 2.0**15
    assert "step 28 is skipped" in capsys.readouterr().err
    measured = norms(tmp_path / "run")
    assert np.flatnonzero(~np.isfinite(measured)).tolist() == [27]
    # The norm is that of the gradient without the loss scale
    full = replace(config, training=replace(config.training, precision="fp32", steps=20))
    train_process.run(tokens, tmp_path / "full", full)
    np.testing.assert_allclose(measured[:5], norms(tmp_path / "full")[:5], rtol=0.02)


class Growing(Emulating):
    """The loss scale doubles after seven steps without an overflow, not after 2,000."""

    def new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, growth_interval=7)


class GrowingAndPaused(Growing):
    def apply_gradient(self, stats: StepStats) -> None:
        super().apply_gradient(stats)
        if self.state.step == 23:
            signal.raise_signal(signal.SIGTERM)


def test_the_loss_scale_and_its_growth_survive_a_pause(tmp_path: Path, tokens: Path) -> None:
    whole, paused = tmp_path / "whole", tmp_path / "paused"
    train_process.run(tokens, whole, FP16, kind=Growing)
    # After step 25, in the middle of an interval
    with pytest.raises(InterruptedError, match="paused at step 25 of 60"):
        train_process.run(tokens, paused, FP16, kind=GrowingAndPaused)
    train_process.run(tokens, paused, FP16, kind=Growing)
    assert_same_bytes(paused, whole)
    first, last = (torch.load(whole / f"state/step-{n:08d}.pt")["scaler"] for n in (50, 60))
    assert last == torch.load(paused / "state/step-00000060.pt")["scaler"]
    assert first["scale"] > 2.0**17 and last["_growth_tracker"] > 0


def test_an_overflow_in_one_process_skips_the_step_in_all(tmp_path: Path, tokens: Path) -> None:
    """The gradient is exchanged before it is judged, so no process updates alone."""
    options = ("--devices=2", "--emulate", "--set=training.precision=fp16")
    options += ("--set=training.steps=30", "--set=model.dropout=0")
    for kind in ("overflow", "overflow in 1"):
        finish(Forked(tokens, tmp_path / kind, *options, f"--spoil=28,0,{kind}"), 0)
    one, other = tmp_path / "overflow", tmp_path / "overflow in 1"
    assert_same_bytes(one, other)
    assert torch.load(other / "state/step-00000030.pt")["scaler"]["scale"] == 2.0**15
