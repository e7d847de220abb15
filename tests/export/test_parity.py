import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from helpers import gguf_model
from helpers.gguf_model import CONFIG, CONTEXT, TEXT, Tiny, gpt

from antimatter.chat import packing, template
from antimatter.chat.template import Message
from antimatter.data.special_tokens import SPECIAL
from antimatter.data.tokenizer import Tokenizer
from antimatter.export import gguf, parity
from antimatter.export.config import FileType
from antimatter.export.source import of_model
from antimatter.llama.server import Llama


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "gain", [1.0, 3.0, 10.0]
)  # at 10 the hidden units of the feed-forward networks reach the hundreds
def test_llama_cpp_computes_what_torch_computes(
    tiny: Tiny, tmp_path: Path, gain: float, tied: bool
) -> None:
    model = gpt(gain=gain, tied=tied)
    path = tmp_path / "a.gguf"
    gguf.write(of_model(model), tiny.tokenizer_folder / "tokenizer.json", path, "f32", CONFIG)
    result = parity.compare(model, path, gguf_model.windows(tiny.tokenizer))
    assert 0 <= result.kl < 1e-6
    assert result.top1_agreement >= 0.995
    assert result.perplexity == pytest.approx(result.torch_perplexity, rel=1e-3)


def test_a_file_in_float16_stays_within_1e_6_of_torch(tiny: Tiny) -> None:
    result = parity.compare(tiny.model, tiny.path, gguf_model.windows(tiny.tokenizer))
    assert 0 < result.kl < 1e-6
    assert result.top1_agreement >= 0.99


def test_the_perplexity_is_torchs_own_cross_entropy(tiny: Tiny) -> None:
    ids = gguf_model.windows(tiny.tokenizer)
    loss = torch.nn.functional.cross_entropy(
        tiny.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
    )
    assert parity.compare(tiny.model, tiny.path, ids).torch_perplexity == pytest.approx(
        float(loss.exp()), rel=1e-5
    )


def test_the_probabilities_of_completion_are_torchs_too(tiny: Tiny) -> None:
    """The other road through llama.cpp: no embeddings, its own output matrix and softmax."""
    ids = gguf_model.windows(tiny.tokenizer)[0, :20]
    with Llama(tiny.path, CONTEXT) as llama:
        body = {
            "prompt": ids.tolist(),
            "n_predict": 1,
            "n_probs": 10,
            "temperature": 0,
            "stream": False,
        }
        top = llama.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
    ours = tiny.model(ids[None])[0, -1].log_softmax(-1)
    assert [entry["logprob"] for entry in top] == pytest.approx(
        ours[[entry["id"] for entry in top]].tolist(), abs=3e-3
    )


@pytest.mark.parametrize("n_embd", [64, 256])  # blocks of 32, and of 256
@pytest.mark.parametrize(
    ("file_type", "most"), [("f32", 1e-6), ("f16", 1e-5), ("q8_0", 2e-3), ("q4_k_m", 0.2)]
)
def test_quantised_files_are_measured_as_llama_cpp_computes_them(
    tiny: Tiny, tmp_path: Path, file_type: FileType, most: float, n_embd: int
) -> None:
    """The distribution that the check compares with torch's is the one that llama.cpp itself samples from."""
    model, path = gpt(n_embd=n_embd, gain=2.0), tmp_path / "a.gguf"
    gguf.write(of_model(model), tiny.tokenizer_folder / "tokenizer.json", path, file_type, CONFIG)
    ids = gguf_model.windows(tiny.tokenizer)
    with Llama(path, CONTEXT) as llama:
        body = {
            "prompt": ids[0, :20].tolist(),
            "n_predict": 1,
            "n_probs": 20,
            "temperature": 0,
            "stream": False,
        }
        top = llama.post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
    with Llama(path, CONTEXT, embeddings=True) as llama:
        answer = llama.post("/embeddings", {"input": ids[0, :20].tolist(), "embd_normalize": -1})
    state = torch.tensor(answer[0]["embedding"][-1:], dtype=torch.float32)
    ours = parity._logits(state, *parity._output_matrix(path))[0].double().log_softmax(-1)
    assert [entry["logprob"] for entry in top] == pytest.approx(
        ours[[entry["id"] for entry in top]].tolist(), abs=2e-3
    )
    assert 0 <= parity.compare(model, path, ids).kl < most


def conversations(tiny: Tiny, folder: Path) -> Path:
    """Rows as the stage `conversations` leaves them: packed, padded with 0."""
    asked = [Message("user", TEXT[i : i + 30]) for i in range(0, 300, 30)]
    said = Message("assistant", "Yes.")
    rendered = [template.tokens([message, said], tiny.tokenizer) for message in asked]
    tokens, _ = packing.pack(rendered, CONTEXT)
    assert (tokens[:, -1] == 0).any()
    np.save(folder / "held_out_tokens.npy", tokens)
    return folder / "held_out_tokens.npy"


def test_on_conversations_a_file_in_float16_stays_within_1e_6_of_torch(
    tiny: Tiny,
    tmp_path: Path,
) -> None:
    held_out = parity.held_out(conversations(tiny, tmp_path), CONTEXT, 100)
    assert held_out and all(row[-1] != 0 and len(row) > 2 for row in held_out)
    ids = gguf_model.windows(tiny.tokenizer, 1)
    report = parity.check(tiny.model, tiny.path, ids, 1e-5, held_out)
    assert 0 < report["conversations"]["kl"] < 1e-6
    assert report["conversations"]["top1_agreement"] >= 0.99
    exact = parity.compare(tiny.model, tiny.path, held_out)
    losses = []
    for row in held_out:
        logits = tiny.model(row[None, :-1])[0]
        losses.append(torch.nn.functional.cross_entropy(logits, row[1:], reduction="none"))
    assert exact.torch_perplexity == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-5)


def test_held_out_rows_are_spread_over_the_file_and_end_before_the_padding(tmp_path: Path) -> None:
    tokens = np.zeros((10, 6), np.uint16)
    for i, row in enumerate(tokens):
        row[: 2 + i % 5] = [1, 3, 0, i + 9, 2, 7][: 2 + i % 5]
    np.save(tmp_path / "a.npy", tokens)
    found = parity.held_out(tmp_path / "a.npy", 5, 4)
    assert [row.tolist() for row in found] == [
        [1, 3],
        [1, 3, 0, 12, 2],
        [1, 3],
        [1, 3, 0, 18, 2, 7],
    ]
    assert len(parity.held_out(tmp_path / "a.npy", 5, 99)) == 10


def test_a_file_without_rows_for_the_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.npy is missing: run `dvc repro conv"):
        parity.held_out(tmp_path / "a.npy", 5, 4)
    for shape, words in (((0, 6), "is 0x6, no rows"), ((4, 7), "rows of 7 tokens, .* at most 6")):
        np.save(tmp_path / "a.npy", np.ones(shape, np.uint16))
        with pytest.raises(ValueError, match=rf"a\.npy .*{words}"):
            parity.held_out(tmp_path / "a.npy", 5, 4)


def test_conversations_alone_can_fail_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([parity.Parity(1e-7, 1.0, 2.0, 2.0), parity.Parity(1e-4, 0.5, 2.0, 2.0)])
    monkeypatch.setattr(parity, "compare", lambda *_: next(figures))
    ids = torch.ones(1, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"torch 0\.0001 .* on conversations exceeds 1e-05"):
        parity.check(tiny.model, tiny.path, ids, 1e-5, [ids[0]])


def test_a_file_of_another_model_fails_the_check(tiny: Tiny) -> None:
    with pytest.raises(
        ValueError,
        match=r"tiny-f16\.gguf is not the model: KL from torch .* exceeds 1e-05, its `max_kl`",
    ):
        parity.check(gpt(seed=2), tiny.path, gguf_model.windows(tiny.tokenizer), 1e-5)


def test_the_check_gives_the_same_figures_twice(tiny: Tiny) -> None:
    ids = gguf_model.windows(tiny.tokenizer)
    first, second = (parity.check(tiny.model, tiny.path, ids, 1e-5) for _ in range(2))
    assert first == second
    assert set(first) == {
        "kl",
        "top1_agreement",
        "perplexity",
        "torch_perplexity",
        "bytes",
        "tensors",
    }


def test_both_tokenizers_cut_alike(tiny: Tiny) -> None:
    counts = parity.check_tokenizer(tiny.tokenizer, tiny.path, gguf_model.windows(tiny.tokenizer))
    assert counts["mismatches"] == 0
    assert counts["strings"] >= 600 and counts["prompts"] >= 300


def test_a_tokenizer_with_other_merges_fails_the_check(tiny: Tiny, tmp_path: Path) -> None:
    gguf_model.save_tokenizer(
        tmp_path / "other", text="entirely different words " * 50 + gguf_model.TEXT.upper()
    )
    with pytest.raises(
        ValueError,
        match=r"cuts \d+ of \d+ texts into other tokens than tokenizer\.json, the first is",
    ):
        parity.check_tokenizer(
            Tokenizer.load(tmp_path / "other"), tiny.path, gguf_model.windows(tiny.tokenizer)
        )


def test_windows_are_whole_contexts_spread_over_the_split() -> None:
    files = [np.arange(60, dtype=np.uint16), np.arange(60, 101, dtype=np.uint16)]
    ids = parity.windows(files, block_size=9, count=3)
    assert ids.tolist() == [list(range(0, 10)), list(range(45, 55)), list(range(91, 101))]
    assert parity.windows(files, block_size=9, count=50).shape == (
        10,
        10,
    )  # no more than fit side by side
    assert parity.windows(files, block_size=1000, count=3).shape == (
        1,
        101,
    )  # a split shorter than the context
    for empty in ([], [np.zeros(1, dtype=np.uint16)]):
        with pytest.raises(ValueError, match=r"the validation split has [01] tokens"):
            parity.windows(empty, 9, 3)


def test_hf_and_llama_cpp_cut_many_texts_alike_also_with_special_tokens(tiny: Tiny) -> None:
    """Wider than the stage's own check: every block of Unicode, and [EOS] and its like as the tokens that they are."""
    hf = tokenizers.Tokenizer.from_file(str(tiny.tokenizer_folder / "tokenizer.json"))
    generator = random.Random(1)
    characters = [chr(code) for code in range(0x11_0000) if not 0xD800 <= code < 0xE000]
    texts = [
        "".join(characters[start : start + 500]) for start in range(0, 0x3000, 500)
    ]  # each character of the first blocks, beside its neighbours
    texts += [
        "".join(generator.choices(characters, k=generator.randrange(1, 30))) for _ in range(500)
    ]
    pieces = [*SPECIAL, "[", "]", "EOS", " ", "  ", "\n", "\t", "'s", "'S", "don't", "x", "1", "_"]
    pieces += ["é", "e\u0301", "٣", "½", "日本", "🙂", "\u200d", "\u00a0"]
    texts += ["".join(generator.choices(pieces, k=generator.randrange(1, 12))) for _ in range(1000)]
    with Llama(tiny.path, CONTEXT) as llama:
        different = [
            text
            for text in texts
            if llama.tokenize(text, special=True) != hf.encode(text, add_special_tokens=False).ids
        ]
    assert not different, f"{len(different)} of {len(texts)}: {different[:3]!r}"


def test_a_speed_is_measured(tiny: Tiny) -> None:
    assert min(parity.speed(tiny.path, gguf_model.windows(tiny.tokenizer)).values()) > 0
