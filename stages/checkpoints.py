"""checkpoints: trains the model on the shards. A killed run resumes from its last saved state."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from antimatter import params
from antimatter.data.shards.reader import Shards
from antimatter.model.config import GPTConfig, LossConfig, ModelConfig
from antimatter.model.gpt import GPT
from antimatter.pipeline import stage
from antimatter.training.config import OptimizerConfig, TrainConfig, TrainerConfig, TrainRuntime
from antimatter.training.data import TextData
from antimatter.training.run import Outputs, run
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.start import check_vocabulary, of_pretraining

SECTIONS = ("model", "loss", "optimizer", "schedule", "spikes", "checkpoints")


def main(shards: Path, checkpoints: Path, metrics: Path, plots: Path) -> None:
    tokens = Shards(shards)
    model = params.read(ModelConfig, "model")
    shape = GPTConfig(**asdict(model), vocab_size=tokens.vocab_size)
    config = TrainerConfig(
        training=params.read(TrainConfig, "checkpoints"),
        loss=params.read(LossConfig, "loss"),
        optimizer=params.read(OptimizerConfig, "optimizer"),
        schedule=params.read(ScheduleConfig, "schedule"),
        spikes=params.read(SpikeConfig, "spikes"),
        runtime=params.read(TrainRuntime, "runtime", part=True),
    )
    train, validation = tokens.split("train"), tokens.split("validation")
    data = TextData(train, validation, tokens.token_counts(), tokens.decode)
    digests = tokens.digests()
    identity = {"model": asdict(shape), "shards": digests["shards"]}
    begin: Callable[[], GPT] = partial(GPT, shape)
    origin: dict[str, Any] = {}
    before: dict[str, Any] = {}
    if config.training.initial:
        start = of_pretraining(config.training.initial, model)
        check_vocabulary(start, tokens.vocab_size, digests.get("tokenizer"))
        begin, before = partial(start.load, shape), start.result
        origin = {"initial": start.provenance}
        identity["initial"] = digests["initial"] = start.sha256()
    run(
        "checkpoints",
        SECTIONS,
        begin,
        data,
        config,
        Outputs(checkpoints, metrics, plots),
        identity=identity,
        digests=digests,
        more=origin,
        before=before,
    )


if __name__ == "__main__":
    stage.run(main)
