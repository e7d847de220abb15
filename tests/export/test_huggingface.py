"""The exported folder in transformers, and its perplexity in torch, transformers and llama.cpp."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gguf_model
from helpers.gguf_model import CHAT, CONTEXT, Tiny, gpt, of_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from antimatter import files
from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.data.special_tokens import EOS, USER
from antimatter.errors import UserError
from antimatter.export import gguf, huggingface, parity, tokenization
from antimatter.model.gpt import GPT


def exported(model: GPT, tiny: Tiny, folder: Path) -> Path:
    path = huggingface.path_of(folder, "tiny")
    huggingface.write(of_model(model), tiny.tokenizer_folder / "tokenizer.json", path)
    return path


@pytest.mark.parametrize("tied", [True, False])
# Their own slope, and others, which take twice as many hidden units
@pytest.mark.parametrize("slope", [0.01, 0.0, 0.1, 1.0])
def test_transformers_compute_the_same_logits(
    tiny: Tiny, tmp_path: Path, slope: float, tied: bool
) -> None:
    ours = gpt(slope=slope, tied=tied)
    theirs: Any = AutoModelForCausalLM.from_pretrained(exported(ours, tiny, tmp_path))
    assert theirs.config.n_inner == (256 if slope == 0.01 else 512)
    assert theirs.config.tie_word_embeddings is tied
    ids = torch.randint(400, (3, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=1e-5, atol=1e-5)


def test_transformers_split_texts_into_the_same_tokens(tiny: Tiny, tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(exported(tiny.model, tiny, tmp_path))
    texts = list(tokenization.texts(tiny.tokenizer, gguf_model.windows(tiny.tokenizer)))
    assert len(texts) > 500
    for text in texts:
        ids = tiny.tokenizer.encode(text)
        # [EOS] in a text is text, and [BOS] comes before it
        assert tokenizer(text).input_ids == [1, *ids], text
        decoded = tokenizer.decode([1, *ids], skip_special_tokens=True)
        assert decoded == tiny.tokenizer.decode(ids)


def test_all_files_have_the_same_mode(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    paths = [*exported(tiny.model, tiny, tmp_path).iterdir(), tmp_path / "plain"]
    assert len(paths) == 6
    assert len({path.stat().st_mode for path in paths}) == 1


def test_transformers_know_where_a_text_begins_and_ends(tiny: Tiny, tmp_path: Path) -> None:
    folder = exported(tiny.model, tiny, tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.model_max_length == CONTEXT
    for reader in (tokenizer, model.config, model.generation_config):
        assert (reader.pad_token_id, reader.bos_token_id, reader.eos_token_id) == (0, 1, 2)
    prompt = tokenizer("def f", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0].tolist()
    ids = [1, *tiny.tokenizer.encode("def f")]
    for _ in range(len(answer) - len(ids)):
        ids.append(int(tiny.model(torch.tensor([ids]))[0, -1].argmax()))
    assert answer == ids


def test_a_chat_model_answers_in_its_roles_until_its_turn_ends(
    tiny: Tiny,
    tmp_path: Path,
) -> None:
    """tests/chat/test_template.py compares the tokens of hundreds of conversations."""
    path = tmp_path / "chat-hf"
    source = replace(of_model(tiny.model), chat=CHAT)
    huggingface.write(source, tiny.tokenizer_folder / "tokenizer.json", path)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    settings = files.read_json(path / "generation_config.json")
    assert settings["eos_token_id"] == [EOS, USER]
    messages = [{"role": "user", "content": "Hi [EOS]"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == template.prompt_tokens([Message("user", "Hi [EOS]")], tiny.tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Hi [ EOS]"
    plain: Any = AutoTokenizer.from_pretrained(exported(tiny.model, tiny, tmp_path))
    assert plain.chat_template is None


def test_the_same_weights_give_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    first, second = (
        {path.name: path.read_bytes() for path in exported(gpt(), tiny, tmp_path / name).iterdir()}
        for name in ("a", "b")
    )
    parts = "config generation_config tokenizer tokenizer_config"
    assert first.keys() == {"model.safetensors", *(f"{name}.json" for name in parts.split())}
    assert first == second


def test_a_tokenizer_that_does_not_fit_leaves_nothing(tiny: Tiny, tmp_path: Path) -> None:
    source, path = of_model(tiny.model), tmp_path / "other" / "tokenizer.json"
    gguf_model.save_tokenizer(path.parent, vocab_size=300)
    text = (tiny.tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
    for content, error in (
        (None, r"has 300 tokens, the checkpoint was trained with 400"),
        (text.replace("[USER]", "[OTHER]"), r"tokenizer\.json lacks special tokens.*\[USER\]=3"),
        ("{}", r"tokenizer\.json is not a tokenizer"),
    ):
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=error):
            huggingface.write(source, path, tmp_path / "hf")
    with pytest.raises((UserError, FileNotFoundError), match=r"absent\.json is missing"):
        huggingface.write(source, tmp_path / "absent.json", tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("slope", [0.01, 0.1])
def test_three_runtimes_agree_on_the_perplexity(tiny: Tiny, tmp_path: Path, slope: float) -> None:
    """benchmarks/agreement.py does this with the trained model and the whole validation split."""
    # Transformers read the last target as an input too
    model, ids = gpt(slope=slope), gguf_model.windows(tiny.tokenizer)[:, :CONTEXT]
    tokenizer, path = tiny.tokenizer_folder / "tokenizer.json", tmp_path / "tiny.gguf"
    gguf.write(of_model(model), tokenizer, path, "f32", gguf_model.CONFIG)
    ours = parity.compare(model, path, ids)
    theirs: Any = AutoModelForCausalLM.from_pretrained(exported(model, tiny, tmp_path))
    with torch.no_grad():
        # Transformers shift the targets themselves
        loss = float(theirs(ids, labels=ids).loss)
    assert math.exp(loss) == pytest.approx(ours.torch_perplexity, rel=1e-5)
    assert math.exp(loss) == pytest.approx(ours.perplexity, rel=1e-3)
