"""A small training as a process of its own, to be killed by tests: python a_run.py TOKENS.npy FOLDER [seconds to sleep in each step]."""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from antimatter import files
from antimatter.model import weights
from antimatter.model.gpt import GPT, GPTConfig
from antimatter.training import trainer
from antimatter.training.optimizer import OptimizerConfig
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.trainer import Curves, Recipe, TrainConfig, TrainRuntime

CONFIG = GPTConfig(n_layer=2, n_head=4, n_embd=32, block_size=16, negative_slope=0.01, dropout=0.1, tied_embeddings=True, seed=1, vocab_size=64)
RECIPE = Recipe(
    training=TrainConfig(
        steps=60, batch_size=8, precision="fp32", compile=False, threads=1, seed=1,
        validate_every=20, validation_tokens=128, log_every=5, save_every=10,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-2, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, grad_clip=1.0),
    schedule=ScheduleConfig(warmup_steps=5, final_fraction=0.1),
    spikes=SpikeConfig(factor=3.0, window=10, rate_factor=0.5, max_backtracks=2),
    runtime=TrainRuntime(device="cpu", micro_batch=4),
)  # fmt: skip


def run(tokens: Path, folder: Path, recipe: Recipe = RECIPE) -> trainer.Result:
    """Trains, and leaves weights, curves and figures in `folder`."""
    model = GPT(CONFIG)
    mapped = np.load(tokens, mmap_mode="r")
    curves = Curves(*(folder / name for name in ("training.csv", "validation.csv", "backtracks.csv")))
    result = trainer.train(model, [mapped[:-200]], [mapped[-200:]], recipe, curves, folder / "state")
    weights.save(model, folder)
    files.write_json(folder / "result.json", {**asdict(result), "tokens_per_second": None})
    return result


if __name__ == "__main__":
    if len(sys.argv) > 3:
        step, pause = trainer.clip_and_step, float(sys.argv[3])
        trainer.clip_and_step = lambda *arguments: (time.sleep(pause), step(*arguments))[1]
    try:
        run(Path(sys.argv[1]), Path(sys.argv[2]))
    except InterruptedError as paused:
        sys.exit(str(paused))
