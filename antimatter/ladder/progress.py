"""How long a ladder takes: from a short trial of each width before it runs, and from what the
trainings report while it runs.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from antimatter import files, params
from antimatter.data.batches import Batch
from antimatter.errors import UserError
from antimatter.ladder.configs import Base, RunConfig
from antimatter.ladder.runner import Experiment, Runner
from antimatter.model.gpt import GPT
from antimatter.progress import StatusLine
from antimatter.text import clock
from antimatter.training import numerics
from antimatter.training import optimizer as optimizers
from antimatter.training.config import TrainRuntime
from antimatter.training.step import Objective, accumulate_gradients, clip, update

# Seconds of a run besides its steps: DVC, the imports, validation, evaluation
OVERHEAD = 20.0
TRIAL_SECONDS = 1.0
TRIAL_TOKENS = 2_048  # at most, in a step of the trial


def measure(base: Base, runs: Sequence[RunConfig], root: Path) -> dict[int, float]:
    """Tokens per second of one run alone, by width."""
    runtime = params.read(TrainRuntime, "runtime", root / params.PARAMS, part=True)
    widths = {run.model.n_embd: run for run in runs if run.kind == "rung"}
    return {width: _trial(base, run, runtime) for width, run in sorted(widths.items())}


def _trial(base: Base, run: RunConfig, runtime: TrainRuntime) -> float:
    """Tokens per second of a few training steps on random tokens."""
    device = torch.device(runtime.device_type())
    numerics.set_deterministic(run.threads)
    model = GPT(run.model).to(device).train()
    optimizer = optimizers.build(model, base.optimizer)
    precision = numerics.native_precision(device, base.training.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    context = run.model.block_size
    size = max(1, min(run.batch_size, runtime.micro_batch, TRIAL_TOKENS // context))
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(run.model.vocab_size, (size, context), generator=random).to(device)
    objective = Objective(model)
    # The first step warms up and does not count
    steps, begin = -1, 0.0
    while steps < 1 or time.perf_counter() - begin < TRIAL_SECONDS:
        if steps == 0:
            begin = time.perf_counter()
        loss = accumulate_gradients(objective, Batch(ids, ids), size, precision, scaler).loss
        clip(model, optimizer, scaler, base.optimizer.grad_clip)
        update(optimizer, scaler)
        loss.item()  # waits for the device
        steps += 1
    return steps * size * context / (time.perf_counter() - begin)


class Progress:
    """The progress line of a ladder. `show` is called by its Runner."""

    def __init__(self, line: StatusLine, root: Path, total: int, jobs: int) -> None:
        self.line, self.root, self.total, self.jobs = line, root, total, jobs
        self.has_shown = False
        self.speeds: dict[int, float] = {}  # FLOP/s of a run, by width

    def show(self, runner: Runner) -> None:
        if self.has_shown and not self.line.is_due():
            return
        self.has_shown = True
        labels, remaining = [], 0.0
        for experiment in runner.running:
            run = experiment.run
            share, rate = _trained(experiment, self.root)
            if rate:
                self.speeds[run.model.n_embd] = rate * run.flops / run.tokens
            labels.append(f"{run.label} {share:.0%}")
            remaining += (1 - share) * self._seconds(run)
        remaining += sum(map(self._seconds, runner.waiting))
        pending = len(runner.waiting) + len(runner.running) + len(runner.failed)
        elapsed = clock(time.monotonic() - self.line.started)
        estimate = ""
        if self.speeds:
            seconds = remaining / min(self.jobs, max(1, len(runner.running)))
            estimate = f", about {clock(seconds)} left"
        done = f"{self.total - pending}/{self.total} done"
        self.line.show(f"{done}  {'  '.join(labels)}  {elapsed} gone{estimate}", force=True)

    def _seconds(self, run: RunConfig) -> float:
        """By the speed of the nearest width. 0 while none is known."""
        if not self.speeds:
            return 0.0
        nearest = min(self.speeds, key=lambda width: abs(math.log(width / run.model.n_embd)))
        return run.flops / self.speeds[nearest] + OVERHEAD


def _trained(experiment: Experiment, root: Path) -> tuple[float, float]:
    """The finished share of a training, and its tokens per second; zeros while it has not reported
    them.
    """
    if experiment.folder is None:
        folders = sorted((root / ".dvc/tmp/exps/standalone").glob("tmp*"))
        matching = (folder for folder in folders if _is_of(folder, experiment.run))
        experiment.folder = next(matching, None)
    if experiment.folder is None:
        return 0.0, 0.0
    try:
        live = files.read_json(experiment.folder / "metrics/checkpoints/throughput.json")
    except (OSError, UserError):
        return 0.0, 0.0
    return live["step"] / live["steps"], float(live.get("tokens_per_second") or 0.0)


def _is_of(folder: Path, run: RunConfig) -> bool:
    """Whether a temporary folder of DVC has the parameters of a run."""
    try:
        values = params.load(folder / params.PARAMS)
    except (OSError, UserError):
        return False
    for name, value in run.values().items():
        section, _, key = name.partition(".")
        if values.get(section, {}).get(key) != value:
            return False
    return True
