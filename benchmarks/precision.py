"""bf16 relative to float32 in a training step of the default model on one CPU thread. The steps of
the two alternate in one process.

    python benchmarks/precision.py
    # As on a laptop without bf16:
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/precision.py

Prints the median CPU seconds of a step and their ratio.
"""

import statistics
import time
from dataclasses import asdict

import torch

from antimatter import params
from antimatter.data.batches import Batch
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.gpt import GPT
from antimatter.training import optimizer as adamw
from antimatter.training.config import OptimizerConfig, Precision, TrainConfig
from antimatter.training.step import Objective, accumulate_gradients, clip, update

ROUNDS = 10


def main() -> None:
    torch.set_num_threads(1)
    config = GPTConfig(**asdict(params.read(ModelConfig, "model")), vocab_size=4096)
    batch_size = params.read(TrainConfig, "checkpoints").batch_size
    settings = params.read(OptimizerConfig, "optimizer")
    model = GPT(config)
    objective, optimizer = Objective(model), adamw.build(model, settings)
    shape, random = (batch_size, config.block_size + 1), torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, shape, generator=random)
    batch = Batch(ids[:, :-1], ids[:, 1:])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(ROUNDS + 1):
        for precision, spent in seconds.items():
            start = time.thread_time()
            accumulate_gradients(objective, batch, batch_size, precision, scaler)
            clip(model, optimizer, scaler, settings.grad_clip)
            update(optimizer, scaler)
            spent.append(time.thread_time() - start)
    # The first round warms up
    medians = {precision: statistics.median(spent[1:]) for precision, spent in seconds.items()}
    for precision, median in medians.items():
        speed = batch_size * config.block_size / median
        print(f"{precision}: {median:.3f} s a step, {speed:,.0f} tokens/s")
    print(f"bf16 is {medians['fp32'] / medians['bf16']:.2f} x as fast as fp32")


if __name__ == "__main__":
    main()
