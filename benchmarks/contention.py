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
import time

from cpu_step import default_model, training_step

from antimatter import params, threads
from antimatter.training import numerics
from antimatter.training.config import OptimizerConfig

BATCH = 4
SETTINGS: dict[str, dict[str, str]] = {
    "default of libgomp": {},
    "as in the stages": {threads.VARIABLE: threads.SPINS},
    "a thousand turns": {threads.VARIABLE: "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--one", action="store_true", help="used by this script itself")
    arguments = parser.parse_args()
    if arguments.one:
        print(round(speed(arguments.seconds)))
        return
    command = [sys.executable, __file__, "--one", "--seconds", str(arguments.seconds)]
    for name, setting in SETTINGS.items():
        for label, count in (("alone", 1), ("two at a time", 2)):
            running = [
                subprocess.Popen(command, env={**os.environ, **setting}, stdout=-1, text=True)
                for _ in range(count)
            ]
            speeds = [process.communicate()[0].strip() for process in running]
            print(f"{name:24}{label:14}{' and '.join(speeds)} tokens/s", flush=True)


def speed(seconds: float) -> float:
    """Tokens/s of a training with two threads."""
    numerics.set_deterministic(2)
    config = default_model()
    step = training_step(config, params.read(OptimizerConfig, "optimizer"), BATCH, "bf16")
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return steps * BATCH * config.block_size / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
