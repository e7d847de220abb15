"""Perplexity of the validation split, as a whole and in tables."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from helpers.losses import one_by_one

from antimatter.data.shards.reader import Shards
from antimatter.evaluation import perplexity
from antimatter.evaluation.config import PerplexityConfig
from antimatter.evaluation.perplexity import Bin
from antimatter.model.gpt import GPT

CONTEXT = 16  # of tiny_gpt
LENGTHS = [30, 5, 41, 1, 0, 60, 17]  # of documents, without BOS and EOS
COUNTS = np.array([2, 10] * 32)  # in train: even ids twice, odd ones ten times
Make = Callable[[list[int], np.ndarray], Shards]


def test_perplexity_is_the_exponential_of_the_mean_loss_of_every_token(
    tiny_gpt: GPT, make_shards: Make
) -> None:
    shards = make_shards(LENGTHS, COUNTS)
    result = perplexity.evaluate(tiny_gpt, shards, stride=4)
    for score, stride in ((result.windows, CONTEXT), (result.sliding, 4)):
        streams = shards.split("validation")
        losses = np.concatenate([one_by_one(tiny_gpt, ids, stride) for ids in streams])
        figures = score.figures()
        # All but the first of each file
        assert score.tokens == len(losses) == shards.tokens("validation") - 2
        assert figures["loss"] == pytest.approx(losses.mean(), rel=1e-6)
        assert figures["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-6)
        bits = losses.sum() / math.log(2) / shards.bytes("validation")
        assert figures["bits_per_byte"] == pytest.approx(bits, rel=1e-6)


def test_every_table_sums_up_to_the_whole(tiny_gpt: GPT, make_shards: Make) -> None:
    shards = make_shards(LENGTHS, COUNTS)
    result = perplexity.evaluate(tiny_gpt, shards, stride=8)
    for bins in (result.frequencies, result.positions):
        assert sum(bin.tokens for bin in bins) == result.windows.tokens
        assert sum(bin.tokens * bin.loss for bin in bins) == pytest.approx(result.windows.nats)
    scores = result.sources.values()
    assert sum(score.tokens for score in scores) == result.sliding.tokens
    assert sum(score.nats for score in scores) == pytest.approx(result.sliding.nats)
    assert sum(score.bytes for score in scores) == result.sliding.bytes
    assert result.sliding.bytes == sum(10 + n for n in range(len(LENGTHS)))


def test_a_token_is_counted_where_it_belongs(tiny_gpt: GPT, make_shards: Make) -> None:
    shards = make_shards(LENGTHS, COUNTS)
    result = perplexity.evaluate(tiny_gpt, shards, stride=8)
    streams = shards.split("validation")
    # 0 for the first token of a file, which is never a target
    by_file = [np.array([0, *one_by_one(tiny_gpt, part, CONTEXT)]) for part in streams]
    ids, losses = np.concatenate(streams), np.concatenate(by_file)

    rare, frequent = result.frequencies
    assert (rare.name, rare.vocabulary) == ("0-3", 32)
    assert (frequent.name, frequent.vocabulary) == ("4-15", 32)
    assert rare.loss * rare.tokens == pytest.approx(losses[ids % 2 == 0].sum(), rel=1e-5)

    places = np.concatenate([(np.arange(len(part)) - 1) % CONTEXT + 1 for part in by_file])
    places[[0, len(by_file[0])]] = 0
    assert [bin.name for bin in result.positions] == ["1", "2", "3-4", "5-8", "9-16"]
    for bin in result.positions:
        inside = (places >= bin.least) & (places <= bin.most)
        assert bin.tokens == inside.sum()
        assert bin.loss == pytest.approx(losses[inside].mean(), rel=1e-5)

    sliding = np.concatenate([np.array([0, *one_by_one(tiny_gpt, part, 8)]) for part in streams])
    document = np.cumsum(ids == 1) - 1
    for place, name in enumerate(("even", "odd")):
        expected = sliding[document % 2 == place].sum()
        assert result.sources[name].nats == pytest.approx(expected, rel=1e-5)
        assert result.sources[name].bytes == sum(10 + n for n in range(place, len(LENGTHS), 2))


def test_a_stride_beyond_the_context_is_the_context(tiny_gpt: GPT, make_shards: Make) -> None:
    result = perplexity.evaluate(tiny_gpt, make_shards(LENGTHS, COUNTS), stride=1000)
    assert result.sliding == result.windows


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(
    tiny_gpt: GPT, make_shards: Make
) -> None:
    tiny_gpt.norm.weight.data.zero_()  # every logit becomes 0
    result = perplexity.evaluate(tiny_gpt, make_shards([9, 9], np.ones(64)), stride=8)
    assert result.windows.figures()["perplexity"] == pytest.approx(64)
    # log2(64) bits a token: 20 of them, for 21 bytes
    assert result.windows.figures()["bits_per_byte"] == pytest.approx(6 * 20 / 21)


def test_a_bin_of_a_diverged_model_has_an_infinite_perplexity() -> None:
    assert Bin(1, 2, 3, 821.0).perplexity == math.inf


def test_a_stride_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        PerplexityConfig(stride=0, texts=(), text_column="text")
