"""How fast this machine trains, by a few steps of each width."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from antimatter import params
from antimatter.data.batches import Batch
from antimatter.ladder.configs import Base, Rung
from antimatter.model.gpt import GPT
from antimatter.training import numerics
from antimatter.training import optimizer as adamw
from antimatter.training.config import TrainRuntime
from antimatter.training.numerics import native_precision
from antimatter.training.step import Objective, accumulate_gradients, clip, update

OVERHEAD = 20.0  # seconds of a rung besides its steps: DVC, the imports, validation, evaluation
ENOUGH = 1.0  # seconds of steps
TOKENS = 2_048  # at most in a step of the trial


def measure(base: Base, rungs: Sequence[Rung], root: Path) -> dict[int, float]:
    """Tokens per second of one rung alone, by width."""
    runtime = params.read(TrainRuntime, "runtime", root / params.PARAMS, part=True)
    widths = {rung.model.n_embd: rung for rung in rungs if rung.kind == "rung"}
    return {width: _trial(base, rung, runtime) for width, rung in sorted(widths.items())}


def _trial(base: Base, rung: Rung, runtime: TrainRuntime) -> float:
    device = torch.device(runtime.device_type())
    numerics.pin(rung.threads)
    model = GPT(rung.model).to(device).train()
    optimizer = adamw.build(model, base.optimizer)
    precision = native_precision(device, base.training.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    context = rung.model.block_size
    size = max(1, min(rung.batch_size, runtime.micro_batch, TOKENS // context))
    ids = torch.randint(
        rung.model.vocab_size, (size, context), generator=torch.Generator().manual_seed(1)
    ).to(device)
    objective, steps, begin = Objective(model), -1, 0.0  # the first step warms up
    while steps < 1 or time.perf_counter() - begin < ENOUGH:
        if steps == 0:
            begin = time.perf_counter()
        loss = accumulate_gradients(objective, Batch(ids, ids), size, precision, scaler).loss
        clip(model, optimizer, scaler, base.optimizer.grad_clip)
        update(optimizer, scaler)
        loss.item()  # waits for the device
        steps += 1
    return steps * size * context / (time.perf_counter() - begin)
