"""Shards become a trained model. A killed run goes on from its last saved state."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from antimatter import closure, files, params, stage
from antimatter.data.shards import Shards
from antimatter.model import weights
from antimatter.model.gpt import GPT, GPTConfig, ModelConfig
from antimatter.training.optimizer import OptimizerConfig
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.trainer import Curves, Recipe, TrainConfig, TrainRuntime, train


def main(tokens: Path, checkpoints: Path, metrics: Path, training: Path, validation: Path, backtracks: Path, throughput: Path) -> None:
    shards = Shards(tokens)
    shape = params.read(ModelConfig, "model")
    config = GPTConfig(**asdict(shape), vocab_size=shards.vocab_size)
    recipe = Recipe(
        training=params.read(TrainConfig, "checkpoints"),
        optimizer=params.read(OptimizerConfig, "optimizer"),
        schedule=params.read(ScheduleConfig, "schedule"),
        spikes=params.read(SpikeConfig, "spikes"),
        runtime=params.read(TrainRuntime, "runtime", part=True),
    )
    state = state_folder(config, recipe, tokens / "index.json")
    with files.lock(state / "lock", holder="a training of these parameters"):
        model = GPT(config)
        curves = Curves(training, validation, backtracks)
        result = train(model, shards.split("train"), shards.split("validation"), recipe, curves, state)
        weights.save(model, checkpoints)
        found = asdict(result)
        files.write_json(throughput, {"tokens_per_second": round(found.pop("tokens_per_second"))})
        files.write_metrics(metrics, {"parameters": model.n_parameters(), **found})
        files.remove(state)


def state_folder(config: GPTConfig, recipe: Recipe, index: Path) -> Path:
    """Where a run of exactly these parameters, this code and this data keeps its state: under the main repository, also from `dvc exp run --temp`.

    `runtime` is no part of the name, so that a run can go on with another micro-batch or on another machine.
    """
    computed = {name: value for name, value in asdict(recipe).items() if name != "runtime"}
    identity = [asdict(config), computed, closure.digest("stages.checkpoints"), files.sha256(index)]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Path(os.environ.get("DVC_ROOT", ".")) / ".state" / name


if __name__ == "__main__":
    stage.run(main)
