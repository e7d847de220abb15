"""The price of `checkpoints.portable`: a training step of the default model on one CPU thread, in
bf16, in float32 as the processor likes it, and in portable float32.

    python benchmarks/portable.py

Each has its own process, as the settings must be there before torch is imported; the processes take
turns. Prints the median CPU seconds of a step, and the speed relative to float32.
"""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict

from antimatter.pipeline import portable

ROUNDS = 3
STEPS = 10
CONTENDERS: dict[str, tuple[str, dict[str, str]]] = {
    "bf16": ("bf16", {}),
    "fp32": ("fp32", {}),
    "fp32, AVX2": ("fp32", {**portable.SETTINGS, "MKL_CBWR": "AUTO"}),
    "fp32, portable": ("fp32", portable.SETTINGS),
}


def main() -> None:
    if sys.argv[1:]:
        print(*_steps(sys.argv[1]))
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, (precision, settings) in CONTENDERS.items():
            command = [sys.executable, __file__, precision]
            environment = {**os.environ, **settings}
            text = subprocess.run(command, env=environment, stdout=-1, check=True, text=True).stdout
            seconds[name] += map(float, text.split())
    medians = {name: statistics.median(spent) for name, spent in seconds.items()}
    for name, median in medians.items():
        print(f"{name:15} {median:.3f} s a step, {medians['fp32'] / median:.2f} x fp32")


def _steps(precision: str) -> list[float]:
    """The CPU seconds of some steps, after one that warms up."""
    import torch

    from antimatter import params
    from antimatter.data.batches import Batch
    from antimatter.model.config import GPTConfig, ModelConfig
    from antimatter.model.gpt import GPT
    from antimatter.training import numerics
    from antimatter.training import optimizer as adamw
    from antimatter.training.config import OptimizerConfig, TrainConfig
    from antimatter.training.step import Objective, accumulate_gradients, clip, update

    numerics.set_deterministic(1)
    numerics.tune_malloc()
    config = GPTConfig(**asdict(params.read(ModelConfig, "model")), vocab_size=4096)
    batch_size = params.read(TrainConfig, "checkpoints").batch_size
    settings = params.read(OptimizerConfig, "optimizer")
    model = GPT(config)
    objective, optimizer = Objective(model), adamw.build(model, settings)
    shape, random = (batch_size, config.block_size + 1), torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, shape, generator=random)
    batch = Batch(ids[:, :-1], ids[:, 1:])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    spent = []
    for _ in range(STEPS + 1):
        start = time.thread_time()
        accumulate_gradients(objective, batch, batch_size, precision, scaler)  # type: ignore[arg-type]
        clip(model, optimizer, scaler, settings.grad_clip)
        update(optimizer, scaler)
        spent.append(time.thread_time() - start)
    return spent[1:]


if __name__ == "__main__":
    main()
