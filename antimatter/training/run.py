"""A training as a stage: what `checkpoints` and `tuned` have in common, from the folder of a killed
run to the provenance in the trained model.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.model import devices, weights
from antimatter.model.gpt import GPT
from antimatter.pipeline import provenance, resume
from antimatter.training import distributed, numerics
from antimatter.training.config import Recipe
from antimatter.training.log import Curves
from antimatter.training.trainer import Data, Places, Result, train


@dataclass(frozen=True)
class Outputs:
    model: Path  # a folder
    metrics: Path
    provenance: Path
    training: Path  # the three curves
    validation: Path
    backtracks: Path
    live: Path  # figures while it trains, which no stage depends on
    throughput: Path


def run(
    stage: str,
    sections: Sequence[str],
    build: Callable[[], GPT],
    data: Data,
    recipe: Recipe,
    outputs: Outputs,
    *,
    identity: Mapping[str, Any],
    digests: Mapping[str, str],
    chat: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Trains the model that `build` gives and writes all outputs; on every rank of a training.

    Args:
        sections: of params.yaml that the stage depends on, for the provenance.
        identity: what, besides the recipe, decides the bytes: a killed run goes on if it is equal.
        digests: sha256 of what is read, by name, for the provenance.
        chat: what the chat has to know of a model that was tuned.
        more: goes into the provenance.
    """
    device = recipe.runtime.device_type()
    world = devices.count(recipe.runtime.devices, device)
    # What is wrong with it is said before any process starts
    micro_batch = recipe.micro_batch(world)
    computed = {name: value for name, value in asdict(recipe).items() if name != "runtime"}
    identity = {**identity, **computed}
    kind, precision = numerics.machine(device, recipe.training.precision)
    machine = {"kind": kind, "devices": world, "micro_batch": micro_batch, "precision": precision}
    # Now, as files may be edited while it trains
    known = provenance.of(stage, sections, digests, machine) | dict(more or {})
    first = distributed.is_first()
    kept = resume.kept(stage, [outputs.model], **identity)
    with kept if first else nullcontext(resume.folder(stage, **identity)) as saved:
        model = build()
        parameters = model.n_parameters()

        def report(result: Result) -> None:
            files.write_metrics(outputs.metrics, {"parameters": parameters, **asdict(result)})

        paths = (outputs.training, outputs.validation, outputs.backtracks, outputs.throughput)
        curves = Curves(*paths) if first else Curves(None, None, None, None)
        if first:
            # DVC has deleted it, and `dvc metrics show` wants the file
            files.write_metrics(outputs.metrics, {"parameters": parameters})
        with distributed.launched(world, device) as ranks:
            train(model, data, recipe, Places(saved, curves, outputs.live, report), ranks)
        if first:
            known |= resume.record(saved)
            weights.save(model, outputs.model, known, chat)
            files.write_json(outputs.provenance, known)
