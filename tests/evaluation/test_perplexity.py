import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from antimatter.evaluation import perplexity
from antimatter.model.gpt import GPT


def test_perplexity_is_the_exponential_of_the_mean_loss_of_every_token(tiny_gpt: GPT, token_file: Callable[..., np.ndarray]) -> None:
    tokens = token_file(1 + 16 * 5 + 7)  # five windows and a part
    counts = np.array([2, 10] * 32)
    result = perplexity.evaluate(tiny_gpt, [tokens], 200, counts)
    losses, targets = [], torch.from_numpy(tokens[1:].astype(np.int64))
    for start in range(0, 87, 16):
        window = torch.from_numpy(tokens[start : start + 17].astype(np.int64))
        with torch.no_grad():
            losses.append(F.cross_entropy(tiny_gpt(window[None, :-1])[0], window[1:], reduction="none"))
    by_hand = torch.cat(losses).double()
    assert len(by_hand) == 87
    assert result.loss == pytest.approx(by_hand.mean().item(), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(by_hand.mean().item()), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(by_hand.sum().item() / math.log(2) / 200, rel=1e-6)

    rare, frequent = result.bins  # even ids occur twice, odd ones ten times
    assert (rare.least, rare.most, rare.vocabulary, frequent.least, frequent.most) == (0, 3, 32, 4, 15)
    assert rare.tokens + frequent.tokens == 87
    assert rare.loss == pytest.approx(by_hand[targets % 2 == 0].mean().item(), rel=1e-6)
    assert frequent.loss == pytest.approx(by_hand[targets % 2 == 1].mean().item(), rel=1e-6)


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(tiny_gpt: GPT, token_file: Callable[..., np.ndarray]) -> None:
    tiny_gpt.norm.weight.data.zero_()  # every logit becomes 0
    result = perplexity.evaluate(tiny_gpt, [token_file(100)], 99, np.ones(64))
    assert result.perplexity == pytest.approx(64)
    assert result.bits_per_byte == pytest.approx(6)  # log2(64) bits a one-byte token
