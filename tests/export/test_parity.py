from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
import torch
from tiny_gguf import CONFIG, CONTEXT, Tiny, gpt

from antimatter.data.tokenizer import Tokenizer
from antimatter.export import gguf, parity
from antimatter.export.llama import Llama


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("gain", [1.0, 3.0, 10.0])  # at 10 the hidden units of the feed-forward networks reach the hundreds
def test_llama_cpp_computes_what_torch_computes(tiny: Tiny, tmp_path: Path, gain: float, tied: bool) -> None:
    model = gpt(gain=gain, tied=tied)
    path = tmp_path / "a.gguf"
    gguf.write(model, tiny.tokenizer_folder / "tokenizer.json", path, "f32", CONFIG)
    result = parity.compare(model, path, tiny_gguf.windows(tiny.tokenizer))
    assert 0 <= result.kl < 1e-6
    assert result.top1_agreement >= 0.995
    assert result.perplexity == pytest.approx(result.torch_perplexity, rel=1e-3)


def test_a_file_in_float16_stays_within_1e_6_of_torch(tiny: Tiny) -> None:
    result = parity.compare(tiny.model, tiny.path, tiny_gguf.windows(tiny.tokenizer))
    assert 0 < result.kl < 1e-6
    assert result.top1_agreement >= 0.99


def test_the_perplexity_is_torchs_own_cross_entropy(tiny: Tiny) -> None:
    ids = tiny_gguf.windows(tiny.tokenizer)
    loss = torch.nn.functional.cross_entropy(tiny.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert parity.compare(tiny.model, tiny.path, ids).torch_perplexity == pytest.approx(float(loss.exp()), rel=1e-5)


def test_the_probabilities_of_completion_are_torchs_too(tiny: Tiny) -> None:
    """The other road through llama.cpp: no embeddings, its own output matrix and softmax."""
    ids = tiny_gguf.windows(tiny.tokenizer)[0, :20]
    with Llama(tiny.path, CONTEXT) as llama:
        body = {"prompt": ids.tolist(), "n_predict": 1, "n_probs": 10, "temperature": 0, "stream": False}
        top = llama.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
    ours = tiny.model(ids[None])[0, -1].log_softmax(-1)
    assert [entry["logprob"] for entry in top] == pytest.approx(ours[[entry["id"] for entry in top]].tolist(), abs=3e-3)


def test_a_file_of_another_model_fails_the_check(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"tiny-f16\.gguf is not the model: KL from torch .* exceeds `max_kl` 1e-05"):
        parity.check(gpt(seed=2), tiny.path, tiny_gguf.windows(tiny.tokenizer), CONFIG.max_kl)


def test_the_check_gives_the_same_figures_twice(tiny: Tiny) -> None:
    ids = tiny_gguf.windows(tiny.tokenizer)
    first, second = (parity.check(tiny.model, tiny.path, ids, 1e-5) for _ in range(2))
    assert first == second
    assert set(first) == {"kl", "top1_agreement", "perplexity", "torch_perplexity", "bytes"}


def test_both_tokenizers_cut_alike(tiny: Tiny) -> None:
    counts = parity.check_tokenizer(tiny.tokenizer, tiny.path, tiny_gguf.windows(tiny.tokenizer))
    assert counts["mismatches"] == 0
    assert counts["strings"] >= 600


def test_a_tokenizer_with_other_merges_fails_the_check(tiny: Tiny, tmp_path: Path) -> None:
    tiny_gguf.save_tokenizer(tmp_path / "other", text="entirely different words " * 50 + tiny_gguf.TEXT.upper())
    with pytest.raises(ValueError, match=r"cuts \d+ of \d+ texts into other tokens than tokenizer\.json, the first is"):
        parity.check_tokenizer(Tokenizer.load(tmp_path / "other"), tiny.path, tiny_gguf.windows(tiny.tokenizer))


def test_windows_are_whole_contexts_spread_over_the_split() -> None:
    files = [np.arange(60, dtype=np.uint16), np.arange(60, 101, dtype=np.uint16)]
    ids = parity.windows(files, block_size=9, count=3)
    assert ids.tolist() == [list(range(0, 10)), list(range(45, 55)), list(range(91, 101))]
    assert parity.windows(files, block_size=9, count=50).shape == (10, 10)  # no more than fit side by side
    assert parity.windows(files, block_size=1000, count=3).shape == (1, 101)  # a split shorter than the context
    for empty in ([], [np.zeros(1, dtype=np.uint16)]):
        with pytest.raises(ValueError, match=r"the validation split has [01] tokens"):
            parity.windows(empty, 9, 3)
