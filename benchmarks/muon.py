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
from dataclasses import asdict, replace

import torch

from antimatter import params
from antimatter.data.batches import Batch
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.flops import flops_per_token, muon_flops
from antimatter.model.gpt import GPT
from antimatter.training import numerics
from antimatter.training import optimizer as optimizers
from antimatter.training.config import OptimizerConfig, TrainConfig
from antimatter.training.step import Objective, accumulate_gradients, clip, update

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
    device, scaler = torch.device("cpu"), torch.amp.GradScaler("cpu", enabled=False)
    precision = numerics.native_precision(device, params.read(TrainConfig, "checkpoints").precision)
    shape, random = (batch_size, config.block_size + 1), torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, shape, generator=random)
    batch = Batch(ids[:, :-1], ids[:, 1:])
    kinds = {}
    for kind in ("adamw", "muon"):
        model = GPT(config)
        optimizer = optimizers.build(model, replace(settings, kind=kind))
        kinds[kind] = (model, Objective(model), optimizer, list[float]())
    for _ in range(ROUNDS + 1):
        for model, objective, optimizer, spent in kinds.values():
            start = time.thread_time()
            accumulate_gradients(objective, batch, min(batch_size, 16), precision, scaler)
            clip(model, optimizer, scaler, settings.grad_clip)
            update(optimizer, scaler)
            spent.append(time.thread_time() - start)
    # The first round warms up
    return {kind: statistics.median(spent[1:]) for kind, (*_, spent) in kinds.items()}


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
    numerics.tune_malloc()
    config = GPTConfig(**asdict(params.read(ModelConfig, "model")), vocab_size=4096)
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
        shape = {"n_layer": layers, "n_embd": channels, "block_size": context}
        larger = replace(config, n_head=1, vocab_size=vocabulary, **shape)
        ratios = (flop_ratio(larger, size, devices) for devices in (1, 8))
        print(f"{name:>6}, 1 and 8 GPUs: " + ", ".join(f"{ratio:.4f} x" for ratio in ratios))


if __name__ == "__main__":
    main()
