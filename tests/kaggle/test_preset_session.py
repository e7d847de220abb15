"""The preset for Kaggle at a hundredth of its steps and a tiny width, from the hub to the model."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import kaggle_hub, tiny_pipeline
from helpers.kaggle_machine import Machine
from ruamel.yaml import YAML

from antimatter.kaggle import kernel
from antimatter.kaggle.kernel import Kernel

pytestmark = pytest.mark.slow

# Of the tiny pipeline, what makes the model and its evaluation small
SMALL = {
    key: value
    for key, value in tiny_pipeline.TINY.items()
    if key.startswith(("model.", "tuned.", "answers.", "evaluation.", "gguf.", "runtime."))
    or key in ("tokenizer.vocab_size", "conversations.persona")
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tiny_pipeline.copy(tmp_path / "antimatter", {})
    shutil.copy(folder / "presets/kaggle.yaml", folder / "params.yaml")
    values = YAML(typ="safe").load(folder / "params.yaml")
    training, [talks] = values["checkpoints"], values["conversations"]["hub"]
    hundredth = {
        "raw.hub": values["raw"]["hub"] | {"total_mb": 0.4, "lanes": 2},
        "checkpoints.steps": training["steps"] // 100,
        "schedule.warmup_steps": values["schedule"]["warmup_steps"] // 100,
        "checkpoints.batch_size": 4,
        "checkpoints.validate_every": 25,
        "checkpoints.validation_tokens": 256,
        "shards.validation_fraction": 0.1,
        "conversations.hub": [talks | {"most": 100}],
        "conversations.held_out": 0.1,
        "spikes.window": 10,
    }
    tiny_pipeline.edit(folder, SMALL | hundredth)
    tiny_pipeline.commit(folder, "a hundredth of the preset")
    return folder


def test_a_session_makes_the_chat_model_from_the_text_of_the_hub(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Callable[[str], Machine],
) -> None:
    monkeypatch.chdir(checkout)
    whole = Kernel(
        user="ann",
        mode="pipeline",
        title="antimatter pipeline",
        accelerator="none",
        offline=False,
        data=False,
        after="",
        wheels=None,
        ollama=None,
        hours=11.5,
        minutes=0.0,
    )
    kernel.write(tmp_path / "kernel", whole)
    one = machine("one")
    one.attach(tmp_path / "kernel/dataset", "datasets/ann/antimatter-pipeline-files")
    output = one.run(tmp_path / "kernel", starter=Path(kaggle_hub.__file__))
    stages = re.findall(r"Running stage '(\w+)'", output)
    assert stages[:2] == ["checked", "raw"] and stages[-1] == "report" and len(stages) == 13
    assert "installing" not in output and "step     50/50" in output
    assert re.search(r"done: perplexity \d+\.\d\d, \d\.\d{3} bits per byte", output)
    raw = json.loads((one.working / "metrics/raw/summary.json").read_text())
    assert raw["bytes"] > 3e5
    talks = json.loads((one.working / "metrics/conversations/summary.json").read_text())
    assert "HuggingFaceTB/smol-smoltalk" in str(talks["sources"])
    assert (one.working / "models/ollama/Modelfile").is_file()
