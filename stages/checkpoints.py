"""Shards become a trained model. A killed run goes on from its last saved state."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from antimatter import files, params, provenance, stage, state
from antimatter.data.shards import Shards
from antimatter.model import weights
from antimatter.model.gpt import GPT, GPTConfig, ModelConfig
from antimatter.model.loss import LossConfig
from antimatter.training import arithmetic, distributed
from antimatter.training.journal import Curves
from antimatter.training.optimizer import OptimizerConfig
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.trainer import Data, Places, Recipe, Result, TrainConfig, TrainRuntime, train

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
    world = distributed.count(recipe.runtime.devices, recipe.runtime.device_type())
    micro_batch = recipe.micro_batch(world)  # what is wrong with it is said before any process starts
    data = Data(shards.split("train"), shards.split("validation"), shards.token_counts(), shards.decode)
    computed = {name: value for name, value in asdict(recipe).items() if name != "runtime"}
    identity = {"model": asdict(config), **computed, "shards": shards.digests()["shards"]}
    kind, precision = arithmetic.machine(recipe.runtime.device_type(), recipe.training.precision)
    machine = {"kind": kind, "devices": world, "micro_batch": micro_batch, "precision": precision}
    known = provenance.of("checkpoints", SECTIONS, shards.digests(), machine)  # now, as files may be edited while it trains
    first = distributed.is_first()
    with state.kept("checkpoints", [checkpoints], **identity) if first else nullcontext(state.folder("checkpoints", **identity)) as saved:
        model = GPT(config)
        n_parameters = model.n_parameters()

        def report(result: Result) -> None:
            files.write_metrics(metrics, {"parameters": n_parameters, **asdict(result)})

        if first:
            files.write_metrics(metrics, {"parameters": n_parameters})  # DVC has deleted it, and `dvc metrics show` wants the file
        curves = Curves(training, validation, backtracks, throughput) if first else Curves(None, None, None, None)
        with distributed.launched(world, recipe.runtime.device_type()) as ranks:
            train(model, data, recipe, Places(saved, curves, live, report), ranks)
        if first:
            known |= state.record(saved)
            weights.save(model, checkpoints, known)
            files.write_json(made, known)


if __name__ == "__main__":
    stage.run(main)
