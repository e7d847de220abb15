"""The fused head and loss against the plain computation, and the rare-token balance against numbers
worked out by hand.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from antimatter.data.batches import sequential_batches
from antimatter.errors import UserError
from antimatter.model import loss
from antimatter.model.config import LossConfig
from antimatter.model.gpt import GPT
from antimatter.model.loss import RareTokenBalance, frequency_bins, linear_cross_entropy, sum_losses


@pytest.fixture(
    params=[(64, 1 << 19), (1 << 22, 1 << 19), (1 << 22, 400)],
    ids=["many chunks", "one chunk", "many blocks"],
)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # With 64 a chunk is three rows of 21 logits; with 400 a block is three rows of 128
    chunk, block = request.param
    monkeypatch.setitem(loss.LOGITS, "cpu", chunk)
    monkeypatch.setattr(loss, "BLOCK", block)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, (2, 5, 8), head, (21, 8), targets and weights, (2, 5) each."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, 8, generator=random).requires_grad_()
    # 21 rows, which is not a multiple of the alignment
    head = torch.randn(21, 8, generator=random).requires_grad_()
    targets = torch.randint(21, (2, 5), generator=random)
    return hidden, head, targets, torch.rand(2, 5, generator=random) + 0.5


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_are_those_of_torchs_cross_entropy(weighted: bool) -> None:
    hidden, head, targets, weights = inputs()
    mean, losses = linear_cross_entropy(hidden, head, targets, weights if weighted else None)
    # The 3 stands for a loss scale
    (3 * mean).backward()
    plain_hidden = hidden.detach().double().requires_grad_()
    plain_head = head.detach().double().requires_grad_()
    logits = (plain_hidden @ plain_head.t()).flatten(0, 1)  # (10, 21)
    plain = F.cross_entropy(logits, targets.flatten(), reduction="none").view(2, 5)
    (3 * (plain * weights if weighted else plain).mean()).backward()
    torch.testing.assert_close(losses.double(), plain, rtol=1e-5, atol=1e-6)
    for ours, theirs in ((hidden, plain_hidden), (head, plain_head)):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("chunks")
def test_without_gradients_it_is_the_same_loss() -> None:
    hidden, head, targets, _ = inputs()
    with torch.no_grad():
        without = linear_cross_entropy(hidden, head, targets)
    for one, other in zip(without, linear_cross_entropy(hidden, head, targets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_under_autocast_products_are_half_and_the_heads_gradient_is_float32() -> None:
    hidden, head, targets, _ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        mean, losses = linear_cross_entropy(hidden, head, targets)
    mean.backward()
    assert losses.dtype == head.grad.dtype == torch.float32  # type: ignore[union-attr]
    exact = F.cross_entropy((hidden @ head.t()).flatten(0, 1), targets.flatten())
    assert mean.item() == pytest.approx(exact.item(), rel=0.02)


def test_the_loss_of_a_very_unlikely_token_is_finite() -> None:
    # Its probability is below the smallest float32
    head = torch.tensor([[200.0], [0.0]]).requires_grad_()
    mean, _ = linear_cross_entropy(torch.ones(1, 1, 1), head, torch.tensor([[1]]))
    assert mean.item() == pytest.approx(200)


def test_losses_are_summed_by_bin(tiny_gpt: GPT, token_file: Callable[..., np.ndarray]) -> None:
    tokens = token_file(200)
    bins = torch.arange(64) % 3
    batches = list(sequential_batches([tokens], batch_size=4, block_size=16))
    sums, counts = sum_losses(tiny_gpt, batches, bins)
    all_sums, all_counts = sum_losses(tiny_gpt, batches)
    assert counts.tolist() == [int((tokens[1:] % 64 % 3 == i).sum()) for i in range(3)]
    assert all_counts.item() == counts.sum() == 199
    assert sums.sum().item() == pytest.approx(all_sums.item())


def test_bins_are_powers_of_four() -> None:
    counts = torch.tensor([0, 1, 3, 4, 15, 16, 63, 64, 4**15 - 1, 4**15])
    assert frequency_bins(counts).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 14, 15]


def test_weights_follow_the_losses_and_average_one_over_the_corpus() -> None:
    # Two rare tokens, in bin 0, and a frequent one, in bin 3
    counts = torch.tensor([2, 2, 96])
    config = LossConfig(rare_token_power=1.0, rare_token_limit=100.0, rare_token_decay=0.5)
    balance = RareTokenBalance(config, counts)
    assert balance.weights().tolist() == [1, 1, 1]
    # A rare token costs 10 nats, the frequent one 3
    balance.update(bins(20, 0, 0, 30), bins(2, 0, 0, 10))
    weights = balance.weights()
    assert weights[0] / weights[2] == pytest.approx(10 / 3)
    assert (counts * weights).sum() / counts.sum() == pytest.approx(1)
    # Without a rare token in this step its average stays; the other moves half way to 5
    balance.update(bins(0, 0, 0, 50), bins(0, 0, 0, 10))
    assert balance.averages[[0, 3]].tolist() == [10, 4]


def test_a_weight_has_its_limits() -> None:
    config = LossConfig(rare_token_power=2.0, rare_token_limit=2.0, rare_token_decay=0.0)
    balance = RareTokenBalance(config, torch.tensor([1, 64]))
    balance.update(bins(100, 0, 0, 1), bins(1, 0, 0, 1))
    weights = balance.weights()
    # The limits are 2 and 1 / 2
    assert weights[0] / weights[1] == pytest.approx(4)


def bins(*values: float) -> Tensor:
    """A value for each frequency bin, (F,)."""
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rare_token_power", -1.0), ("rare_token_limit", 0.5), ("rare_token_decay", 1.0)],
)
def test_an_impossible_balance_is_refused(key: str, value: float) -> None:
    valid = LossConfig(rare_token_power=0.5, rare_token_limit=3.0, rare_token_decay=0.9)
    with pytest.raises(UserError, match=key):
        replace(valid, **{key: value})
