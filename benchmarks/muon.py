"""What a step with Muon costs relative to one with AdamW, on one CPU thread and in FLOPs. The steps
of the two alternate in one process.

    python benchmarks/muon.py                               # the model of params.yaml
    python benchmarks/muon.py --layers 4 --channels 256 --batches 4,16,64

Prints the medians of the CPU seconds, and the share of the steps that Muon has to save to pay. Then
the same share by FLOPs alone for larger models, on which nothing runs here.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import Literal

import torch
from cpu_step import default_model, training_step

from antimatter import params
from antimatter.model.config import GPTConfig
from antimatter.model.flops import flops_per_token, muon_flops
from antimatter.training import numerics
from antimatter.training.config import OptimizerConfig, TrainConfig

ROUNDS = 8
# Layers, channels, context, vocabulary, and sequences of a step
LARGER = {
    "10m": (6, 320, 512, 8192, 32),
    "kaggle": (8, 768, 1024, 16384, 256),
    "125m": (12, 768, 1024, 50257, 512),
    "300m": (24, 1024, 2048, 50257, 512),
}


def step_seconds(config: GPTConfig, batch_size: int) -> dict[str, float]:
    """The median CPU seconds of a step, by the kind of the optimizer."""
    settings = params.read(OptimizerConfig, "optimizer")
    wanted = params.read(TrainConfig, "checkpoints").precision
    precision = numerics.native_precision(torch.device("cpu"), wanted)
    kinds: dict[Literal["adamw", "muon"], list[float]] = {"adamw": [], "muon": []}
    steps = [
        training_step(config, replace(settings, kind=kind), batch_size, precision) for kind in kinds
    ]
    for _ in range(ROUNDS + 1):
        for step, spent in zip(steps, kinds.values(), strict=True):
            start = time.thread_time()
            step()
            spent.append(time.thread_time() - start)
    # The first round warms up
    return {kind: statistics.median(spent[1:]) for kind, spent in kinds.items()}


def flop_ratio(config: GPTConfig, batch_size: int, devices: int = 1) -> float:
    """FLOPs of a step with Muon relative to one with AdamW. Each device updates all matrices."""
    own = batch_size // devices * config.block_size * flops_per_token(config)
    return 1 + muon_flops(config) / own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int)
    parser.add_argument("--channels", type=int)
    parser.add_argument("--batches", default="4,16,64", help="sequences of a step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = default_model()
    config = replace(
        config,
        n_layer=options.layers or config.n_layer,
        n_embd=options.channels or config.n_embd,
        n_head=(options.channels or config.n_embd) // 64,
    )
    print(f"{config.n_layer} layers x {config.n_embd}, context {config.block_size}")
    for size in map(int, options.batches.split(",")):
        seconds = step_seconds(config, size)
        ratio = seconds["muon"] / seconds["adamw"]
        print(
            f"batch {size:3}: AdamW {seconds['adamw']:.3f} s, Muon {seconds['muon']:.3f} s: "
            f"{ratio:.2f} x ({flop_ratio(config, size):.2f} x by FLOPs), pays if it saves "
            f"{1 - 1 / ratio:.1%} of the steps"
        )
    for name, (layers, channels, context, vocabulary, size) in LARGER.items():
        larger = replace(
            config,
            n_layer=layers,
            n_head=1,
            n_embd=channels,
            block_size=context,
            vocab_size=vocabulary,
        )
        ratios = (flop_ratio(larger, size, devices) for devices in (1, 8))
        print(f"{name:>6}, 1 and 8 GPUs: " + ", ".join(f"{ratio:.4f} x" for ratio in ratios))


if __name__ == "__main__":
    main()
