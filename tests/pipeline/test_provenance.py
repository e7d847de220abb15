"""What a model says of its making: exact, and nothing that changes from run to run."""

from pathlib import Path

import pytest
import torch

from antimatter import files, params
from antimatter.model import weights
from antimatter.model.gpt import GPT
from antimatter.pipeline import closure, provenance

MACHINE = {"kind": "a CPU"}


def test_it_names_code_parameters_data_libraries_and_machine() -> None:
    made = provenance.of("checkpoints", ["model"], {"shards": "1234"}, MACHINE)
    assert made["params"] == {"model": params.load()["model"]}
    assert (made["data"], made["machine"]) == ({"shards": "1234"}, MACHINE)
    assert made["libraries"].keys() == {"numpy", "safetensors", "torch", "yaml"}
    assert made["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert made == provenance.of("checkpoints", ["model"], {"shards": "1234"}, MACHINE)


def test_the_code_is_the_stages_closure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = provenance.of("checkpoints", [], {}, MACHINE)["code"]
    digests = closure.digests("stages.checkpoints")
    changed = {**digests, "antimatter/model/gpt.py": "0" * 64}
    monkeypatch.setattr(closure, "digests", lambda module: changed)
    assert provenance.of("checkpoints", [], {}, MACHINE)["code"] != before


def test_the_stage_depends_on_the_sections_that_it_writes_down() -> None:
    """metrics/checkpoints/provenance.json is what the default run has written; dvc.yaml says what the stage depends on."""
    made = files.read_json(Path("metrics/checkpoints/provenance.json"))
    stage = params.load(Path("dvc.yaml"))["stages"]["checkpoints"]
    assert list(made["params"]) == stage["params"]
    assert made["data"].keys() == {"shards", "cleaned", "tokenizer"}


def test_a_checkpoint_keeps_it_beside_its_shape(tiny_gpt: GPT, tmp_path: Path) -> None:
    made = provenance.of("checkpoints", ["model"], {"shards": "1234"}, MACHINE)
    weights.save(tiny_gpt, tmp_path, made)
    assert weights.read_config(tmp_path / weights.CONFIG) == (tiny_gpt.config, made, None)
    assert weights.load(tmp_path).config == tiny_gpt.config
    weights.save(tiny_gpt, tmp_path)  # an older one tells nothing
    assert weights.read_config(tmp_path / weights.CONFIG) == (tiny_gpt.config, {}, None)
