"""Shards become a trained model. A killed run goes on from its last saved state."""

from dataclasses import asdict
from pathlib import Path

from antimatter import params
from antimatter.data.shards.reader import Shards
from antimatter.model.config import GPTConfig, LossConfig, ModelConfig
from antimatter.model.gpt import GPT
from antimatter.pipeline import stage
from antimatter.training.config import OptimizerConfig, Recipe, TrainConfig, TrainRuntime
from antimatter.training.run import Outputs, run
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.trainer import Data

SECTIONS = ("model", "loss", "optimizer", "schedule", "spikes", "checkpoints")


def main(
    tokens: Path,
    checkpoints: Path,
    metrics: Path,
    made: Path,
    training: Path,
    validation: Path,
    backtracks: Path,
    live: Path,
    throughput: Path,
) -> None:
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
    train, held_out = shards.split("train"), shards.split("validation")
    data = Data(train, held_out, shards.token_counts(), shards.decode)
    curves = (training, validation, backtracks, live, throughput)
    run(
        "checkpoints",
        SECTIONS,
        lambda: GPT(config),
        data,
        recipe,
        Outputs(checkpoints, metrics, made, *curves),
        identity={"model": asdict(config), "shards": shards.digests()["shards"]},
        digests=shards.digests(),
    )


if __name__ == "__main__":
    stage.run(main)
