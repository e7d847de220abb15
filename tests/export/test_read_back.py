"""A folder for transformers is a checkpoint too: what the export wrote, what transformers saved,
and what is another network.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.gguf_model import CHAT, CONTEXT, Tiny, gpt, of_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from antimatter import files
from antimatter.cli import main as cli
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.export import huggingface
from antimatter.export.source import find_tokenizer, open_checkpoint
from antimatter.llama.header import read_header
from antimatter.model import gpt2, weights
from antimatter.model.gpt import GPT

PROVENANCE = {"code": "12ab", "params": {"model": {"n_layer": 2}}, "data": {"tokenizer": "t"}}
LEAKY = {"activation_function": "leaky_relu", "vocab_size": 400, "n_positions": CONTEXT}
SMALL = {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}


def exported(model: GPT, tiny: Tiny, folder: Path, chat: Any = CHAT) -> Path:
    path = huggingface.path_of(folder, "tiny")
    source = replace(of_model(model), chat=chat, provenance=PROVENANCE)
    huggingface.write(source, tiny.tokenizer_folder / "tokenizer.json", path)
    return path


def bits(model: GPT) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("tied", [True, False])
def test_what_was_exported_is_read_back_to_the_byte(tiny: Tiny, tmp_path: Path, tied: bool) -> None:
    ours = gpt(slope=gpt2.SLOPE, tied=tied)
    folder = exported(ours, tiny, tmp_path)
    for path in (folder, folder / "model.safetensors"):
        opened = open_checkpoint(path)
        assert asdict(opened.config) == asdict(ours.config)
        assert (opened.provenance, opened.chat) == (PROVENANCE, CHAT)
        assert bits(opened.load()) == bits(ours)
    assert bits(weights.load(folder)) == bits(ours)
    # And written again, the folder has the same bytes
    again = tmp_path / "again"
    huggingface.write(open_checkpoint(folder), folder / "tokenizer.json", again)
    for name in huggingface.NAMES:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5, 1.0])
def test_another_slope_is_read_back_from_its_rewritten_form(
    tiny: Tiny, tmp_path: Path, slope: float
) -> None:
    ours = gpt(slope=slope)
    folder = exported(ours, tiny, tmp_path)
    opened = open_checkpoint(folder)
    assert opened.config == ours.config
    for name, tensor in opened.load().state_dict().items():
        expected = ours.state_dict()[name]
        # Two values that became one in the folder differ in their last bit
        if name.endswith("down.weight"):
            torch.testing.assert_close(tensor, expected, rtol=2**-23, atol=0)
        else:
            assert torch.equal(tensor, expected), name
    huggingface.write(opened, folder / "tokenizer.json", tmp_path / "again")
    content = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert content == (folder / "model.safetensors").read_bytes()


def test_what_transformers_saved_after_more_training_is_read(tiny: Tiny, tmp_path: Path) -> None:
    folder = exported(gpt(slope=gpt2.SLOPE), tiny, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path / "trained")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "trained")
    opened = open_checkpoint(tmp_path / "trained")
    # The weights have a provenance that only begins with the recorded one
    assert (opened.provenance, opened.chat) == ({"initial": PROVENANCE}, CHAT)
    ids = torch.randint(400, (3, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(opened.load()(ids), model(ids).logits, rtol=1e-5, atol=1e-5)
    words = Tokenizer.load(find_tokenizer(tmp_path / "trained"))
    for text in ("Hello  world [EOS] é\n", "def f(x):\n    return x"):
        assert words.encode(text) == tiny.tokenizer.encode(text)


def test_a_slope_that_transformers_trained_away_is_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = exported(gpt(slope=0.1), tiny, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 3] += 1
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read back: .*slope 0\.1"):
        open_checkpoint(folder)


@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_a_foreign_gpt_2_that_is_the_same_network_is_read(tmp_path: Path, activation: str) -> None:
    config = GPT2Config(**(LEAKY | SMALL | {"activation_function": activation}))
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = weights.load(tmp_path)
    ids = torch.randint(400, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"activation_function": "gelu_new"}, "activation_function is 'gelu_new', ours is 'leaky"),
        ({"n_inner": 64}, "n_inner is 64, ours is 128"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, ours is 1e-05"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"model_type": "llama"}, "model_type is 'llama', ours is 'gpt2'"),
        ({"n_layer": None}, "n_layer must be of type int"),
    ],
)
def test_another_network_is_one_line_that_names_what_differs(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    GPT2LMHeadModel(GPT2Config(**(LEAKY | SMALL))).save_pretrained(tmp_path)
    config = files.read_json(tmp_path / "config.json")
    files.write_json(tmp_path / "config.json", {**config, **change})
    with pytest.raises(UserError) as caught:
        open_checkpoint(tmp_path)
    (line,) = str(caught.value).splitlines()
    assert "config.json is not a model config" in line and named in line


def test_all_that_differs_is_named_at_once() -> None:
    with pytest.raises(UserError, match=r"epsilon is 1e-06.*activation_function is 'gelu_new'"):
        gpt2.from_config({"model_type": "gpt2", "layer_norm_epsilon": 1e-6})


def test_tensors_of_another_kind_are_named(tmp_path: Path) -> None:
    theirs = GPT2LMHeadModel(GPT2Config(**(LEAKY | SMALL)))
    state = {name: tensor for name, tensor in theirs.state_dict().items()}
    theirs.save_pretrained(tmp_path, state_dict=state | {"transformer.h.0.gate": torch.ones(1)})
    with pytest.raises(UserError, match=r"tensor transformer\.h\.0\.gate is unknown"):
        open_checkpoint(tmp_path)


def test_a_foreign_vocabulary_is_named(tmp_path: Path) -> None:
    vocabulary = {chr(33 + i): i for i in range(90)}
    files.write_json(tmp_path / "tokenizer.json", {"model": {"vocab": vocabulary, "merges": []}})
    with pytest.raises(UserError, match=r"tokenizer\.json lacks special tokens, it must have"):
        Tokenizer.load(tmp_path)


def test_the_command_exports_it_with_its_own_tokenizer(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(gpt(slope=gpt2.SLOPE), tiny, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "--checkpoint", folder.name, "--type", "f16", "--name", "b"]) == 0
    header = read_header(tmp_path / "b-f16.gguf")
    assert header.chat is not None and header.chat.system == CHAT["system"]
    assert header.keys["antimatter.code"] == "12ab"


def test_the_tokenizer_is_that_of_the_folder_or_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "models" / "tuned").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    checkpoint = project / "models" / "tuned" / "final.safetensors"
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"has data/tokenizer/tokenizer\.json: name its"):
        find_tokenizer(checkpoint)
    # The nearer one wins
    for folder in (
        tmp_path / "elsewhere" / "data/tokenizer",
        project / "data/tokenizer",
        checkpoint.parent,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps({}))
        assert find_tokenizer(checkpoint) == folder / "tokenizer.json"
        assert find_tokenizer(checkpoint.parent) == folder / "tokenizer.json"
