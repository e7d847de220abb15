"""What params.yaml says of a training.

Apart from the code that it steers, so that values are checked without importing torch.
"""

from dataclasses import dataclass
from typing import Literal

from antimatter.errors import UserError
from antimatter.model import devices
from antimatter.model.config import LossConfig
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    learning_rate: float  # the peak of the schedule
    embedding_rate: float  # of the token embedding, as a multiple of the others'
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    grad_clip: float  # largest global norm of the gradient

    def __post_init__(self) -> None:
        for name in ("learning_rate", "embedding_rate", "epsilon", "grad_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay must not be negative, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int
    batch_size: int  # sequences in a step, over all devices and micro-batches
    precision: Precision  # of the matrix products; weights and their sums stay float32
    compile: bool  # torch.compile: fuses operations, so it changes the rounding
    threads: int  # of a CPU run; the sums are split by it, so it changes the rounding
    seed: int  # of the order of the data and of dropout
    validate_every: int  # steps
    validation_tokens: int  # from the start of the validation split
    log_every: int  # steps in a row of plots/checkpoints/training.csv
    save_every: int  # steps between two saved states

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "threads",
            "validate_every",
            "validation_tokens",
            "log_every",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainRuntime:
    """How to run, not what to compute: here results agree to float tolerance, so a change does not retrain."""

    device: Literal["auto", "cpu", "cuda"]
    # Processes that share the batch, one a device; 0 is all GPUs, or one process on a CPU
    devices: int
    micro_batch: int  # sequences in one forward pass: lower it when memory is short
    keep_states: int  # newest saved states that stay at least; the last stable one stays too

    def __post_init__(self) -> None:
        for name, least in (("devices", 0), ("micro_batch", 1), ("keep_states", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.device == "cuda" and not devices.has_gpu():
            raise UserError("device is cuda, but torch sees no GPU here: set it to auto or cpu")

    def device_type(self) -> str:
        return (
            "cuda"
            if self.device == "cuda" or (self.device == "auto" and devices.has_gpu())
            else "cpu"
        )


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    training: TrainConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    spikes: SpikeConfig
    runtime: TrainRuntime

    def __post_init__(self) -> None:
        if self.schedule.warmup_steps >= self.training.steps:
            raise UserError(
                f"schedule.warmup_steps must be below checkpoints.steps ({self.training.steps}), got {self.schedule.warmup_steps}"
            )

    def micro_batch(self, world: int) -> int:
        """Sequences in one forward pass of one of `world` devices."""
        batch = self.training.batch_size
        if batch % world:
            raise UserError(
                f"checkpoints.batch_size must be a multiple of the {world} devices, got {batch}: set runtime.devices to a divisor of it"
            )
        micro = min(self.runtime.micro_batch, batch // world)
        if (batch // world) % micro:
            raise UserError(
                f"runtime.micro_batch must divide the {batch // world} sequences of a device in a step, got {micro}"
            )
        return micro


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    initial: str  # a checkpoint folder to start from; empty: models/checkpoints
    learning_rate: float  # its peak, as a share of the peak of the pretraining
    warmup_fraction: float  # of the steps; then the rate falls to zero in a straight line
    weight_decay: float
    spike_factor: float  # as spikes.factor; batches of answers differ more than those of text
    first_tokens: int  # of each answer; they decide which answer it is
    first_weight: float  # what they count in the loss; the others count 1
    epochs: float  # how often each conversation is read
    batch_size: int  # rows of a context in a step
    seed: int  # of the order of the rows
    validate_every: int  # steps
    save_every: int  # steps between two saved states

    def __post_init__(self) -> None:
        for name in ("learning_rate", "first_weight", "epochs"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.spike_factor <= 1:
            raise UserError(f"spike_factor must exceed 1, got {self.spike_factor}")
        if not 0 <= self.warmup_fraction < 1:
            raise UserError(f"warmup_fraction must lie in [0, 1), got {self.warmup_fraction}")
        for name in ("weight_decay", "first_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("batch_size", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
