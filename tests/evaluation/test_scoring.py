"""The loss of each token, against one forward pass a token, and the windows that cut a text."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.losses import one_by_one

from antimatter.evaluation import scoring
from antimatter.evaluation.scoring import Score, Window
from antimatter.model.gpt import GPT

CONTEXT = 16  # of tiny_gpt


@pytest.mark.parametrize("stride", [1, 5, 8, 15, 16])
def test_sliding_windows_agree_with_one_pass_a_token(
    tiny_gpt: GPT, token_file: Callable[..., np.ndarray], stride: int
) -> None:
    streams = [token_file(length, seed=length) for length in (100, 1, 16, 17, 18, 33, 2)]
    parts = list(scoring.score(tiny_gpt, scoring.sliding(streams, CONTEXT, stride)))
    ids, stream, context, losses = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "stream", "context", "losses")
    )
    # Each token once, in order
    assert ids.tolist() == [token for tokens in streams for token in tokens[1:]]
    assert stream.tolist() == [number for number, tokens in enumerate(streams) for _ in tokens[1:]]
    before = np.array([place for tokens in streams for place in range(1, len(tokens))])
    assert (context >= np.minimum(before, CONTEXT - stride)).all()
    assert (context <= np.minimum(before, CONTEXT)).all()
    expected = np.concatenate([one_by_one(tiny_gpt, tokens, stride) for tokens in streams])
    assert losses == pytest.approx(expected, rel=1e-5)


def test_more_context_needs_a_smaller_stride(tiny_gpt: GPT) -> None:
    windows = list(scoring.sliding([np.arange(40)], CONTEXT, 8))
    assert [(int(window.ids[0]), int(window.ids[-1]), window.first) for window in windows] == [
        (0, 16, 0),
        (8, 24, 8),
        (16, 32, 8),
        (24, 39, 8),
    ]
    with pytest.raises(AssertionError):
        list(scoring.sliding([np.arange(40)], CONTEXT, 17))


def test_the_likeliest_token_is_the_one_with_the_largest_logit(
    tiny_gpt: GPT, token_file: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ROWS", 5)
    tokens = token_file(60).astype(np.int64)
    with torch.no_grad():
        best = tiny_gpt(torch.from_numpy(tokens[None, :CONTEXT]))[0].argmax(-1).numpy()
    # Some targets become the likeliest; they also change the logits of later ones
    tokens[2 : CONTEXT + 1 : 2] = best[1::2]
    with torch.no_grad():
        best = tiny_gpt(torch.from_numpy(tokens[None, :CONTEXT]))[0].argmax(-1).numpy()
    window = Window(0, tokens[: CONTEXT + 1], 0)
    (scored,) = scoring.score(tiny_gpt, [window], likeliest=True)
    assert scored.is_likeliest.tolist() == (best == tokens[1 : CONTEXT + 1]).tolist()
    assert 0 < scored.is_likeliest.sum() < CONTEXT
    (plain,) = scoring.score(tiny_gpt, [window])
    assert plain.losses.tolist() == scored.losses.tolist() and len(plain.is_likeliest) == 0


def test_the_size_of_a_batch_changes_no_loss(
    tiny_gpt: GPT, token_file: Callable[..., np.ndarray]
) -> None:
    windows = [Window(n, token_file(n + 2, seed=n), n // 2) for n in range(10)]
    sums = scoring.sums(tiny_gpt, windows)
    alone = [scoring.sums(tiny_gpt, [Window(0, one.ids, one.first)])[0] for one in windows]
    assert sums == pytest.approx(alone, rel=1e-5)
    small = np.zeros(10)
    for scored in scoring.score(tiny_gpt, windows, batch_size=3):
        small += np.bincount(scored.stream, scored.losses, 10)
    assert small == pytest.approx(alone, rel=1e-5)


def test_a_diverged_model_has_an_infinite_perplexity() -> None:
    """The exponential of a loss above 709.78 exceeds the range of a float."""
    assert Score(10, 7097.0, 40).figures()["perplexity"] == pytest.approx(1.65e308, rel=0.01)
    assert Score(10, 8210.0, 40).figures() == {
        "loss": 821.0,
        "perplexity": math.inf,
        "bits_per_byte": pytest.approx(296.1, rel=1e-3),
    }
    assert math.isnan(Score(10, math.nan, 40).figures()["perplexity"])
