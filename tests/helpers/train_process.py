"""A small training as a process of its own, to be killed by tests: python train_process.py TOKENS.npy FOLDER."""

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from antimatter import files
from antimatter.data.batches import Batches
from antimatter.model import devices, weights
from antimatter.model.config import GPTConfig, LossConfig
from antimatter.model.gpt import GPT
from antimatter.training import distributed, trainer
from antimatter.training.config import OptimizerConfig, Recipe, TrainConfig, TrainRuntime
from antimatter.training.log import Curves
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.trainer import Data, Places

CONFIG = GPTConfig(
    n_layer=2,
    n_head=4,
    n_embd=32,
    block_size=16,
    negative_slope=0.01,
    dropout=0.1,
    tied_embeddings=True,
    seed=1,
    vocab_size=64,
)
RECIPE = Recipe(
    training=TrainConfig(
        steps=60, batch_size=8, precision="fp32", compile=False, threads=1, seed=1,
        validate_every=20, validation_tokens=128, log_every=5, save_every=10,
    ),
    loss=LossConfig(rare_token_power=0.0, rare_token_limit=3.0, rare_token_decay=0.9),
    optimizer=OptimizerConfig(learning_rate=1e-2, embedding_rate=1.0, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, grad_clip=1.0),
    schedule=ScheduleConfig(warmup_steps=5, final_fraction=0.1, decay="cosine"),
    spikes=SpikeConfig(factor=3.0, window=10, rate_factor=0.5, max_backtracks=2),
    runtime=TrainRuntime(device="cpu", devices=1, micro_batch=4, keep_states=2),
)  # fmt: skip


def spoil(text: str, tokens: Path, recipe: Recipe, config: GPTConfig) -> None:
    """Makes a step go wrong each time it is computed, in whichever process: "36,0,nan" is step 36 of a run without backtracks so far.

    Kinds: "nan" and "high" are losses, "overflow" is a gradient that is not finite.
    """
    step, backtracks, kind = text.split(",")
    training = recipe.training
    batches = Batches(
        [np.load(tokens, mmap_mode="r")[:-200]],
        batch_size=training.batch_size,
        block_size=config.block_size,
        seed=training.seed + int(backtracks),
    )
    spoilt, compute = batches.at(int(step) - 1)[0], trainer.accumulate_gradients

    def computed(*arguments: object) -> trainer.Gradient:
        gradient = compute(*arguments)  # type: ignore[arg-type]
        if torch.equal(arguments[1][0], spoilt):  # type: ignore[index]
            if kind == "overflow":
                next(arguments[0].parameters()).grad[0, 0] = torch.inf  # type: ignore[attr-defined]
            else:
                gradient = replace(
                    gradient, loss=gradient.loss * {"nan": torch.nan, "high": 100.0}[kind]
                )
        return gradient

    trainer.accumulate_gradients = computed


def run(
    tokens: Path,
    folder: Path,
    recipe: Recipe = RECIPE,
    ranks: distributed.Ranks = distributed.ALONE,
    config: GPTConfig = CONFIG,
) -> trainer.Result:
    """Trains, and leaves weights, curves and figures in `folder`."""
    model = GPT(config)
    mapped = np.load(tokens, mmap_mode="r")
    data = Data(
        [mapped[:-200]],
        [mapped[-200:]],
        np.bincount(mapped[:-200], minlength=config.vocab_size),
        str,
    )
    names = (
        ("training.csv", "validation.csv", "backtracks.csv", "throughput.csv")
        if ranks.first
        else (None,) * 4
    )
    curves = Curves(*(name and folder / name for name in names))
    result = trainer.train(
        model, data, recipe, Places(folder / "state", curves, folder / "live.json"), ranks
    )
    if ranks.first:
        weights.save(model, folder)
        files.write_json(folder / "result.json", asdict(result))
    return result


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokens", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to sleep in each step")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a value of the recipe, or of `model`",
    )
    parser.add_argument("--spoil", action="append", default=[], metavar="STEP,BACKTRACKS,KIND")
    parser.add_argument(
        "--emulate",
        action="store_true",
        help="compute in the precision of the recipe whatever the machine has",
    )
    given = parser.parse_args(arguments)
    recipe, config = RECIPE, CONFIG
    for text in given.set:
        name, value = text.split("=")
        section, key = name.split(".")
        part = config if section == "model" else getattr(recipe, section)
        part = replace(part, **{key: type(getattr(part, key))(value)})
        config, recipe = (
            (part, recipe) if section == "model" else (config, replace(recipe, **{section: part}))
        )
    for text in given.spoil:
        spoil(text, given.tokens, recipe, config)
    if given.emulate:
        trainer.native_precision = lambda device, wanted: wanted
    if given.pause:
        update = trainer.update
        trainer.update = lambda *arguments: (time.sleep(given.pause), update(*arguments))[1]
    try:
        with distributed.launched(devices.count(given.devices, "cpu"), "cpu") as ranks:
            run(given.tokens, given.folder, recipe, ranks, config)
    except InterruptedError as paused:
        print(paused, file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
