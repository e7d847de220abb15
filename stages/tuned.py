"""tuned: tunes the model on conversations. A killed run resumes from its last saved state."""

import sys
from dataclasses import asdict
from pathlib import Path

from antimatter import params
from antimatter.data.special_tokens import ASSISTANT, EOS
from antimatter.launch import inside
from antimatter.pipeline import stage
from antimatter.training import distributed, tuning
from antimatter.training.config import TrainRuntime, TuneConfig
from antimatter.training.run import Outputs, run
from antimatter.training.start import Start
from antimatter.training.tuning import Conversations

SECTIONS = ("tuned",)


def main(conversations: Path, checkpoints: Path, tuned: Path, metrics: Path, plots: Path) -> None:
    config = params.read(TuneConfig, "tuned")
    runtime = params.read(TrainRuntime, "runtime", part=True)
    packed = Conversations(conversations)
    start = Start.of(config.initial or str(checkpoints), "tuned.initial")
    shape, origin = start.shape, start.provenance
    tuning.check_start(start, packed)
    data = packed.data(config, end=EOS, role=ASSISTANT)
    trainer_config, inherited = tuning.trainer_config(config, origin, len(data.train), runtime)
    # The process that submits a job has printed it
    if distributed.is_main() and not inside.is_launched():
        values = ", ".join(f"{name} {value}" for name, value in inherited.items())
        print(f"tuned: from {start.folder}, which gives {values}", file=sys.stderr)
        epochs = f"{config.epochs:g} epoch{'s' * (config.epochs != 1)}"
        rate = trainer_config.optimizer.learning_rate
        print(
            f"tuned: {len(data.train):,} rows, {epochs}: {trainer_config.training.steps:,} steps, "
            f"rate {rate:.2e} at its peak",
            file=sys.stderr,
        )
    digest = start.sha256()
    identity = {"model": asdict(shape), "initial": digest, "emphasis": data.emphasis._asdict()}
    run(
        "tuned",
        SECTIONS,
        lambda: start.load(shape),
        data,
        trainer_config,
        Outputs(tuned, metrics, plots),
        identity=identity | packed.digests(),
        digests=packed.digests() | {"initial": digest},
        chat=packed.chat,
        more={"initial": origin},
        before=start.result,
    )


if __name__ == "__main__":
    stage.run(main)
