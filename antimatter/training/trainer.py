"""train(): the loop from fresh weights to trained ones. The same parameters give the same bytes, interrupted or not."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from antimatter.data.batches import Batches, in_order
from antimatter.model.gpt import GPT
from antimatter.model.loss import cross_entropy, mean_loss
from antimatter.training import optimizer as adamw
from antimatter.training.checkpoint import Checkpoints
from antimatter.training.journal import Curve, Progress
from antimatter.training.optimizer import OptimizerConfig
from antimatter.training.schedule import ScheduleConfig, rate_factor
from antimatter.training.spikes import SpikeConfig, is_spike

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int
    batch_size: int  # sequences in a step, over all devices and micro-batches
    precision: Literal["fp32", "bf16", "fp16"]  # of the matrix products; weights and their sums stay float32
    compile: bool  # torch.compile: fuses operations, so it changes the rounding
    threads: int  # of a CPU run; the sums are split by it, so it changes the rounding
    seed: int  # of the order of the data and of dropout
    validate_every: int  # steps
    validation_tokens: int  # from the start of the validation split
    log_every: int  # steps in a row of plots/training.csv
    save_every: int  # steps between two saved states

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "threads", "validate_every", "validation_tokens", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainRuntime:
    """How to run, not what to compute: here results agree to float tolerance, so a change does not retrain."""

    device: Literal["auto", "cpu", "cuda"]
    micro_batch: int  # sequences in one forward pass: lower it when memory is short

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise ValueError(f"micro_batch must be at least 1, got {self.micro_batch}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but torch sees no GPU here: set it to auto or cpu")

    def torch_device(self) -> torch.device:
        return torch.device("cuda" if self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available()) else "cpu")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    training: TrainConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    spikes: SpikeConfig
    runtime: TrainRuntime

    def __post_init__(self) -> None:
        if self.schedule.warmup_steps >= self.training.steps:
            raise ValueError(f"schedule.warmup_steps must be below checkpoints.steps ({self.training.steps}), got {self.schedule.warmup_steps}")
        if self.training.batch_size % min(self.runtime.micro_batch, self.training.batch_size):
            raise ValueError(f"runtime.micro_batch must divide checkpoints.batch_size ({self.training.batch_size}), got {self.runtime.micro_batch}")


@dataclass
class State:
    """Where a run stands. Together with weights, optimizer, scaler and curves, all that the next step depends on."""

    step: int = 0  # steps done
    rate_scale: float = 1.0  # falls at each backtrack
    backtracks: int = 0
    losses: list[float] = field(default_factory=list)  # the latest, oldest first


@dataclass(frozen=True)
class Result:
    steps: int
    tokens: int
    train_loss: float  # mean of the last spikes.window steps, nats per token
    validation_loss: float  # at the training precision, on the first validation_tokens
    backtracks: int
    tokens_per_second: float  # since this process began


class TrainingDiverged(ValueError):
    """Spike after spike: the run cannot be saved by a lower rate."""


class Curves:
    """plots/training.csv, validation.csv and backtracks.csv."""

    def __init__(self, training: Path, validation: Path, backtracks: Path) -> None:
        self.training = Curve(training, ["step", "loss", "learning_rate", "gradient_norm"])
        self.validation = Curve(validation, ["step", "loss"])
        self.backtracks = Curve(backtracks, ["step", "loss", "back_to", "rate_scale"])

    def snapshot(self) -> dict[str, str]:
        return {name: curve.snapshot() for name, curve in vars(self).items()}

    def restore(self, snapshot: dict[str, str]) -> None:
        for name, text in snapshot.items():
            getattr(self, name).restore(text)


def train(
    model: GPT, train_files: Sequence[np.ndarray], validation_files: Sequence[np.ndarray], recipe: Recipe, curves: Curves, saved: Path
) -> Result:
    """Trains `model` in place, going on from the newest state in the folder `saved` if there is one.

    Args:
        train_files, validation_files: token arrays, as Shards.split() gives them.

    Raises:
        InterruptedError: SIGTERM or SIGINT came; the state is saved and the next call goes on from it.
        TrainingDiverged: more loss spikes than recipe.spikes.max_backtracks.
        ValueError, OSError: a recipe that cannot run here; a disk that is full.
    """
    config, device = recipe.training, recipe.runtime.torch_device()
    _pin_arithmetic(config.threads)
    model.to(device).train().requires_grad_(True)
    optimizer = adamw.build(model, recipe.optimizer)
    precision = native_precision(device, config.precision)
    micro_batch = min(recipe.runtime.micro_batch, config.batch_size)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    checkpoints = Checkpoints(saved, config.save_every)
    forward = _compiled(model) if config.compile else model
    state = State()

    def save() -> None:
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        checkpoints.save(state.step, {**parts, "state": asdict(state), "curves": curves.snapshot()})

    def restore(parts: dict[str, Any]) -> State:
        model.load_state_dict(parts["model"])
        optimizer.load_state_dict(parts["optimizer"])
        scaler.load_state_dict(parts["scaler"])
        curves.restore(parts["curves"])
        return State(**parts["state"])

    def new_batches() -> Batches:
        """After a backtrack in another order: the same batches would bring the same spike."""
        seed = config.seed + state.backtracks
        return Batches(train_files, batch_size=config.batch_size, block_size=model.config.block_size, seed=seed)

    def validate() -> float:
        windows = in_order(validation_files, batch_size=config.batch_size, block_size=model.config.block_size, tokens=config.validation_tokens)
        with _autocast(device, precision):
            loss, _ = mean_loss(model, windows)
        curves.validation.add(state.step, loss)
        return loss

    found = checkpoints.newest(device)
    resumed = found is not None
    if found:
        state = restore(found)
    del found  # a second copy of the weights and the optimizer, 4 GB at 300M
    progress = Progress(config.steps, state.step, config.batch_size * model.config.block_size)
    if precision != config.precision:
        progress.note(f"this CPU has no {config.precision} arithmetic: computing in {precision}, the curve will agree to about 1%")
    if resumed:
        progress.note(f"going on from step {state.step:,} of {config.steps:,}")
    else:
        validate()
        save()
    batches = new_batches()

    with _StopRequest() as stop:
        while state.step < config.steps:
            rate = recipe.optimizer.learning_rate * state.rate_scale * rate_factor(state.step + 1, config.steps, recipe.schedule)
            adamw.set_learning_rate(optimizer, rate)
            torch.manual_seed(config.seed + state.step)  # dropout, too, is a function of the step
            loss = accumulate_gradients(forward, batches.at(state.step), micro_batch, precision, scaler, device)
            if is_spike(loss, state.losses, recipe.spikes):
                back_to = checkpoints.stable(state.step, recipe.spikes.window)
                if state.backtracks == recipe.spikes.max_backtracks or back_to is None:
                    raise TrainingDiverged(
                        f"training diverged: loss {loss:.4g} at step {state.step + 1} after {state.backtracks} backtracks, learning rate {rate:.3g}; "
                        f"lower optimizer.learning_rate ({recipe.optimizer.learning_rate}) or lengthen schedule.warmup_steps"
                    )
                # what the failed run has learnt about itself survives the reload, or the next backtrack would halve nothing
                curves.backtracks.add(state.step + 1, loss, back_to, state.rate_scale * recipe.spikes.rate_factor)
                failed, story = state, curves.backtracks.snapshot()
                optimizer.zero_grad(set_to_none=True)
                state = restore(checkpoints.load(back_to, device))
                state.rate_scale, state.backtracks = failed.rate_scale * recipe.spikes.rate_factor, failed.backtracks + 1
                curves.backtracks.restore(story)
                progress.note(f"loss spike {loss:.3f} at step {failed.step + 1}: back to step {back_to}, learning rate x {state.rate_scale:g}")
                checkpoints.drop_after(back_to)
                save()
                batches = new_batches()
                continue
            norm = clip_and_step(model, optimizer, scaler, recipe.optimizer.grad_clip)

            state.step += 1
            state.losses = [*state.losses, loss][-max(recipe.spikes.window, config.log_every) :]
            if state.step % config.log_every == 0:
                recent = state.losses[-config.log_every :]
                curves.training.add(state.step, sum(recent) / len(recent), rate, norm)
            if state.step % config.validate_every == 0 and state.step < config.steps:
                validate()
            progress.show(state.step, loss, rate)
            if state.step % config.save_every == 0 or stop.requested:
                save()
                checkpoints.rotate(state.step, recipe.spikes.window)
            if stop.requested and state.step < config.steps:
                raise InterruptedError(f"paused at step {state.step} of {config.steps}, nothing is lost: run again to go on")

    recent = state.losses[-recipe.spikes.window :]
    return Result(
        steps=state.step,
        tokens=state.step * config.batch_size * model.config.block_size,
        train_loss=sum(recent) / len(recent),
        validation_loss=validate(),
        backtracks=state.backtracks,
        tokens_per_second=progress.tokens_per_second(state.step),
    )


def accumulate_gradients(
    model: Callable[[Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
    micro_batch: int,
    precision: str,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> float:
    """Adds the gradient of the batch's mean loss to the parameters, by micro-batches; returns that loss, in nats per token.

    Args:
        batch: inputs and targets, both (B, T).
    """
    parts = list(zip(batch[0].split(micro_batch), batch[1].split(micro_batch), strict=True))
    total = 0.0
    for inputs, targets in parts:
        with _autocast(device, precision):
            logits = model(inputs.to(device, non_blocking=True))
            loss = cross_entropy(logits, targets.to(device, non_blocking=True)) / len(parts)  # backward() sums; the step wants the mean
        scaler.scale(loss).backward()
        total += loss.item()
    return total


def clip_and_step(model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, grad_clip: float) -> float:
    """One update by the clipped gradient; returns the gradient's global norm before clipping. FP16 overflow skips the update."""
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm.item()


class _StopRequest:
    """Turns SIGTERM and SIGINT into a wish: the step in hand is finished and saved. A second signal ends at once."""

    def __enter__(self) -> "_StopRequest":
        self.requested = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # signals can be set nowhere else
            self._before = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _pin_arithmetic(threads: int) -> None:
    """Makes the same program give the same bits again on the same kind of machine."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by the next line on a GPU
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs a pass over every buffer


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else nullcontext()


def native_precision(device: torch.device, precision: str) -> str:
    """The precision that this device computes in: float32 in place of bf16 on a CPU that would emulate it, far slower (benchmarks/precision.py)."""
    if precision == "bf16" and device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        return "fp32"
    return precision


def _compiled(model: GPT) -> Callable[[Tensor], Tensor]:
    if not (shutil.which("g++") or shutil.which("clang++")):
        raise ValueError("checkpoints.compile is true, but there is no C++ compiler here: install g++, or set it to false")
    return torch.compile(model)
