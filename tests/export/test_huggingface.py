"""The exported folder, judged by transformers itself; and the same perplexity in torch, transformers and llama.cpp."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gguf_model
from helpers.gguf_model import CHAT, CONTEXT, Tiny, gpt
from transformers import AutoModelForCausalLM, AutoTokenizer

from antimatter import files
from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.data.special_tokens import EOS, USER
from antimatter.export import gguf, huggingface, parity
from antimatter.export.source import of_model
from antimatter.model.gpt import GPT


def exported(model: GPT, tiny: Tiny, folder: Path) -> Path:
    path = huggingface.path_of(folder, "tiny")
    huggingface.write(of_model(model), tiny.tokenizer_folder / "tokenizer.json", path)
    return path


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "slope", [0.01, 0.0, 0.1, 1.0]
)  # theirs; others take twice as many hidden units
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


def test_transformers_cut_texts_into_the_same_tokens(tiny: Tiny, tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(exported(tiny.model, tiny, tmp_path))
    texts = list(parity.strings(tiny.tokenizer, gguf_model.windows(tiny.tokenizer)))
    assert len(texts) > 500
    for text in texts:
        assert tokenizer(text).input_ids == [1, *tiny.tokenizer.encode(text)], (
            text
        )  # [EOS] in a text is text, and [BOS] comes before it
        assert tokenizer.decode(
            tokenizer(text).input_ids, skip_special_tokens=True
        ) == tiny.tokenizer.decode(tiny.tokenizer.encode(text))


def test_all_files_have_the_same_mode(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    modes = {
        oct(path.stat().st_mode)
        for path in (*exported(tiny.model, tiny, tmp_path).iterdir(), tmp_path / "plain")
    }
    assert len(modes) == 1


def test_transformers_know_where_a_text_begins_and_ends(tiny: Tiny, tmp_path: Path) -> None:
    folder = exported(tiny.model, tiny, tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert (
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.model_max_length,
    ) == (0, 1, 2, CONTEXT)
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (
        0,
        1,
        2,
    )
    assert (model.generation_config.pad_token_id, model.generation_config.eos_token_id) == (0, 2)
    answer = model.generate(
        **tokenizer("def f", return_tensors="pt"), max_new_tokens=8, do_sample=False
    )[0].tolist()
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
    asked = [{"role": "user", "content": "Hi [EOS]"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert ids == template.prompt_tokens([Message("user", "Hi [EOS]")], tiny.tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Hi [ EOS]"
    plain: Any = AutoTokenizer.from_pretrained(exported(tiny.model, tiny, tmp_path))
    assert plain.chat_template is None


def test_the_same_weights_give_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    first, second = (exported(gpt(), tiny, tmp_path / name) for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all(files.sha256(first / name) == files.sha256(second / name) for name in names)


def test_a_tokenizer_that_does_not_fit_leaves_nothing(tiny: Tiny, tmp_path: Path) -> None:
    gguf_model.save_tokenizer(tmp_path / "other", vocab_size=300)
    with pytest.raises(ValueError, match=r"has 300 tokens, the checkpoint was trained with 400"):
        huggingface.write(
            of_model(tiny.model), tmp_path / "other" / "tokenizer.json", tmp_path / "hf"
        )
    text = (tiny.tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "other" / "tokenizer.json").write_text(text.replace("[USER]", "[OTHER]"))
    with pytest.raises(ValueError, match=r"tokenizer\.json lacks the role tokens: .*\[USER\]=3"):
        source, path = of_model(tiny.model), tmp_path / "other" / "tokenizer.json"
        huggingface.write(source, path, tmp_path / "hf")
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        huggingface.write(
            of_model(tiny.model), tmp_path / "other" / "tokenizer.json", tmp_path / "hf"
        )
    with pytest.raises(FileNotFoundError, match=r"absent\.json is missing"):
        huggingface.write(of_model(tiny.model), tmp_path / "absent.json", tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("slope", [0.01, 0.1])
def test_three_runtimes_agree_on_the_perplexity(tiny: Tiny, tmp_path: Path, slope: float) -> None:
    """benchmarks/agreement.py does it with the trained model and the whole validation split."""
    model, ids = (
        gpt(slope=slope),
        gguf_model.windows(tiny.tokenizer)[:, :CONTEXT],
    )  # theirs read the last target too
    gguf.write(
        of_model(model),
        tiny.tokenizer_folder / "tokenizer.json",
        tmp_path / "tiny.gguf",
        "f32",
        gguf_model.CONFIG,
    )
    found = parity.compare(model, tmp_path / "tiny.gguf", ids)
    theirs: Any = AutoModelForCausalLM.from_pretrained(exported(model, tiny, tmp_path))
    with torch.no_grad():
        loss = float(theirs(ids, labels=ids).loss)  # theirs shift the targets by themselves
    assert math.exp(loss) == pytest.approx(found.torch_perplexity, rel=1e-5)
    assert math.exp(loss) == pytest.approx(found.perplexity, rel=1e-3)
