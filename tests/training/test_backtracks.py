"""After a loss spike a run returns to a stable state, with a lower learning rate."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import train_process
from helpers.forked import Forked, finish
from helpers.train_process import CONFIG, Spoilt, assert_same_bytes, gradient_of_first

from antimatter.data.batches import Batch
from antimatter.training.step import Gradient
from antimatter.training.trainer import StepStats, Trainer, TrainingDiverged

pytestmark = pytest.mark.usefixtures("torch_as_before")


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


def spoilt_at(*numbers: int) -> type[Trainer]:
    """A trainer whose n-th computed loss is NaN, for each of the numbers."""

    class Spiky(Trainer):
        computed = 0

        def compute_gradient(self, batch: Batch) -> Gradient:
            gradient = super().compute_gradient(batch)
            self.computed += 1
            if self.computed in numbers:
                return replace(gradient, loss=gradient.loss * float("nan"))
            return gradient

    return Spiky


def spoilt_after(
    number: int, spoil: Callable[[Trainer], None], at: tuple[int, ...] = ()
) -> type[Trainer]:
    """As spoilt_at(), and `spoil` is called once, after the n-th update."""

    class Damaged(spoilt_at(*at)):  # type: ignore[misc]
        updates = 0

        def apply_gradient(self, stats: StepStats) -> None:
            super().apply_gradient(stats)
            self.updates += 1
            if self.updates == number:
                spoil(self)

    return Damaged


FP16 = (
    "--set=training.precision=fp16",
    "--emulate",
    "--set=spikes.max_backtracks=3",
    "--set=training.save_every=5",
)
# Step 36 is NaN; from step 25 on again, 34 is too high; then 28 overflows, which lowers the loss
# scale and is no spike; 45 is NaN
SPOILT = ("--spoil=36,0,nan", "--spoil=34,1,high", "--spoil=28,2,overflow", "--spoil=45,2,nan")


@pytest.mark.slow
def test_fp16_with_three_spikes_and_a_kill_ends_in_the_bytes_of_the_undisturbed_run(
    tmp_path: Path, tokens: Path, wait_for: Callable[[Path, Forked], None]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(Forked(tokens, whole, *FP16, *SPOILT), 0)
    assert [row.split(",")[0] for row in rows(whole / "backtracks.csv")] == ["36", "34", "45"]
    # Halved once
    assert torch.load(whole / "state/step-00000060.pt")["scaler"]["scale"] == 2.0**15
    process = Forked(tokens, killed, *FP16, *SPOILT, "--pause=0.05")
    wait_for(killed / "state/step-00000035.pt", process)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert "resuming from step" in finish(Forked(tokens, killed, *FP16, *SPOILT), 0)
    assert_same_bytes(killed, whole)


class Overflowing(Spoilt):
    """From the loss scale 2^16 on, the 17th overflow in a row brings it below 1."""

    emulates = True
    computed = 0

    def compute_gradient(self, batch: Batch) -> Gradient:
        gradient = super().compute_gradient(batch)
        self.computed += 1
        if 30 < self.computed <= 48:
            gradient_of_first(self).view(-1)[0] = torch.inf
        return gradient


def test_an_overflow_that_no_scale_mends_is_a_spike(tmp_path: Path, tokens: Path) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, precision="fp16"))
    result = train_process.run(tokens, tmp_path / "run", config, kind=Overflowing)
    assert [row.split(",")[0] for row in rows(tmp_path / "run/backtracks.csv")] == ["48"]
    assert result.backtracks == 1 and result.steps == 60 and result.validation_loss < 3.5


def test_a_spike_returns_to_the_last_stable_state_with_half_the_rate(
    tmp_path: Path, tokens: Path
) -> None:
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    # In step 36; then, back at 20, the 50th computed is step 34
    result = train_process.run(tokens, run, kind=spoilt_at(36, 50))
    assert result.backtracks == 2 and result.steps == 60
    assert rows(run / "backtracks.csv") == ["36,nan,20,0.5", "34,nan,20,0.25"]
    train_process.run(tokens, undisturbed)
    spiky, calm = (
        [row.split(",") for row in rows(folder / "training.csv")] for folder in (run, undisturbed)
    )
    # No step is there twice
    assert [int(row[0]) for row in spiky] == list(range(5, 61, 5))
    # Both times it continued from step 20, whose next step is no measure of the speed
    measured = [int(row.split(",")[0]) for row in rows(run / "throughput.csv")]
    assert measured == [step for step in range(2, 61) if step != 21]
    expected = [float(row[2]) * (1 if int(row[0]) <= 20 else 0.25) for row in calm]
    assert [float(row[2]) for row in spiky] == pytest.approx(expected, rel=1e-5)


def test_a_spike_soon_after_a_backtrack_returns_to_the_same_state(
    tmp_path: Path, tokens: Path
) -> None:
    """It was stable before; that fewer than 10 healthy steps follow it now does not change that."""
    # In step 46; then, back at 30, the 50th computed is step 34
    result = train_process.run(tokens, tmp_path / "run", kind=spoilt_at(46, 50))
    assert rows(tmp_path / "run/backtracks.csv") == ["46,nan,30,0.5", "34,nan,30,0.25"]
    assert result.backtracks == 2 and result.steps == 60


def first_matrix(trainer: Trainer) -> torch.Tensor:
    weights: torch.Tensor = trainer.optimizer.param_groups[0]["params"][0].data
    return weights


def add_noise(trainer: Trainer) -> None:
    weights, generator = first_matrix(trainer), torch.Generator().manual_seed(0)
    weights.add_(torch.randn(weights.shape, generator=generator) * 30)


def fill_with_nan(trainer: Trainer) -> None:
    first_matrix(trainer)[3, 3:].fill_(torch.nan)


@pytest.mark.parametrize("spoil", [add_noise, fill_with_nan])
def test_spoilt_weights_cost_one_backtrack_and_the_run_ends_healthy(
    tmp_path: Path,
    tokens: Path,
    spoil: Callable[[Trainer], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = train_process.run(tokens, tmp_path / "run", kind=spoilt_after(35, spoil))
    assert result.backtracks == 1 and result.steps == 60
    (row,) = rows(tmp_path / "run/backtracks.csv")
    step, loss, back_to, rate_scale = map(float, row.split(","))
    assert (step, back_to, rate_scale) == (36, 20, 0.5)
    # It was 1.5 before; NaN is not below either
    assert not loss < 3 * 1.5
    assert "loss spike" in capsys.readouterr().err
    # It began at 4.2
    assert result.validation_loss < 2


class InfiniteInTheLastStep(Trainer):
    """No later loss would show it."""

    clipped = 0

    def clip_gradient(self) -> torch.Tensor:
        self.clipped += 1
        if self.clipped == 60:
            gradient_of_first(self).view(-1)[0] = torch.inf
        return super().clip_gradient()


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tmp_path: Path, tokens: Path
) -> None:
    result = train_process.run(tokens, tmp_path / "run", kind=InfiniteInTheLastStep)
    assert result.backtracks == 1 and result.validation_loss < 3.5


def test_a_backtrack_skips_a_damaged_state(tmp_path: Path, tokens: Path) -> None:
    def damage(_: Trainer) -> None:
        (tmp_path / "run/state/step-00000020.pt").write_bytes(b"torn")

    config = replace(CONFIG, runtime=replace(CONFIG.runtime, keep_states=3))
    kind = spoilt_after(35, damage, at=(36,))
    assert train_process.run(tokens, tmp_path / "run", config, kind=kind).backtracks == 1
    assert rows(tmp_path / "run/backtracks.csv") == ["36,nan,10,0.5"]


def test_a_backtrack_to_the_untrained_weights_survives_a_kill(tmp_path: Path, tokens: Path) -> None:
    class Killed(spoilt_at(7)):  # type: ignore[misc]
        def backtrack(self, stats: StepStats, rate: float) -> None:
            super().backtrack(stats, rate)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_process.run(tokens, tmp_path / "run", kind=Killed)
    assert train_process.run(tokens, tmp_path / "run").backtracks == 1
    assert rows(tmp_path / "run/backtracks.csv") == ["7,nan,0,0.5"]


def test_spike_after_spike_ends_in_a_clear_line(tmp_path: Path, tokens: Path) -> None:
    expected = r"loss nan at step 1 after 2 backtracks.*lower optimizer.learning_rate"
    with pytest.raises(TrainingDiverged, match=expected):
        train_process.run(tokens, tmp_path / "run", kind=spoilt_at(2, 3, 4))
