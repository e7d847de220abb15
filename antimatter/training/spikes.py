"""When training has gone wrong: a loss far above its recent average."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from antimatter.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SpikeConfig:
    factor: float  # a loss above factor x what nine of ten recent losses stay below is a spike
    # Steps that are recent; also the healthy steps after which a checkpoint counts as stable
    window: int
    rate_factor: float  # the learning rate is multiplied by this at each backtrack
    max_backtracks: int

    def __post_init__(self) -> None:
        if self.factor <= 1:
            raise UserError(f"factor must exceed 1, got {self.factor}")
        if self.window < 1:
            raise UserError(f"window must be at least 1, got {self.window}")
        if not 0 < self.rate_factor <= 1:
            raise UserError(f"rate_factor must lie in (0, 1], got {self.rate_factor}")
        if self.max_backtracks < 0:
            raise UserError(f"max_backtracks must not be negative, got {self.max_backtracks}")


def is_spike(loss: float, history: Sequence[float], config: SpikeConfig) -> bool:
    """Whether a loss is a spike, given the losses before it.

    It is held against the 90th percentile of the window and not the average. The losses of batches
    of text are so alike that the two are nearly the same. Those of batches of answers differ
    tenfold: near the end of a tuning, ten times the average is a healthy batch. Without a full
    window only NaN and infinity are spikes: the first losses fall fast.
    """
    if not math.isfinite(loss):
        return True
    recent = history[-config.window :]
    if len(recent) < config.window:
        return False
    return loss > config.factor * sorted(recent)[len(recent) * 9 // 10]
