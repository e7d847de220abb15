import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from antimatter.data.shards.reader import Shards
from antimatter.evaluation import perplexity
from antimatter.evaluation.config import PerplexityConfig
from antimatter.evaluation.perplexity import Bin, Score
from antimatter.model.gpt import GPT

CONTEXT = 16  # of tiny_gpt
LENGTHS = [30, 5, 41, 1, 0, 60, 17]  # of documents, without BOS and EOS
COUNTS = np.array([2, 10] * 32)  # in train: even ids twice, odd ones ten times
Make = Callable[[list[int], np.ndarray], Shards]


def naive(model: GPT, ids: np.ndarray, stride: int) -> list[float]:
    """The loss of each token but the first, each by a forward pass of its own over what a window of that stride shows it."""
    losses = []
    for target in range(1, len(ids)):
        # The first window that reaches it
        start = max(0, -(-(target - CONTEXT) // stride)) * stride
        read = torch.from_numpy(ids[start:target].astype(np.int64))[None]
        with torch.no_grad():
            losses.append(
                F.cross_entropy(
                    model(read)[:, -1].double(), torch.tensor([int(ids[target])])
                ).item()
            )
    return losses


@pytest.mark.parametrize("stride", [1, 5, 8, 15, 16])
def test_sliding_windows_agree_with_one_pass_a_token(
    tiny_gpt: GPT, token_file: Callable[..., np.ndarray], stride: int
) -> None:
    streams = [token_file(length, seed=length) for length in (100, 1, 16, 17, 18, 33, 2)]
    found = list(perplexity.score(tiny_gpt, perplexity.sliding(streams, CONTEXT, stride)))
    for name in ("ids", "stream", "context", "losses"):
        joined = np.concatenate([getattr(scored, name) for scored in found])
        if name == "losses":
            assert joined == pytest.approx(
                np.concatenate([naive(tiny_gpt, ids, stride) for ids in streams]), rel=1e-5
            )
        elif name == "ids":
            # Each once, in order
            assert joined.tolist() == [token for ids in streams for token in ids[1:]]
        elif name == "stream":
            assert joined.tolist() == [
                number for number, ids in enumerate(streams) for _ in ids[1:]
            ]
        else:
            before = np.array([place for ids in streams for place in range(1, len(ids))])
            assert (joined >= np.minimum(before, CONTEXT - stride)).all() and (
                joined <= np.minimum(before, CONTEXT)
            ).all()


def test_more_context_is_asked_for_by_a_smaller_stride(tiny_gpt: GPT) -> None:
    windows = list(perplexity.sliding([np.arange(40)], CONTEXT, 8))
    assert [(int(w.ids[0]), int(w.ids[-1]), w.first) for w in windows] == [
        (0, 16, 0),
        (8, 24, 8),
        (16, 32, 8),
        (24, 39, 8),
    ]
    with pytest.raises(AssertionError):
        list(perplexity.sliding([np.arange(40)], CONTEXT, 17))


def test_perplexity_is_the_exponential_of_the_mean_loss_of_every_token(
    tiny_gpt: GPT, make_shards: Make
) -> None:
    shards = make_shards(LENGTHS, COUNTS)
    result = perplexity.evaluate(tiny_gpt, shards, stride=4)
    for score, stride in ((result.windows, CONTEXT), (result.sliding, 4)):
        by_hand = np.concatenate(
            [naive(tiny_gpt, ids, stride) for ids in shards.split("validation")]
        )
        figures = score.figures()
        # But the first of each file
        assert score.tokens == len(by_hand) == shards.tokens("validation") - 2
        assert figures["loss"] == pytest.approx(by_hand.mean(), rel=1e-6)
        assert figures["perplexity"] == pytest.approx(math.exp(by_hand.mean()), rel=1e-6)
        assert figures["bits_per_byte"] == pytest.approx(
            by_hand.sum() / math.log(2) / shards.bytes("validation"), rel=1e-6
        )


def test_every_table_sums_up_to_the_whole(tiny_gpt: GPT, make_shards: Make) -> None:
    shards = make_shards(LENGTHS, COUNTS)
    result = perplexity.evaluate(tiny_gpt, shards, stride=8)
    for bins in (result.frequencies, result.positions):
        assert sum(bin.tokens for bin in bins) == result.windows.tokens
        assert sum(bin.tokens * bin.loss for bin in bins) == pytest.approx(result.windows.nats)
    assert sum(score.tokens for score in result.sources.values()) == result.sliding.tokens
    assert sum(score.nats for score in result.sources.values()) == pytest.approx(
        result.sliding.nats
    )
    assert (
        sum(score.bytes for score in result.sources.values())
        == result.sliding.bytes
        == sum(10 + n for n in range(len(LENGTHS)))
    )


def test_a_token_is_counted_where_it_belongs(tiny_gpt: GPT, make_shards: Make) -> None:
    shards = make_shards(LENGTHS, COUNTS)
    result = perplexity.evaluate(tiny_gpt, shards, stride=8)
    # 0 for the first, which nobody predicts
    lost = [np.array([0, *naive(tiny_gpt, ids, CONTEXT)]) for ids in shards.split("validation")]
    ids, losses = np.concatenate(shards.split("validation")), np.concatenate(lost)

    rare, frequent = result.frequencies
    assert (rare.name, rare.vocabulary, frequent.name, frequent.vocabulary) == (
        "0-3",
        32,
        "4-15",
        32,
    )
    assert rare.loss * rare.tokens == pytest.approx(losses[ids % 2 == 0].sum(), rel=1e-5)

    places = np.concatenate([(np.arange(len(part)) - 1) % CONTEXT + 1 for part in lost])
    places[[0, len(lost[0])]] = 0
    assert [bin.name for bin in result.positions] == ["1", "2", "3-4", "5-8", "9-16"]
    for bin in result.positions:
        inside = (places >= bin.least) & (places <= bin.most)
        assert (bin.tokens, bin.loss) == (
            inside.sum(),
            pytest.approx(losses[inside].mean(), rel=1e-5),
        )

    slid = np.concatenate(
        [np.array([0, *naive(tiny_gpt, part, 8)]) for part in shards.split("validation")]
    )
    document = np.cumsum(ids == 1) - 1
    for place, name in enumerate(("even", "odd")):
        assert result.sources[name].nats == pytest.approx(
            slid[document % 2 == place].sum(), rel=1e-5
        )
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


def test_the_default_texts_are_none_and_a_stride_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        PerplexityConfig(stride=0, texts=(), text_column="text")


def test_a_model_that_has_diverged_has_an_infinite_perplexity() -> None:
    """Its loss is a number, whose exponential is none that a float holds: above 709.78."""
    assert Score(10, 7097.0, 40).figures()["perplexity"] == pytest.approx(1.65e308, rel=0.01)
    assert Score(10, 8210.0, 40).figures() == {
        "loss": 821.0,
        "perplexity": math.inf,
        "bits_per_byte": pytest.approx(296.1, rel=1e-3),
    }
    assert Bin(1, 2, 3, 821.0).perplexity == math.inf
    assert math.isnan(Score(10, math.nan, 40).figures()["perplexity"])
