"""A training step of the default model on one CPU thread in bf16 and in float32: as the processor
likes it, as on a laptop without bf16, and with `checkpoints.portable`.

    python benchmarks/precision.py [--rounds 3]

With AVX2 alone, as on a laptop, bf16 is emulated. Each setting has its own process, as the
libraries below torch read theirs while they are loaded; the processes take turns. Prints the median
CPU seconds of a step, and the speed relative to float32.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from cpu_step import default_model, training_step

from antimatter import params
from antimatter.pipeline import portable
from antimatter.training import numerics
from antimatter.training.config import OptimizerConfig, Precision, TrainConfig

STEPS = 10
LAPTOP = {**portable.SETTINGS, "MKL_CBWR": "AUTO"}
CONTENDERS: dict[str, tuple[Precision, dict[str, str]]] = {
    "bf16": ("bf16", {}),
    "bf16, AVX2": ("bf16", LAPTOP),
    "fp32": ("fp32", {}),
    "fp32, AVX2": ("fp32", LAPTOP),
    "fp32, portable": ("fp32", portable.SETTINGS),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CONTENDERS, help="used by this script itself")
    arguments = parser.parse_args()
    if arguments.one:
        print(*step_seconds(CONTENDERS[arguments.one][0]))
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.rounds):
        for name, (_, settings) in CONTENDERS.items():
            command = [sys.executable, __file__, "--one", name]
            environment = {**os.environ, **settings}
            done = subprocess.run(command, env=environment, stdout=-1, check=True, text=True)
            seconds[name] += map(float, done.stdout.split())
    medians = {name: statistics.median(spent) for name, spent in seconds.items()}
    tokens = params.read(TrainConfig, "checkpoints").batch_size * default_model().block_size
    for name, median in medians.items():
        print(
            f"{name:15} {median:.3f} s a step, {tokens / median:6,.0f} tokens/s, "
            f"{medians['fp32'] / median:.2f} x fp32"
        )


def step_seconds(precision: Precision) -> list[float]:
    """The CPU seconds of some steps, after one that warms up."""
    numerics.set_deterministic(1)
    batch_size = params.read(TrainConfig, "checkpoints").batch_size
    settings = params.read(OptimizerConfig, "optimizer")
    step = training_step(default_model(), settings, batch_size, precision)
    spent = []
    for _ in range(STEPS + 1):
        start = time.thread_time()
        step()
        spent.append(time.thread_time() - start)
    return spent[1:]


if __name__ == "__main__":
    main()
