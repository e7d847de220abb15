"""The sections of params.yaml about a training.

In a module of their own, so that values are checked without importing torch.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from antimatter.errors import UserError
from antimatter.model import config as model
from antimatter.model import devices
from antimatter.model.config import LossConfig
from antimatter.params import (
    BelowOne,
    Count,
    NonNegative,
    Positive,
    PositiveInt,
    Section,
    Within,
)
from antimatter.pipeline import portable
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig

Precision = Literal["fp32", "bf16", "fp16"]
# The values of options that an earlier training did not have, by section: what it computed with
EARLIER_VALUES: dict[str, dict[str, Any]] = {
    "model": model.EARLIER_VALUES,
    "optimizer": {"kind": "adamw", "embedding_rate": 1.0, "momentum": 0.95},
    "checkpoints": {"initial": "", "portable": False},
}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    kind: Literal["adamw", "muon"]  # muon: of the matrices in the layers; adamw: of all else
    learning_rate: Positive  # the peak of the schedule
    embedding_rate: Positive  # of the token embedding, as a multiple of the others'
    beta1: BelowOne
    beta2: BelowOne
    momentum: BelowOne  # of Muon
    epsilon: Positive
    weight_decay: NonNegative
    grad_clip: Positive  # largest global norm of the gradient


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    # A checkpoint folder, or a folder for transformers, to start from; empty: random weights
    initial: str
    steps: PositiveInt
    batch_size: PositiveInt  # sequences in a step, over all devices and micro-batches
    precision: Precision  # of the matrix products; weights and their sums are float32
    portable: bool  # the same bytes on every x86-64 processor with AVX2 (pipeline/portable.py)
    compile: bool  # torch.compile: fuses operations, so it changes the rounding
    # On a CPU; sums are split by it, so it changes the rounding
    threads: Annotated[int, Within("[1, 1024]")]
    seed: Count  # of the order of the data and of dropout
    validate_every: PositiveInt  # steps
    validation_tokens: PositiveInt  # from the start of the validation split
    log_every: PositiveInt  # steps in a row of plots/checkpoints/training.csv
    save_every: PositiveInt  # steps between two saved states

    def validate(self) -> None:
        if self.portable and (self.precision != "fp32" or self.compile):
            raise UserError(
                "portable needs precision fp32 without compile, as half precision and compiled "
                f"code differ by processor; got precision {self.precision}, compile {self.compile}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainRuntime(Section):
    """How to run, not what to compute.

    Results agree to float tolerance whatever the values are, so a change does not retrain.
    """

    device: Literal["auto", "cpu", "cuda"]
    # Processes that share the batch, one per device; 0 is all GPUs, or one process on a CPU
    devices: Count
    micro_batch: PositiveInt  # sequences in one forward pass: lower it when memory is short
    keep_states: PositiveInt  # newest saved states to keep, besides the last stable one

    def validate(self) -> None:
        if self.device == "cuda" and not devices.has_gpu():
            raise UserError("device is cuda, but torch sees no GPU here: set it to auto or cpu")

    def device_type(self) -> str:
        """`cuda` or `cpu`."""
        if self.device == "auto":
            return "cuda" if devices.has_gpu() else "cpu"
        return self.device


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """All that a training is configured by."""

    training: TrainConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    spikes: SpikeConfig
    runtime: TrainRuntime

    def __post_init__(self) -> None:
        if self.training.portable:
            portable.check(self.runtime.device_type())
        steps, warmup = self.training.steps, self.schedule.warmup_steps
        if warmup >= steps:
            raise UserError(
                f"schedule.warmup_steps must be below checkpoints.steps ({steps}), got {warmup}"
            )

    def micro_batch(self, size: int, section: str = "checkpoints") -> int:
        """Sequences in one forward pass of one of `size` devices; `section` is for errors."""
        return share(self.training.batch_size, size, self.runtime.micro_batch, section)


def share(batch_size: int, size: int, largest: int, section: str) -> int:
    """The micro-batch of one of `size` devices, which share a batch.

    Args:
        largest: runtime.micro_batch.
        section: of params.yaml that has the batch size.

    Raises:
        UserError: the batch cannot be shared.
    """
    if batch_size % size:
        raise UserError(
            f"{section}.batch_size must be a multiple of the {size} devices, got {batch_size}: "
            "make runtime.nodes x runtime.devices a divisor of it"
        )
    own = batch_size // size
    micro = min(largest, own)
    if own % micro:
        raise UserError(
            f"runtime.micro_batch must divide the {own} sequences of {section}.batch_size that a "
            f"device has in a step, got {micro}"
        )
    return micro


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Section):
    # A checkpoint folder, or a folder for transformers, to start from; empty: models/checkpoints
    initial: str
    learning_rate: Positive  # its peak, as a share of the peak of the pretraining
    warmup_fraction: BelowOne  # of the steps; then the rate falls linearly to zero
    weight_decay: NonNegative
    # As spikes.factor; batches of answers differ more than those of text
    spike_factor: Annotated[float, Within("(1, inf)")]
    first_tokens: Count  # of each answer: they decide which answer it is
    first_weight: Positive  # their weight in the loss; that of the others is 1
    epochs: Positive  # how often each conversation is read
    batch_size: PositiveInt  # rows of a context in a step
    seed: Count  # of the order of the rows
    validate_every: PositiveInt  # steps
    save_every: PositiveInt  # steps between two saved states
