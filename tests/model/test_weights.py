"""Checkpoint folders: the same weights after a round trip, and one clear error for each defect."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from antimatter.errors import UserError
from antimatter.model import gpt2, weights
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT


@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_model_is_the_saved_one(
    tmp_path: Path, tiny_config: GPTConfig, tied: bool
) -> None:
    model = GPT(replace(tiny_config, tied_embeddings=tied)).eval()
    weights.save(model, tmp_path)
    loaded = weights.load(tmp_path)
    ids = torch.arange(12).view(1, 12)
    assert loaded.config == model.config
    assert torch.equal(loaded(ids), model(ids))
    assert (loaded.head.weight is loaded.token_embedding.weight) == tied


def test_a_model_is_loaded_without_torchs_compiler(tmp_path: Path, tiny_gpt: GPT) -> None:
    """The import of the compiler takes longer than the rest of loading a small model."""
    weights.save(tiny_gpt, tmp_path)
    code = "import sys; from pathlib import Path; from antimatter.model import weights\n"
    code += "weights.load(Path(sys.argv[1])); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_weights_and_config_have_the_same_mode(tmp_path: Path, tiny_gpt: GPT) -> None:
    weights.save(tiny_gpt, tmp_path)
    modes = {path.name: oct(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 2 and len(set(modes.values())) == 1, modes


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, tiny_gpt: GPT) -> None:
    for name in ("a", "b"):
        weights.save(tiny_gpt, tmp_path / name)
    one, other = ((tmp_path / name / weights.FINAL).read_bytes() for name in ("a", "b"))
    assert one == other


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(
    tmp_path: Path, tiny_gpt: GPT
) -> None:
    weights.save(tiny_gpt, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_embd": 64}))
    misfit = r"final\.safetensors does not fit its config: .* is \(32,\), .* asks for \(64,\)"
    with pytest.raises(UserError, match=misfit):
        weights.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(UserError, match=r"blocks\.2\.attn\.proj\.bias is missing"):
        weights.load(tmp_path)


def test_damaged_files_are_named(tmp_path: Path, tiny_gpt: GPT) -> None:
    weights.save(tiny_gpt, tmp_path)
    path = tmp_path / weights.FINAL
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"final\.safetensors is not a safetensors file"):
        weights.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"final\.safetensors is missing: .*dvc repro checkpoints"):
        weights.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json is not a model config: .*repro"):
        weights.load(tmp_path)


# Values of every type in JSON; only the first one of each key is valid
VALUES: dict[str, list[object]] = {
    "n_layer": [2, "x", None, 2.0, math.nan, True, [], {}, -1, 0, 10**6, 2**70],
    "n_head": [4, "x", None, 4.0, math.nan, True, [], {}, -1, 0, 2**70],
    "n_embd": [32, "x", None, 32.0, math.nan, True, [], {}, -1, 0, 2**70],
    "block_size": [16, "x", None, 16.0, math.nan, True, [], {}, -1, 0, 2**70],
    "vocab_size": [64, "x", None, 64.0, math.nan, True, [], {}, -1, 0, 2**70],
    "negative_slope": [0, "x", None, 2.0, math.nan, True, [], {}, -1],
    "residual_scale": [0.5, "x", None, math.nan, True, [], {}, -1],
    "dropout": [0, "x", None, 2.0, math.nan, True, [], {}, -1],
    "tied_embeddings": [True, "x", None, 1, 1.0, [], {}],
    "seed": [1, "x", None, 1.0, math.nan, True, [], {}, 2**70],
    "provenance": [{}, "x", None, 2.0, True, [], 1],
}


@pytest.mark.parametrize("key", VALUES)
def test_an_invalid_value_is_one_line_that_names_its_key(
    tmp_path: Path, tiny_gpt: GPT, key: str
) -> None:
    weights.save(tiny_gpt, tmp_path)
    config, (valid, *invalid) = json.loads((tmp_path / "config.json").read_text()), VALUES[key]
    (tmp_path / "config.json").write_text(json.dumps({**config, key: valid}))
    weights.load(tmp_path)
    for value in invalid:
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(UserError, match=rf"^[^\n]*{tmp_path}[^\n]*\b{key}\b[^\n]*$"):
            weights.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "[1]", "null", "5", '"x"', '[["n_layer", 2]]'])
def test_a_config_that_is_not_an_object_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json must be an object"):
        weights.read_config(tmp_path / "config.json")


def test_a_config_with_a_key_too_many_or_too_few_names_it(tmp_path: Path, tiny_gpt: GPT) -> None:
    weights.save(tiny_gpt, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layers": 2}))
    with pytest.raises(UserError, match=r"config\.json is not a model config: .*\bn_layers\b"):
        weights.read_config(tmp_path / "config.json")
    del config["n_head"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json is not a model config: .*\bn_head\b"):
        weights.read_config(tmp_path / "config.json")


def test_a_model_from_before_residual_scale_has_the_value_it_was_made_with(
    tmp_path: Path, tiny_gpt: GPT
) -> None:
    weights.save(tiny_gpt, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["residual_scale"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.load(tmp_path).config.residual_scale == 1
    # transformers keep our keys
    scaled = replace(tiny_gpt.config, residual_scale=0.25)
    theirs = gpt2.from_config(gpt2.to_config(scaled, {}))
    assert theirs["residual_scale"] == 0.25
