"""The provenance in a model: complete, and without anything that differs from run to run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from antimatter import files, params
from antimatter.model import weights
from antimatter.model.gpt import GPT
from antimatter.pipeline import closure, provenance

MACHINE = {"kind": "a CPU"}


def origin() -> dict[str, Any]:
    return provenance.of("checkpoints", ["model"], {"shards": "1234"}, MACHINE)


def test_it_names_code_parameters_data_libraries_and_machine() -> None:
    entries = origin()
    assert entries["params"] == {"model": params.load()["model"]}
    assert (entries["data"], entries["machine"]) == ({"shards": "1234"}, MACHINE)
    assert entries["libraries"].keys() == {"numpy", "safetensors", "torch", "yaml"}
    assert entries["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert entries == origin()


def test_the_code_is_the_stages_closure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = origin()["code"]
    digests = closure.digests("stages.checkpoints")
    changed = {**digests, "antimatter/model/gpt.py": "0" * 64}
    monkeypatch.setattr(closure, "digests", lambda module: changed)
    assert origin()["code"] != before


def test_it_records_the_sections_that_the_stage_depends_on() -> None:
    """By the file that the default run has written, and by dvc.yaml."""
    entries = files.read_json(Path("metrics/checkpoints/provenance.json"))
    stage = params.load(Path("dvc.yaml"))["stages"]["checkpoints"]
    assert list(entries["params"]) == stage["params"]
    assert entries["data"].keys() == {"shards", "cleaned", "tokenizer"}


def test_a_checkpoint_has_it_beside_its_shape(tiny_gpt: GPT, tmp_path: Path) -> None:
    weights.save(tiny_gpt, tmp_path, origin())
    assert weights.read_config(tmp_path / weights.CONFIG) == (tiny_gpt.config, origin(), None)
    assert weights.load(tmp_path).config == tiny_gpt.config
    # An older checkpoint has none
    weights.save(tiny_gpt, tmp_path)
    assert weights.read_config(tmp_path / weights.CONFIG) == (tiny_gpt.config, {}, None)
