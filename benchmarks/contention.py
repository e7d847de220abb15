"""Tokens/s of two trainings of the default model at a time on the same cores, as `dvc queue start
-j 2` runs them, and of one alone.

    python benchmarks/contention.py [--seconds 10]

libgomp's threads wait for each other by spinning, by default for milliseconds. Meanwhile the thread
that they wait for gets no core. antimatter/threads.py makes them give up the core sooner
(GOMP_SPINCOUNT). Run this on two cores.
"""

import argparse
import os
import subprocess
import sys

from antimatter import threads

STEPS = """
import sys, time
import torch
from antimatter import params
from antimatter.data.batches import Batch
from antimatter.model.gpt import GPT
from antimatter.model.config import GPTConfig
from antimatter.training import numerics, optimizer as adamw
from antimatter.training.config import OptimizerConfig
from antimatter.training.step import Objective, accumulate_gradients, clip, update
numerics.set_deterministic(2)
numerics.tune_malloc()
config = GPTConfig(
    n_layer=2,
    n_head=3,
    n_embd=192,
    block_size=256,
    vocab_size=4096,
    negative_slope=0.01,
    residual_scale=1.0,
    dropout=0.0,
    tied_embeddings=True,
    seed=1,
)
model = GPT(config)
settings = params.read(OptimizerConfig, "optimizer")
optimizer = adamw.build(model, settings)
objective, scaler = Objective(model), torch.amp.GradScaler("cpu", enabled=False)
batch = Batch(*torch.randint(config.vocab_size, (2, 4, config.block_size)))
begin, steps = time.perf_counter(), 0
while time.perf_counter() - begin < float(sys.argv[1]):
    accumulate_gradients(objective, batch, 4, "bf16", scaler)
    clip(model, optimizer, scaler, settings.grad_clip)
    update(optimizer, scaler)
    steps += 1
print(round(steps * batch.inputs.numel() / (time.perf_counter() - begin)))
"""


SETTINGS: dict[str, dict[str, str]] = {
    "default of libgomp": {},
    "as in the stages": {threads.VARIABLE: threads.SPINS},
    "a thousand turns": {threads.VARIABLE: "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    command = [sys.executable, "-c", STEPS, str(parser.parse_args().seconds)]
    for name, setting in SETTINGS.items():
        environment = {**os.environ, "PYTHONPATH": ".", **setting}
        for label, count in (("alone", 1), ("two at a time", 2)):
            running = [
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
                for _ in range(count)
            ]
            speeds = [process.communicate()[0].strip() for process in running]
            print(f"{name:24}{label:14}{' and '.join(speeds)} tokens/s", flush=True)


if __name__ == "__main__":
    main()
