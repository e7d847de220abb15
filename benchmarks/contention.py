"""Two trainings of the default model at once on the same cores, as `dvc queue start -j 2` would run them, and one alone: tokens/s of each.

    python benchmarks/contention.py [--seconds 10]

libgomp's threads wait for each other by spinning, by default for milliseconds, in which the thread that they wait for gets no core.
antimatter/pipeline/stage.py lets them give the core away after a thousand turns (GOMP_SPINCOUNT). Run this on two cores.
"""

import argparse
import os
import subprocess
import sys

STEPS = """
import sys, time
import torch
from antimatter.data.batches import Batch
from antimatter.model.gpt import GPT
from antimatter.model.config import GPTConfig
from antimatter.training import numerics, optimizer as adamw
from antimatter.training.config import OptimizerConfig
from antimatter.training.step import Objective, accumulate_gradients, clip, update
numerics.pin(2)
numerics.keep_memory()
config = dict(n_layer=2, n_head=3, n_embd=192, block_size=256, vocab_size=4096, negative_slope=0.01, dropout=0.0, tied_embeddings=True, seed=1)
model = GPT(GPTConfig(**config))
recipe = OptimizerConfig(
    learning_rate=1e-3,
    embedding_rate=1.0,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    grad_clip=1.0,
)
optimizer = adamw.build(model, recipe)
objective, scaler, batch = Objective(model), torch.amp.GradScaler("cpu", enabled=False), torch.randint(4096, (2, 4, 256))
begin, steps = time.perf_counter(), 0
while time.perf_counter() - begin < float(sys.argv[1]):
    accumulate_gradients(objective, Batch(batch[0], batch[1]), 4, "bf16", scaler)
    clip(model, optimizer, scaler, 1.0)
    update(optimizer, scaler)
    steps += 1
print(round(steps * batch[0].numel() / (time.perf_counter() - begin)))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    for label, setting in (
        ("as libgomp has it", {}),
        ("as the stages have it", {"GOMP_SPINCOUNT": "1000"}),
        ("passive", {"OMP_WAIT_POLICY": "passive"}),
    ):
        environment = {**os.environ, "PYTHONPATH": ".", **setting}
        command = [sys.executable, "-c", STEPS, str(given.seconds)]
        for together in (1, 2):
            running = [
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
                for _ in range(together)
            ]
            speeds = [process.communicate()[0].strip() for process in running]
            print(
                f"{label:24}{'alone' if together == 1 else 'two at once':14}{' and '.join(speeds)} tokens/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
