"""A training as a stage: what `checkpoints` and `tuned` share, from the resume directory to the
provenance in the trained model.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.launch import inside, launch
from antimatter.launch.config import LaunchRuntime
from antimatter.model import devices, weights
from antimatter.model.gpt import GPT
from antimatter.pipeline import provenance, resume
from antimatter.training import distributed, numerics
from antimatter.training.config import TrainerConfig
from antimatter.training.console import Console
from antimatter.training.curves import Curves
from antimatter.training.data import TextData
from antimatter.training.trainer import Result, Trainer

# The last file that a training writes
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Outputs:
    """The folders of a stage."""

    model: Path
    metrics: Path
    plots: Path


def run(
    stage: str,
    sections: Sequence[str],
    build: Callable[[], GPT],
    data: TextData,
    config: TrainerConfig,
    outputs: Outputs,
    *,
    identity: Mapping[str, Any],
    digests: Mapping[str, str],
    chat: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
) -> None:
    """Trains the model that `build` returns, here or on the cluster of `runtime`, and writes all
    outputs. Every process of a distributed training calls it.

    Args:
        sections: the sections of params.yaml on which the stage depends, for the provenance.
        identity: what, besides the configuration, decides the bytes. An interrupted run resumes if
            it is equal.
        digests: the sha256 of the inputs, by name, for the provenance.
        chat: what the chat has to know about a model that was tuned.
        more: further entries of the provenance.
        before: the result of the training that the model began with (weights.RESULT).
    """
    decisive = {name: value for name, value in asdict(config).items() if name != "runtime"}
    identity = {**identity, **decisive}
    states = resume.path_of(stage, **identity)
    where = params.read(LaunchRuntime, "runtime", part=True)
    if launch.is_elsewhere(where):
        config.micro_batch(where.world_size, stage)
        written = [outputs.model, outputs.metrics / PROVENANCE]
        launch.train(stage, states, where, config.training.threads, written)
        return
    inside.check(states)
    device = config.runtime.device_type()
    size = devices.count(config.runtime.devices, device)
    # Before any process starts, as it may raise a UserError
    micro_batch = config.micro_batch(size, stage)
    if config.training.portable:
        numerics.check_portable()
    kind, precision = numerics.describe_hardware(device, config.training.precision)
    machine = {"kind": kind, "devices": size, "micro_batch": micro_batch, "precision": precision}
    # Now, because files may be edited during the training
    origin = provenance.of(stage, sections, digests, machine) | dict(more or {})
    is_main = distributed.is_main()
    directory = resume.directory(stage, [outputs.model], **identity)
    with directory if is_main else nullcontext(states):
        model = build()
        parameters, summary = model.n_parameters(), outputs.metrics / "summary.json"

        def report(result: Result) -> None:
            files.write_metrics(summary, {"parameters": parameters, **asdict(result)})

        curves = Curves(outputs.plots if is_main else None)
        if is_main:
            # DVC has deleted it, and `dvc metrics show` needs the file
            files.write_metrics(summary, {"parameters": parameters})
        with distributed.process_group(size, device) as group:
            observer = None
            if is_main:
                live = outputs.metrics / "throughput.json"
                throughput = curves.throughput
                observer = Console(model, data, config, group, live=live, throughput=throughput)
            trainer = Trainer(
                model,
                data,
                config,
                states,
                curves,
                observer=observer,
                report=report,
                group=group,
            )
            result = trainer.run()
        if is_main:
            curves.complete()
            origin |= resume.adopted(states)
            weights.save(model, outputs.model, origin, chat, _measured(result, before))
            files.write_json(outputs.metrics / PROVENANCE, origin)


def _measured(result: Result, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the config of a model has under weights.RESULT."""
    losses = {"train_loss": result.train_loss, "validation_loss": result.validation_loss}
    rounded = {
        name: None if loss is None else float(f"{loss:.6g}") for name, loss in losses.items()
    }
    measured = {"steps": result.steps, "tokens": result.tokens, **rounded}
    return measured | ({"initial": dict(before)} if before else {})
