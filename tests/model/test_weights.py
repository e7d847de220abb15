import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from antimatter.model import weights
from antimatter.model.gpt import GPT, GPTConfig


@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_is_the_saved_one(tmp_path: Path, tiny_config: GPTConfig, tied: bool) -> None:
    model = GPT(replace(tiny_config, tied_embeddings=tied)).eval()
    weights.save(model, tmp_path)
    loaded = weights.load(tmp_path)
    ids = torch.arange(12).view(1, 12)
    assert loaded.config == model.config
    assert torch.equal(loaded(ids), model(ids))
    assert (loaded.head.weight is loaded.token_embedding.weight) == tied


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, tiny_gpt: GPT) -> None:
    for name in ("a", "b"):
        weights.save(tiny_gpt, tmp_path / name)
    assert (tmp_path / "a" / weights.FINAL).read_bytes() == (tmp_path / "b" / weights.FINAL).read_bytes()


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(tmp_path: Path, tiny_gpt: GPT) -> None:
    weights.save(tiny_gpt, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_embd": 64}))
    with pytest.raises(ValueError, match=r"final\.safetensors does not fit its config: .* is \(32,\), the config asks for \(64,\)"):
        weights.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(ValueError, match=r"blocks\.2\.attn\.proj\.bias is missing"):
        weights.load(tmp_path)


def test_damaged_files_are_named(tmp_path: Path, tiny_gpt: GPT) -> None:
    weights.save(tiny_gpt, tmp_path)
    path = tmp_path / weights.FINAL
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"final\.safetensors is not a safetensors file"):
        weights.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="dvc repro checkpoints"):
        weights.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is not a model config"):
        weights.load(tmp_path)
