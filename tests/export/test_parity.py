from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import gguf_model
from helpers.gguf_model import CONFIG, CONTEXT, TEXT, Tiny, gpt, of_model
from torch import Tensor

from antimatter.chat import packing, template
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.export import gguf, parity
from antimatter.export.config import FileType
from antimatter.llama.server import Llama


@pytest.mark.parametrize("tied", [True, False])
# At 10 the hidden units of the feed-forward networks reach the hundreds
@pytest.mark.parametrize("gain", [1.0, 3.0, 10.0])
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
    logits = tiny.model(ids[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    result = parity.compare(tiny.model, tiny.path, ids)
    assert result.torch_perplexity == pytest.approx(float(loss.exp()), rel=1e-5)


def completion(path: Path, ids: Tensor, count: int) -> dict[int, float]:
    """The log-probabilities of llama.cpp's `count` most likely next tokens.

    Unlike the check, this uses llama.cpp's own output matrix and softmax.
    """
    settings = {"n_predict": 1, "n_probs": count, "temperature": 0, "stream": False}
    with Llama(path, CONTEXT) as llama:
        answer = llama.post("/completion", {"prompt": ids.tolist(), **settings})
    top = answer["completion_probabilities"][0]["top_logprobs"]
    assert len(top) == count
    return {entry["id"]: entry["logprob"] for entry in top}


def test_the_probabilities_of_completion_are_torchs_too(tiny: Tiny) -> None:
    ids = gguf_model.windows(tiny.tokenizer)[0, :20]
    top = completion(tiny.path, ids, 10)
    ours = tiny.model(ids[None])[0, -1].log_softmax(-1)
    assert list(top.values()) == pytest.approx(ours[list(top)].tolist(), abs=3e-3)


# Blocks of 32, and of 256
@pytest.mark.parametrize("n_embd", [64, 256])
@pytest.mark.parametrize(
    ("file_type", "most"), [("f32", 1e-6), ("f16", 1e-5), ("q8_0", 2e-3), ("q4_k_m", 0.2)]
)
def test_quantized_files_are_measured_as_llama_cpp_computes_them(
    tiny: Tiny, tmp_path: Path, file_type: FileType, most: float, n_embd: int
) -> None:
    """The check compares torch with the distribution that llama.cpp itself samples from."""
    model, path = gpt(n_embd=n_embd, gain=2.0), tmp_path / "a.gguf"
    gguf.write(of_model(model), tiny.tokenizer_folder / "tokenizer.json", path, file_type, CONFIG)
    ids = gguf_model.windows(tiny.tokenizer)
    top = completion(path, ids[0, :20], 20)
    with Llama(path, CONTEXT, embeddings=True) as llama:
        answer = llama.post("/embeddings", {"input": ids[0, :20].tolist(), "embd_normalize": -1})
    state = torch.tensor(answer[0]["embedding"][-1:], dtype=torch.float32)
    ours = parity.logits(state, *parity.output_matrix(path))[0].double().log_softmax(-1)
    assert list(top.values()) == pytest.approx(ours[list(top)].tolist(), abs=2e-3)
    assert 0 <= parity.compare(model, path, ids).kl < most


def conversations(tiny: Tiny, folder: Path) -> Path:
    """Rows as the stage `conversations` writes them: packed, padded with 0."""
    questions = [Message("user", TEXT[i : i + 30]) for i in range(0, 300, 30)]
    answer = Message("assistant", "Yes.")
    rendered = [template.tokens([question, answer], tiny.tokenizer) for question in questions]
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
    rows = [row.tolist() for row in parity.held_out(tmp_path / "a.npy", 5, 4)]
    assert rows == [[1, 3], [1, 3, 0, 12, 2], [1, 3], [1, 3, 0, 18, 2, 7]]
    assert len(parity.held_out(tmp_path / "a.npy", 5, 99)) == 10


def test_a_file_without_rows_for_the_model_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(UserError, match=r"a\.npy is missing: run `dvc repro conversations`"):
        parity.held_out(path, 5, 4)
    for shape, error in (((0, 6), "is 0x6, not rows"), ((4, 7), "rows of 7 tokens, .* at most 6")):
        np.save(path, np.ones(shape, np.uint16))
        with pytest.raises(UserError, match=rf"a\.npy .*{error}"):
            parity.held_out(path, 5, 4)
    for content in (b"", b"hello", path.read_bytes()[:40]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.npy is not a NumPy array"):
            parity.held_out(path, 5, 4)


def test_conversations_alone_can_fail_it(tiny: Tiny) -> None:
    windows = list(gguf_model.windows(tiny.tokenizer))
    kl = [parity.compare(tiny.model, tiny.path, [window]).kl for window in windows]
    near, far = min(kl), max(kl)
    text, talk = windows[kl.index(near)][None], [windows[kl.index(far)]]
    bound = (near + far) / 2
    parity.check(tiny.model, tiny.path, text, bound)
    with pytest.raises(UserError, match=rf"{far:.3g} .* on conversations exceeds {bound:g}"):
        parity.check(tiny.model, tiny.path, text, bound, talk)


def test_a_file_of_another_model_fails_the_check(tiny: Tiny) -> None:
    bound = r"KL from torch .* exceeds 1e-05, its `max_kl`"
    with pytest.raises(UserError, match=rf"tiny-f16\.gguf is not the model: {bound}"):
        parity.check(gpt(seed=2), tiny.path, gguf_model.windows(tiny.tokenizer), 1e-5)


def test_the_check_gives_the_same_figures_twice(tiny: Tiny) -> None:
    ids = gguf_model.windows(tiny.tokenizer)
    first, second = (parity.check(tiny.model, tiny.path, ids, 1e-5) for _ in range(2))
    assert first == second
    keys = "kl top1_agreement perplexity torch_perplexity bytes tensors"
    assert set(first) == set(keys.split())


def test_windows_are_whole_contexts_spread_over_the_split() -> None:
    files = [np.arange(60, dtype=np.uint16), np.arange(60, 101, dtype=np.uint16)]
    ids = parity.windows(files, block_size=9, count=3)
    assert ids.tolist() == [list(range(0, 10)), list(range(45, 55)), list(range(91, 101))]
    # No more than fit side by side
    assert parity.windows(files, block_size=9, count=50).shape == (10, 10)
    # A split that is shorter than the context
    assert parity.windows(files, block_size=1000, count=3).shape == (1, 101)
    for empty in ([], [np.zeros(1, dtype=np.uint16)]):
        with pytest.raises(UserError, match=r"the validation split has [01] tokens"):
            parity.windows(empty, 9, 3)


def test_a_speed_is_measured(tiny: Tiny) -> None:
    assert min(parity.speed(tiny.path, gguf_model.windows(tiny.tokenizer)).values()) > 0
