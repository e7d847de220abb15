"""Shards become a trained model. A killed run goes on from its last saved state."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from antimatter import files, params, stage, state
from antimatter.data.shards import Shards
from antimatter.model import weights
from antimatter.model.gpt import GPT, GPTConfig, ModelConfig
from antimatter.model.loss import LossConfig
from antimatter.training import distributed
from antimatter.training.journal import Curves
from antimatter.training.optimizer import OptimizerConfig
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.trainer import Data, Places, Recipe, TrainConfig, TrainRuntime, train


def main(tokens: Path, checkpoints: Path, metrics: Path, training: Path, validation: Path, backtracks: Path, live: Path, throughput: Path) -> None:
    shards = Shards(tokens)
    config = GPTConfig(**asdict(params.read(ModelConfig, "model")), vocab_size=shards.vocab_size)
    recipe = Recipe(
        training=params.read(TrainConfig, "checkpoints"),
        loss=params.read(LossConfig, "loss"),
        optimizer=params.read(OptimizerConfig, "optimizer"),
        schedule=params.read(ScheduleConfig, "schedule"),
        spikes=params.read(SpikeConfig, "spikes"),
        runtime=params.read(TrainRuntime, "runtime", part=True),
    )
    world = distributed.count(recipe.runtime.devices, recipe.runtime.device_type())
    recipe.micro_batch(world)  # what is wrong with it is said before any process starts
    data = Data(shards.split("train"), shards.split("validation"), shards.token_counts(), shards.decode)
    computed = {name: value for name, value in asdict(recipe).items() if name != "runtime"}
    identity = {"model": asdict(config), **computed, "shards": files.sha256(tokens / "index.json")}
    first = distributed.is_first()
    with state.kept("checkpoints", **identity) if first else nullcontext(state.folder("checkpoints", **identity)) as saved:
        model = GPT(config)
        curves = Curves(training, validation, backtracks, throughput) if first else Curves(None, None, None, None)
        with distributed.launched(world, recipe.runtime.device_type()) as ranks:
            result = train(model, data, recipe, Places(saved, curves, live), ranks)
        if first:
            weights.save(model, checkpoints)
            files.write_metrics(metrics, {"parameters": model.n_parameters(), **asdict(result)})


if __name__ == "__main__":
    stage.run(main)
