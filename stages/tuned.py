"""Conversations make of the trained model one that answers. A killed run goes on where it was."""

import sys
from dataclasses import asdict
from pathlib import Path

from antimatter import files, params
from antimatter.data.special_tokens import ASSISTANT, EOS
from antimatter.model import weights
from antimatter.pipeline import stage
from antimatter.training import distributed, tuning
from antimatter.training.config import TrainRuntime, TuneConfig
from antimatter.training.run import Outputs, run
from antimatter.training.tuning import Conversations

SECTIONS = ("tuned",)


def main(
    conversations: Path,
    checkpoints: Path,
    tuned: Path,
    metrics: Path,
    made: Path,
    training: Path,
    validation: Path,
    backtracks: Path,
    live: Path,
    throughput: Path,
) -> None:
    config = params.read(TuneConfig, "tuned")
    runtime = params.read(TrainRuntime, "runtime", part=True)
    found, initial = Conversations(conversations), Path(config.initial or checkpoints)
    shape, known = weights.read_config(initial / weights.CONFIG)[:2]
    tuning.check_start(initial, shape, known, found)
    data = found.data(config, end=EOS, role=ASSISTANT)
    recipe, inherited = tuning.recipe(config, known, len(data.train), runtime)
    if distributed.is_first():
        told = ", ".join(f"{name} {value}" for name, value in inherited.items())
        print(f"tuned: from {initial}, which gives {told}", file=sys.stderr)
        steps, rate = recipe.training.steps, recipe.optimizer.learning_rate
        rows = f"{len(data.train):,} rows, {config.epochs:g} epoch{'s' * (config.epochs != 1)}"
        print(f"tuned: {rows}: {steps:,} steps, rate {rate:.2e} at its peak", file=sys.stderr)
    start = files.sha256(initial / weights.FINAL)
    digests = found.digests() | {"initial": start}
    curves = (training, validation, backtracks, live, throughput)
    identity = {"model": asdict(shape), "initial": start, "emphasis": data.emphasis._asdict()}
    run(
        "tuned",
        SECTIONS,
        lambda: weights.load(initial),
        data,
        recipe,
        Outputs(tuned, metrics, made, *curves),
        identity=identity | found.digests(),
        digests=digests,
        chat=found.chat,
        more={"initial": known},
    )


if __name__ == "__main__":
    stage.run(main)
