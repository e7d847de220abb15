"""The weights that a training starts from: which fit, and what of them is used."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from antimatter.errors import UserError
from antimatter.model import weights
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.gpt import GPT
from antimatter.training import start
from antimatter.training.start import Start


def model_of(config: GPTConfig) -> ModelConfig:
    values = asdict(config)
    del values["vocab_size"]
    return ModelConfig(**values)


@pytest.fixture
def folder(tmp_path: Path, tiny_gpt: GPT) -> Path:
    weights.save(tiny_gpt, tmp_path / "base", {"data": {"tokenizer": "t"}})
    return tmp_path / "base"


@pytest.mark.parametrize("tied", [True, False])
def test_the_seed_and_the_dropout_are_those_of_the_new_training(
    tmp_path: Path, tiny_config: GPTConfig, tied: bool
) -> None:
    saved = GPT(replace(tiny_config, tied_embeddings=tied))
    weights.save(saved, tmp_path)
    shape = replace(saved.config, seed=7, dropout=0.25)
    loaded = start.of_pretraining(str(tmp_path), model_of(shape)).load(shape)
    assert loaded.config == shape
    assert loaded.dropout.p == loaded.blocks[0].dropout.p == 0.25  # type: ignore[union-attr]
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.state_dict().items())
    assert (loaded.head.weight is loaded.token_embedding.weight) is tied


def test_another_network_names_all_keys_that_differ(folder: Path, tiny_config: GPTConfig) -> None:
    model = model_of(replace(tiny_config, n_layer=3, negative_slope=0.2, seed=9))
    with pytest.raises(UserError) as caught:
        start.of_pretraining(str(folder), model)
    line = str(caught.value)
    assert "n_layer 2 (params.yaml: 3), negative_slope 0.01 (params.yaml: 0.2)" in line
    assert "seed" not in line and "`model:`" in line


@pytest.mark.parametrize(
    ("vocab_size", "tokenizer", "fits"),
    [(64, "t", True), (64, None, True), (64, "another", False), (65, "t", False)],
)
def test_another_vocabulary_is_named(
    folder: Path, vocab_size: int, tokenizer: str | None, fits: bool
) -> None:
    begun = Start.of(str(folder), "checkpoints.initial")
    # More training does not change the vocabulary
    again = replace(begun, provenance={"data": {"shards": "s"}, "initial": begun.provenance})
    for one in (begun, again):
        if fits:
            start.check_vocabulary(one, vocab_size, tokenizer)
        else:
            with pytest.raises(UserError, match=r"another vocabulary.*tokenizer\.initial"):
                start.check_vocabulary(one, vocab_size, tokenizer)


def test_a_folder_without_a_model_is_named_with_its_key(tmp_path: Path) -> None:
    for name in ("absent", "."):
        with pytest.raises(UserError, match=r"^tuned\.initial: .* is no folder of a model"):
            Start.of(str(tmp_path / name), "tuned.initial")


def test_it_is_found_in_the_main_repository_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queued experiment runs in a copy of what Git tracks."""
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert Start.of("base", "checkpoints.initial").sha256()
