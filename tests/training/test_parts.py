"""Schedule, optimizer, spikes and saved states: each at points that are worked out by hand."""

import math
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from antimatter.errors import UserError
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT
from antimatter.training import optimizer as adamw
from antimatter.training.checkpoint import Checkpoints
from antimatter.training.config import OptimizerConfig
from antimatter.training.schedule import ScheduleConfig, rate_factor
from antimatter.training.spikes import SpikeConfig, is_spike

OPTIMIZER = OptimizerConfig(
    kind="adamw",
    learning_rate=0.1,
    embedding_rate=1.0,
    beta1=0.9,
    beta2=0.95,
    momentum=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    grad_clip=1.0,
)
SPIKES = SpikeConfig(factor=3.0, window=4, rate_factor=0.5, max_backtracks=2)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # The first step learns
        (1, 0.01),
        (50, 0.5),
        # The peak, in one step only
        (100, 1.0),
        # Half way down the cosine, between 1 and 0.1
        (600, 0.55),
        (1100, 0.1),
    ],
)
def test_the_schedule_at_points_worked_out_by_hand(step: int, expected: float) -> None:
    config = ScheduleConfig(warmup_steps=100, final_fraction=0.1, decay="cosine")
    assert rate_factor(step, 1100, config) == pytest.approx(expected)


def test_without_warm_up_the_schedule_starts_near_its_peak() -> None:
    config = ScheduleConfig(warmup_steps=0, final_fraction=0.0, decay="cosine")
    factors = [rate_factor(step, 10, config) for step in range(1, 11)]
    assert factors[0] > 0.95
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == 0


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Embedding(4, 3))
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = adamw.build(model, OPTIMIZER)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        expected = old * (1 - 0.1 * 0.1) if old.ndim == 2 else old
        torch.testing.assert_close(new, expected)


def test_the_token_embedding_learns_at_a_multiple_of_the_rate(tiny_config: GPTConfig) -> None:
    model = GPT(tiny_config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = adamw.build(model, replace(OPTIMIZER, embedding_rate=8.0, weight_decay=0.0))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)
    adamw.set_learning_rate(optimizer, 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # The first step of Adam is the rate, whatever the size of the gradient
    for name, parameter in model.named_parameters():
        rate = 0.08 if name == "token_embedding.weight" else 0.01
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, rate))


def test_a_step_is_adamw_as_the_paper_has_it() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0]])
    optimizer = adamw.build(model, OPTIMIZER)
    gradients = [torch.tensor([[0.5, -1.0]]), torch.tensor([[0.1, 0.3]])]
    weight, m, v = torch.tensor([[1.0, -2.0]]).double(), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        model.weight.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient.double(), 0.95 * v + 0.05 * gradient.double() ** 2
        weight = weight * (1 - 0.1 * 0.1) - 0.1 * (m / (1 - 0.9**t)) / (
            (v / (1 - 0.95**t)).sqrt() + 1e-8
        )
    torch.testing.assert_close(model.weight.double(), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "history", "spike"),
    [
        # Exactly 3 times the 90th percentile is not above it
        (3.0, [1, 1, 1, 1], False),
        (3.1, [1, 1, 1, 1], True),
        # The window is not full
        (3.1, [1, 1, 1], False),
        # Losses before the window do not count
        (3.1, [9, 1, 1, 1, 1], True),
        # Ten times the mean, but not 3 times the upper losses
        (6.0, [2, 0.1, 0.1, 0.1], False),
        (math.nan, [], True),
        (math.inf, [1, 1, 1, 1], True),
    ],
)
def test_spikes_at_points_worked_out_by_hand(
    loss: float, history: list[float], spike: bool
) -> None:
    assert is_spike(loss, history, SPIKES) is spike


def test_the_newest_state_is_one_whose_bytes_are_intact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, every=10, keep=1)
    assert checkpoints.newest() is None
    for step in (10, 20, 30):
        checkpoints.save(step, {"step": step, "weights": torch.arange(1000.0)})
    torn, flipped = tmp_path / "step-00000030.pt", tmp_path / "step-00000020.pt"
    torn.write_bytes(torn.read_bytes()[:300])
    content = bytearray(flipped.read_bytes())
    # One bit of one weight
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    assert checkpoints.newest() == 10
    output = capsys.readouterr().err
    assert "step-00000030.pt is damaged" in output
    assert "step-00000020.pt is damaged (the checksum of" in output
    assert checkpoints.load(10)["step"] == 10
    assert torn.with_suffix(".damaged").exists() and checkpoints.steps() == [10]


def test_if_every_state_is_damaged_the_run_does_not_start_again_silently(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=10, keep=1)
    checkpoints.save(10, {"step": 10})
    checkpoints.path(10).write_bytes(b"")
    # Nor at the second call
    for _ in range(2):
        with pytest.raises(UserError, match=r"every saved state in .* is damaged.*backup.*delete"):
            checkpoints.newest()


def test_a_stable_state_is_followed_by_healthy_steps_and_survives_rotation(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=10, keep=1)
    # 25 was saved by a pause
    for step in (0, 10, 20, 25, 30):
        checkpoints.save(step, {})
    assert checkpoints.stable(29, healthy=5) == 20
    assert checkpoints.stable(24, healthy=5) == 10
    # Untrained weights are always stable
    assert checkpoints.stable(3, healthy=5) == 0
    checkpoints.rotate(30, healthy=10)
    assert checkpoints.steps() == [20, 25, 30]
    checkpoints.drop_after(20)
    assert checkpoints.steps() == [20]


def test_the_newest_states_stay_beside_the_stable_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=10, keep=3)
    for step in range(0, 60, 10):
        checkpoints.save(step, {})
        checkpoints.rotate(step, healthy=1)
    assert checkpoints.steps() == [30, 40, 50]
    wide = Checkpoints(tmp_path, every=10, keep=1)
    # 30 is stable, and 40 will be next
    wide.rotate(50, healthy=15)
    assert wide.steps() == [30, 40, 50]


def test_a_save_that_fails_keeps_the_state_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=10, keep=1)
    checkpoints.save(10, {"step": 10})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # In bytes: as on a full disk, a write beyond the limit fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"step-00000020\.pt.*resumes from step 10"):
            checkpoints.save(20, {"step": 20, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.newest() == 10
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010.pt"]
