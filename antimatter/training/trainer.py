"""The training loop, from initial weights to trained ones.

The same parameters give the same bytes, whether or not the run is interrupted.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from antimatter.data.batches import Batch, Prefetcher
from antimatter.errors import UserError
from antimatter.model.gpt import GPT
from antimatter.model.loss import RareTokenBalance, sum_losses
from antimatter.training import numerics, optimizer, step
from antimatter.training.checkpoint import Checkpoints
from antimatter.training.config import Precision, TrainerConfig
from antimatter.training.curves import Curves
from antimatter.training.data import TextData
from antimatter.training.distributed import SINGLE_PROCESS, ProcessGroup
from antimatter.training.numerics import autocast
from antimatter.training.observer import Observer, Progress
from antimatter.training.schedule import rate_factor
from antimatter.training.signals import DeferredStop
from antimatter.training.spikes import is_spike
from antimatter.training.step import Gradient, Objective

# Of fp16. A gradient that overflows even at this loss scale is not a matter of scaling: the run has
# diverged (Megatron-LM stops there too).
LEAST_LOSS_SCALE = 1.0


@dataclass
class State:
    """The progress of a run. With weights, optimizer, scaler and curves, all that the next step
    depends on.
    """

    # Steps done
    step: int = 0
    # Lowered at each backtrack
    rate_scale: float = 1.0
    backtracks: int = 0
    # The step to which the last backtrack returned: stable, though few healthy steps may follow it
    went_back_to: int = 0
    # The latest losses, oldest first
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """Of a run up to its latest validation. Losses are in nats per token."""

    steps: int
    tokens: int
    # Mean of the last spikes.window steps; None before the first step
    train_loss: float | None
    # At the training precision, on the first validation_tokens
    validation_loss: float
    backtracks: int


@dataclass(frozen=True)
class StepStats:
    """What all processes know of a step before they apply it."""

    # Mean over the global batch, nats per token
    loss: float
    # Of the gradient before clipping
    norm: float
    # Whether a process was asked to pause
    stop: bool
    # Summed by frequency bin, (F,) float64 on the CPU
    bin_losses: torch.Tensor
    bin_counts: torch.Tensor


class TrainingDiverged(UserError):
    """Spike after spike: a lower learning rate cannot save the run."""


class Trainer:
    """Trains one model in place. Each process of a distributed run has one.

    Args:
        states: the folder of the saved states; a run resumes from the newest of them.
        report: called with the result of each validation, so that `dvc metrics show` works while
            the training runs.
    """

    def __init__(
        self,
        model: GPT,
        data: TextData,
        config: TrainerConfig,
        states: Path,
        curves: Curves,
        *,
        observer: Observer | None = None,
        report: Callable[[Result], None] = lambda result: None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Raises UserError for a configuration that cannot run on this machine."""
        self.model, self.data, self.config, self.curves = model, data, config, curves
        self.observer, self.report, self.group = observer or Observer(), report, group
        self.training, self.block_size = config.training, model.config.block_size
        self.micro_batch = config.micro_batch(group.size)
        self.device = torch.device("cpu")
        if config.runtime.device_type() == "cuda":
            self.device = torch.device("cuda", group.local_rank)
        self.precision = self.native_precision()
        numerics.set_deterministic(self.training.threads)
        numerics.tune_malloc()
        model.to(self.device).train().requires_grad_(True)
        self.optimizer = optimizer.build(model, config.optimizer)
        self.scaler = self.new_scaler()
        self.balance: RareTokenBalance | None = None
        if config.loss.rare_token_power:
            counts = torch.from_numpy(data.counts.astype(np.int64))
            self.balance = RareTokenBalance(config.loss, counts)
        self.checkpoints = Checkpoints(states, self.training.save_every, config.runtime.keep_states)
        objective = Objective(model, self.training.compile)
        self.objective: torch.nn.Module = objective
        if group.size > 1:
            self.objective = DistributedDataParallel(objective, gradient_as_bucket_view=True)
        self.state = State()

    def run(self) -> Result:
        """Trains to the last step.

        Raises:
            InterruptedError: SIGTERM or SIGINT came. The state is saved, and the next run resumes.
            TrainingDiverged: more loss spikes than spikes.max_backtracks.
            OSError: the disk is full.
        """
        self.start()
        batches = self.open_batches()
        try:
            with DeferredStop() as stop:
                while self.state.step < self.training.steps:
                    rate = self.set_learning_rate()
                    gradient = self.compute_gradient(batches.at(self.state.step))
                    norm = self.clip_gradient()
                    stats = self.reduce(gradient, norm, stop.requested)
                    if self.has_failed(stats):
                        self.backtrack(stats, rate)
                        batches.close()
                        batches = self.open_batches()
                        continue
                    self.apply_gradient(stats)
                    self.record(stats, rate)
                    if self.state.step % self.training.save_every == 0 or stats.stop:
                        self.save_and_rotate()
                    if stats.stop and self.state.step < self.training.steps:
                        self.pause()
        finally:
            batches.close()
        if self.state.step % self.training.save_every:
            # DVC has not recorded the model yet: without this a failure there would repeat steps
            self.save_and_rotate()
        result = self.validate()
        self.observer.on_end("finished")
        return result

    def start(self) -> None:
        """Resumes from the newest saved state, or validates and saves the initial weights."""
        newest = self.group.broadcast(self.checkpoints.newest)
        if self.precision != self.training.precision:
            self.observer.log(
                f"this device has no {self.training.precision} arithmetic: computing in "
                f"{self.precision}, the curve will agree to about 1%"
            )
        if newest is None:
            self.validate()
            self.save()
        else:
            self.state = self.restore(newest)
            self.observer.log(f"resuming from step {self.state.step:,} of {self.training.steps:,}")

    def open_batches(self) -> Prefetcher:
        """Batches from the present step on.

        After a backtrack in another order, as the same batches would bring the same spike.
        """
        seed = self.training.seed + self.state.backtracks
        steps = self.data.batches(self.training.batch_size, self.block_size, seed, self.group)
        self.observer.on_start(self.state.step)
        return Prefetcher(steps, self.device)

    # The parts of a step

    def set_learning_rate(self) -> float:
        """Sets the learning rate of the next step, and returns it."""
        factor = rate_factor(self.state.step + 1, self.training.steps, self.config.schedule)
        rate = self.config.optimizer.learning_rate * self.state.rate_scale * factor
        optimizer.set_learning_rate(self.optimizer, rate)
        return rate

    def compute_gradient(self, batch: Batch) -> Gradient:
        """Adds the gradient of this process's part of the batch to the parameters."""
        # Dropout, too, is a function of the step
        torch.manual_seed(self.training.seed + self.state.step + (self.group.rank << 32))
        return step.accumulate_gradients(
            self.objective, batch, self.micro_batch, self.precision, self.scaler, self.balance
        )

    def clip_gradient(self) -> torch.Tensor:
        """Clips the gradient and returns its norm before that, ()."""
        limit = self.config.optimizer.grad_clip
        return step.clip(self.model, self.optimizer, self.scaler, limit)

    def reduce(self, gradient: Gradient, norm: torch.Tensor, stop: bool) -> StepStats:
        """Adds up the figures of a step over the processes, in one transfer from the device."""
        asked = torch.tensor(float(stop), dtype=torch.float64, device=norm.device)
        head = torch.stack([gradient.loss.double(), asked])
        own = torch.cat([head, gradient.bin_losses, gradient.bin_counts])
        # The norm is that of the mean gradient, so it is the same in each process
        values = torch.cat([self.group.all_reduce(own), norm.double()[None]]).cpu()
        bins = (len(values) - 3) // 2
        return StepStats(
            loss=float(values[0]) / self.group.size,
            norm=float(values[-1]),
            stop=float(values[1]) > 0,
            bin_losses=values[2 : 2 + bins],
            bin_counts=values[2 + bins : -1],
        )

    def has_failed(self, stats: StepStats) -> bool:
        """Whether the step must not be applied: a loss spike, or a gradient that is not finite and
        that no lower loss scale can make finite.
        """
        if is_spike(stats.loss, self.state.losses, self.config.spikes):
            return True
        # The scaler skips a step that overflowed, and lowers the scale
        can_rescale = self.scaler.is_enabled() and self.scaler.get_scale() >= LEAST_LOSS_SCALE
        return not (math.isfinite(stats.norm) or can_rescale)

    def apply_gradient(self, stats: StepStats) -> None:
        """Updates the weights."""
        step.update(self.optimizer, self.scaler)
        # Only in fp16; otherwise the step has failed
        if not math.isfinite(stats.norm):
            number, scale = self.state.step + 1, self.scaler.get_scale()
            self.observer.log(
                f"step {number:,} is skipped, as its gradient overflowed: loss scale {scale:g}"
            )
        if self.balance is not None:
            self.balance.update(stats.bin_losses, stats.bin_counts)

    def record(self, stats: StepStats, rate: float) -> None:
        """Counts the step, logs it and validates when it is time."""
        state, training = self.state, self.training
        state.step += 1
        longest = max(self.config.spikes.window, training.log_every)
        state.losses = [*state.losses, stats.loss][-longest:]
        if state.step % training.log_every == 0:
            recent = state.losses[-training.log_every :]
            self.curves.training.add(state.step, sum(recent) / len(recent), rate, stats.norm)
        if state.step % training.validate_every == 0 and state.step < training.steps:
            self.validate()
            self.observer.on_validation(state.step)
        self.observer.on_step(Progress(state.step, stats.loss, rate, stats.norm))

    # What happens between steps

    def validate(self) -> Result:
        """The loss on held-out tokens, as a row of the curve and a report."""
        windows = self.data.held_out(
            self.micro_batch, self.block_size, self.training.validation_tokens
        )
        own = (pair for i, pair in enumerate(windows) if i % self.group.size == self.group.rank)
        with self.observer.pause(), autocast(self.device, self.precision):
            sums, counts = sum_losses(self.model, own)
            totals = torch.stack([sums.sum(), counts.sum()]).to(self.device)
            total, number = self.group.all_reduce(totals).tolist()
        state = self.state
        self.curves.validation.add(state.step, total / number)
        recent = state.losses[-self.config.spikes.window :]
        result = Result(
            steps=state.step,
            tokens=state.step * self.training.batch_size * self.block_size,
            train_loss=sum(recent) / len(recent) if recent else None,
            validation_loss=total / number,
            backtracks=state.backtracks,
        )
        if self.group.is_main:
            self.report(result)
        return result

    def backtrack(self, stats: StepStats, rate: float) -> None:
        """Returns to the last stable state and continues with a lower learning rate.

        What the failed run has learnt about itself survives the reload, or the next backtrack would
        lower nothing.

        Raises:
            TrainingDiverged: there were too many backtracks, or there is no stable state.
        """
        state, spikes = self.state, self.config.spikes
        back_to = self.group.broadcast(
            lambda: self.checkpoints.newest_stable(state.step, spikes.window, state.went_back_to)
        )
        if state.backtracks == spikes.max_backtracks or back_to is None:
            self.observer.on_end("diverged")
            raise TrainingDiverged(
                f"training diverged: loss {stats.loss:.4g} at step {state.step + 1} after "
                f"{state.backtracks} backtracks, learning rate {rate:.3g}; lower "
                f"optimizer.learning_rate ({self.config.optimizer.learning_rate}) or lengthen "
                "schedule.warmup_steps"
            )
        slower = state.rate_scale * spikes.rate_factor
        self.curves.backtracks.add(state.step + 1, stats.loss, back_to, slower)
        history = self.curves.backtracks.snapshot()
        self.observer.log(
            f"loss spike {stats.loss:.3f} at step {state.step + 1}: back to step {back_to}, "
            f"learning rate x {slower:g}"
        )
        self.optimizer.zero_grad(set_to_none=True)
        stable = self.restore(back_to)
        self.curves.backtracks.restore(history)
        # All processes have read the states that the main one now deletes
        self.group.barrier()
        if self.group.is_main:
            self.checkpoints.drop_after(back_to)
        self.state = replace(
            stable, rate_scale=slower, backtracks=state.backtracks + 1, went_back_to=back_to
        )
        self.save()
        self.group.barrier()

    def pause(self) -> None:
        """Ends a run whose state is saved, by InterruptedError."""
        self.observer.on_end("paused")
        self.group.barrier()
        raise InterruptedError(
            f"paused at step {self.state.step} of {self.training.steps}, nothing is lost: "
            "run again to resume"
        )

    def save(self) -> None:
        """Saves the whole state of the run; only the main process writes."""
        if not self.group.is_main:
            return
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "balance": None if self.balance is None else self.balance.averages,
            "state": asdict(self.state),
            "curves": self.curves.snapshot(),
        }
        self.checkpoints.save(self.state.step, parts)

    def save_and_rotate(self) -> None:
        """Saves, then deletes the states that are no longer needed."""
        with self.observer.pause():
            self.save()
            if self.group.is_main:
                state, window = self.state, self.config.spikes.window
                self.checkpoints.rotate(state.step, window, state.went_back_to)

    def restore(self, saved_step: int) -> State:
        """Loads a saved state into weights, optimizer, scaler and curves; returns its State."""
        parts = self.checkpoints.load(saved_step)
        self.model.load_state_dict(parts["model"])
        # The values of the groups are those of the configuration, also after `antimatter resume`
        # with a fix of the optimizer; only the averages of the gradients are state
        built = [{**group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(parts["optimizer"])
        for group, values in zip(self.optimizer.param_groups, built, strict=True):
            group.update(values)
        # A new scaler: after a spike the old one still records that this step's gradient was
        # unscaled, and load_state_dict() does not reset that
        self.scaler = self.new_scaler()
        # A device that computes in another precision saved none
        if parts["scaler"]:
            self.scaler.load_state_dict(parts["scaler"])
        if self.balance is not None:
            self.balance.averages = parts["balance"].clone()
        self.curves.restore(parts["curves"])
        return State(**parts["state"])

    def native_precision(self) -> Precision:
        """The precision in which this device computes. Tests override it to emulate another."""
        return numerics.native_precision(self.device, self.training.precision)

    def new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
