"""A small training, also as a process to kill: python train_process.py TOKENS.npy FOLDER."""

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from antimatter import files
from antimatter.data.batches import Batch
from antimatter.model import devices, weights
from antimatter.model.config import GPTConfig, LossConfig
from antimatter.model.gpt import GPT
from antimatter.training import distributed
from antimatter.training.config import (
    OptimizerConfig,
    Precision,
    TrainConfig,
    TrainerConfig,
    TrainRuntime,
)
from antimatter.training.console import Console
from antimatter.training.curves import Curves
from antimatter.training.data import TextData
from antimatter.training.distributed import SINGLE_PROCESS, ProcessGroup
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.step import Gradient
from antimatter.training.trainer import Result, StepStats, Trainer

SHAPE = GPTConfig(
    n_layer=2,
    n_head=4,
    n_embd=32,
    block_size=16,
    negative_slope=0.01,
    residual_scale=1.0,
    dropout=0.1,
    tied_embeddings=True,
    seed=1,
    vocab_size=64,
)
CONFIG = TrainerConfig(
    training=TrainConfig(
        initial="",
        steps=60, batch_size=8, precision="fp32", portable=False, compile=False, threads=1, seed=1,
        validate_every=20, validation_tokens=128, log_every=5, save_every=10,
    ),
    loss=LossConfig(rare_token_power=0.0, rare_token_limit=3.0, rare_token_decay=0.9),
    optimizer=OptimizerConfig(
        kind="adamw", learning_rate=1e-2, embedding_rate=1.0, beta1=0.9, beta2=0.95,
        momentum=0.95, epsilon=1e-8, weight_decay=0.1, grad_clip=1.0,
    ),
    schedule=ScheduleConfig(warmup_steps=5, final_fraction=0.1, decay="cosine"),
    spikes=SpikeConfig(factor=3.0, window=10, rate_factor=0.5, max_backtracks=2),
    runtime=TrainRuntime(device="cpu", devices=1, micro_batch=4, keep_states=2),
)  # fmt: skip


OUTPUTS = (
    "final.safetensors",
    "config.json",
    "training.csv",
    "validation.csv",
    "backtracks.csv",
    "result.json",
)


def assert_same_bytes(one: Path, other: Path) -> None:
    """Compares all that two runs have written."""
    for name in OUTPUTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


class Spoilt(Trainer):
    """A trainer in which chosen steps fail, as often as they are computed and in each process."""

    # Entries (step, backtracks, kind): "nan" and "high" are losses, "overflow" is a gradient that
    # is not finite, "overflow in 1" that of process 1 alone, before the exchange; the step belongs
    # to a run after that many backtracks
    spoilt: tuple[tuple[int, int, str], ...] = ()
    # Seconds to sleep in each step
    seconds = 0.0
    emulates = False

    def native_precision(self) -> Precision:
        return self.training.precision if self.emulates else super().native_precision()

    def compute_gradient(self, batch: Batch) -> Gradient:
        kinds = [
            kind
            for step, backtracks, kind in self.spoilt
            if torch.equal(batch.inputs, self._inputs(step, backtracks))
        ]
        own = next(self.model.parameters())
        hook = own.register_hook(lambda gradient: gradient.fill_(torch.inf))
        if "overflow in 1" not in kinds or self.group.rank != 1:
            hook.remove()
        gradient = super().compute_gradient(batch)
        hook.remove()
        if "overflow" in kinds:
            gradient_of_first(self).view(-1)[0] = torch.inf
        for factor in ({"nan": torch.nan, "high": 100.0}.get(kind, 1.0) for kind in kinds):
            gradient = replace(gradient, loss=gradient.loss * factor)
        return gradient

    def apply_gradient(self, stats: StepStats) -> None:
        time.sleep(self.seconds)
        super().apply_gradient(stats)

    def _inputs(self, step: int, backtracks: int) -> torch.Tensor:
        # Each process spoils its own part of the batch
        training, seed = self.training, self.training.seed + backtracks
        steps = self.data.batches(training.batch_size, self.block_size, seed, self.group)
        return steps.at(step - 1).inputs


def gradient_of_first(trainer: Trainer) -> torch.Tensor:
    """The gradient of the first parameter."""
    gradient = next(trainer.model.parameters()).grad
    assert gradient is not None
    return gradient


def text_data(tokens: Path, vocab_size: int = SHAPE.vocab_size) -> TextData:
    mapped = np.load(tokens, mmap_mode="r")
    counts = np.bincount(mapped[:-200], minlength=vocab_size)
    return TextData([mapped[:-200]], [mapped[-200:]], counts, str)


def trainer_in(
    folder: Path,
    tokens: Path,
    config: TrainerConfig = CONFIG,
    *,
    shape: GPTConfig = SHAPE,
    group: ProcessGroup = SINGLE_PROCESS,
    kind: type[Trainer] = Trainer,
    observed: bool = True,
) -> Trainer:
    """A trainer whose states and curves are in `folder`."""
    model, data = GPT(shape), text_data(tokens, shape.vocab_size)
    curves = Curves(folder if group.is_main else None)
    observer = None
    if group.is_main and observed:
        live = folder / "live.json"
        observer = Console(model, data, config, group, live=live, throughput=curves.throughput)
    return kind(model, data, config, folder / "state", curves, observer=observer, group=group)


def finish(trainer: Trainer, folder: Path) -> Result:
    """Runs it, and writes weights and result into `folder`."""
    result = trainer.run()
    if trainer.group.is_main:
        weights.save(trainer.model, folder)
        files.write_json(folder / "result.json", asdict(result))
    return result


def run(
    tokens: Path,
    folder: Path,
    config: TrainerConfig = CONFIG,
    *,
    shape: GPTConfig = SHAPE,
    kind: type[Trainer] = Trainer,
    observed: bool = True,
) -> Result:
    """Trains, and writes weights, curves and figures into `folder`."""
    trainer = trainer_in(folder, tokens, config, shape=shape, kind=kind, observed=observed)
    return finish(trainer, folder)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokens", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to sleep in each step")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--spoil", action="append", default=[], metavar="STEP,BACKTRACKS,KIND")
    parser.add_argument("--emulate", action="store_true", help="compute in precisions it lacks")
    options = parser.parse_args(arguments)
    config, shape = CONFIG, SHAPE
    for text in options.set:
        name, value = text.split("=")
        section, key = name.split(".")
        part = shape if section == "model" else getattr(config, section)
        part = replace(part, **{key: type(getattr(part, key))(value)})
        if section == "model":
            shape = part
        else:
            config = replace(config, **{section: part})
    for text in options.spoil:
        step, backtracks, kind = text.split(",")
        Spoilt.spoilt += ((int(step), int(backtracks), kind),)
    Spoilt.seconds, Spoilt.emulates = options.pause, options.emulate
    size = devices.count(options.devices, "cpu")
    try:
        with distributed.process_group(size, "cpu") as group:
            folder, tokens = options.folder, options.tokens
            trainer = trainer_in(folder, tokens, config, shape=shape, group=group, kind=Spoilt)
            finish(trainer, folder)
    except InterruptedError as paused:
        print(paused, file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
