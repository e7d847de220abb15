import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.gguf_model import CHAT, gpt

from antimatter.errors import UserError
from antimatter.export import source
from antimatter.model import weights
from antimatter.model.gpt import GPT

PARAMS = """model:
  n_layer: 9
  n_head: 2
  n_embd: 8
  block_size: 8
  negative_slope: 0.1
  residual_scale: 1
  dropout: 0.0
  tied_embeddings: true
  seed: 1
"""


def same(first: GPT, second: GPT) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    if ours.keys() != theirs.keys():
        return False
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_and_its_file_are_the_model(tmp_path: Path, tied: bool) -> None:
    model = gpt(tied=tied)
    weights.save(model, tmp_path)
    for path in (tmp_path, tmp_path / weights.FINAL):
        opened = source.open_checkpoint(path)
        assert opened.config == model.config
        assert same(opened.load(), model)


def test_how_a_chat_begins_is_read_from_the_config(tmp_path: Path) -> None:
    weights.save(gpt(), tmp_path / "tuned", {"code": "12ab"}, chat=CHAT)
    opened = source.open_checkpoint(tmp_path / "tuned")
    assert (opened.chat, opened.provenance) == (CHAT, {"code": "12ab"})
    assert opened.config == weights.load(tmp_path / "tuned").config
    weights.save(gpt(), tmp_path / "base")
    assert source.open_checkpoint(tmp_path / "base").chat is None


@pytest.mark.parametrize(
    ("chat", "key"),
    [
        ([], "chat"),
        ({**CHAT, "name": "x"}, "chat"),
        ({key: CHAT[key] for key in ("system", "starters")}, "chat"),
        ({**CHAT, "system": None}, r"chat\.system"),
        ({**CHAT, "greeting": 1}, r"chat\.greeting"),
        ({**CHAT, "starters": ["a", "b"]}, r"chat\.starters"),
        ({**CHAT, "starters": ["a", "b", ""]}, r"chat\.starters"),
        ({**CHAT, "starters": "abc"}, r"chat\.starters"),
    ],
)
def test_a_chat_of_another_shape_names_its_key(tmp_path: Path, chat: Any, key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key} must "):
        weights.save(gpt(), tmp_path / "tuned", chat=chat)
    weights.save(gpt(), tmp_path / "tuned", chat=CHAT)
    path = tmp_path / "tuned" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat": chat}))
    with pytest.raises(UserError, match=rf"config\.json is not a model config: {key} must "):
        source.open_checkpoint(tmp_path / "tuned")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"step": 7, "model": state, "optimizer": {}},
        lambda state: {"state_dict": state},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["plain", "training state", "nested", "wrapped"],
)
def test_a_pt_file_is_the_model_whatever_wraps_it(project: Path, tied: bool, wrap: Any) -> None:
    model = gpt(tied=tied)
    torch.save(wrap(model.state_dict()), project / "a.pt")
    opened = source.open_checkpoint(project / "a.pt")
    config = opened.config
    # From the shapes
    sizes = (config.n_layer, config.n_embd, config.block_size, config.vocab_size)
    assert sizes == (2, 64, 64, 400)
    # From params.yaml
    assert (config.n_head, config.negative_slope) == (2, 0.1)
    assert config.tied_embeddings == tied
    assert same(opened.load(), model)


def test_a_config_beside_the_weights_or_named_wins_over_params(project: Path) -> None:
    model = gpt(slope=0.3)
    torch.save(model.state_dict(), project / "a.pt")
    assert source.open_checkpoint(project / "a.pt").config.negative_slope == 0.1
    weights.save(model, project / "other")
    named = source.open_checkpoint(project / "a.pt", project / "other" / "config.json")
    assert named.config == model.config
    (project / "other" / "config.json").rename(project / "config.json")
    assert source.open_checkpoint(project / "a.pt").config == model.config


def test_a_file_of_old_torch_is_read_too(project: Path) -> None:
    torch.save(gpt().state_dict(), project / "a.pt", _use_new_zipfile_serialization=False)
    assert same(source.open_checkpoint(project / "a.pt").load(), gpt())


def test_half_precision_becomes_float32(project: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in gpt().state_dict().items()}
    torch.save(state, project / "a.pt")
    assert source.open_checkpoint(project / "a.pt").read("norm.weight").dtype == torch.float32


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("sprung").touch, ()


def test_nothing_in_a_file_is_executed(project: Path) -> None:
    torch.save({"model": gpt().state_dict(), "trap": Trap()}, project / "a.pt")
    (project / "b.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("a.pt", "b.pt"):
        error = rf"{name} holds Python objects, and those could run code"
        with pytest.raises(UserError, match=error):
            source.open_checkpoint(project / name)
    assert not (project / "sprung").exists()


def test_a_file_for_llama_cpp_is_named(project: Path) -> None:
    (project / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"a\.gguf is for llama\.cpp.*name the checkpoint"):
        source.open_checkpoint(project / "a.gguf")


def test_sparse_tensors_are_no_state_dict(project: Path) -> None:
    torch.save({"norm.weight": torch.ones(4).to_sparse()}, project / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt holds a dict of norm\.weight, not the state"):
        source.open_checkpoint(project / "a.pt")


def test_a_whole_model_is_refused_with_the_fix(project: Path) -> None:
    torch.save(gpt(), project / "a.pt")
    error = r"a\.pt holds Python objects.*save `model\.state_dict\(\)`"
    with pytest.raises(UserError, match=error):
        source.open_checkpoint(project / "a.pt")


@pytest.mark.parametrize(
    "content", [b"# Title\n\nText", b'{"a": 1}\n', b"root:x:0:0:root:/root:/bin/bash\n", b"", b"."]
)
def test_a_text_is_not_said_to_hold_objects(project: Path, content: bytes) -> None:
    (project / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt is damaged, or was not written by torch\.save"):
        source.open_checkpoint(project / "a.txt")


def test_a_missing_or_damaged_file_is_one_line_that_names_it(project: Path) -> None:
    (project / "text.pt").write_bytes(b"hello" * 100)
    (project / "text.safetensors").write_bytes(b"hello" * 10)
    torch.save(gpt().state_dict(), project / "whole.pt")
    (project / "cut.pt").write_bytes((project / "whole.pt").read_bytes()[:5000])
    for name, error in (
        ("absent.pt", "is missing: name a checkpoint folder"),
        ("text.pt", r"is damaged, or was not written by torch\.save"),
        ("cut.pt", r"is damaged, or was not written by torch\.save"),
        ("text.safetensors", "is not a safetensors file"),
    ):
        with pytest.raises(UserError, match=rf"^[^\n]*{name} {error}[^\n]*$"):
            source.open_checkpoint(project / name)


def test_a_file_of_another_content_is_one_line_that_says_what_it_holds(project: Path) -> None:
    state = gpt().state_dict()
    del state["blocks.1.ffn.up.bias"]
    for content, error in (
        ({"a": 1}, "holds a dict of a, not the state dict of a GPT"),
        ({0: torch.zeros(3)}, "holds a dict of 0, not the state dict of a GPT"),
        ({}, "holds an empty dict, not the state dict of a GPT"),
        ([1, 2], "holds a list, not the state dict of a GPT"),
        (torch.zeros(3), "holds a Tensor, not the state dict of a GPT"),
        ({"conv.weight": torch.zeros(3)}, r"is not .* of this project: it holds conv\.weight"),
        (state, r"does not fit its config: tensor blocks\.1\.ffn\.up\.bias is missing"),
    ):
        torch.save(content, project / "a.pt")
        with pytest.raises(UserError, match=rf"^[^\n]*a\.pt {error}[^\n]*$"):
            source.open_checkpoint(project / "a.pt")


def test_heads_that_do_not_divide_the_channels_name_params_and_the_fix(project: Path) -> None:
    torch.save(gpt().state_dict(), project / "a.pt")
    params = PARAMS.replace("n_head: 2", "n_head: 3").replace("n_embd: 8", "n_embd: 9")
    (project / "params.yaml").write_text(params)
    reason = r"`model:` in params\.yaml \(n_embd must be a multiple of .*, got 64\).*--config"
    with pytest.raises(UserError, match=rf"a\.pt does not fit {reason}"):
        source.open_checkpoint(project / "a.pt")
    (project / "params.yaml").unlink()
    with pytest.raises(UserError, match=r"a\.pt does not tell n_head.*--config"):
        source.open_checkpoint(project / "a.pt")
    (project / "config.json").write_text(json.dumps({"n_layer": 1}))
    with pytest.raises(UserError, match=r"config\.json is not a model config"):
        source.open_checkpoint(project / "a.pt")
