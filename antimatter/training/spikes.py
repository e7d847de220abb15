"""When training has gone wrong: a loss far above the recent losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from antimatter.params import Count, PositiveInt, Section, Within


@dataclass(frozen=True, kw_only=True)
class SpikeConfig(Section):
    # A loss is a spike if it exceeds this multiple of the 90th percentile of the recent losses
    factor: Annotated[float, Within("(1, inf)")]
    # Steps that are recent; also the healthy steps after which a saved state counts as stable
    window: PositiveInt
    # The learning rate is multiplied by this at each backtrack
    rate_factor: Annotated[float, Within("(0, 1]")]
    max_backtracks: Count


def is_spike(loss: float, history: Sequence[float], config: SpikeConfig) -> bool:
    """Whether a loss is a spike, given the losses before it.

    It is compared with the 90th percentile of the window, not with the average. For batches of text
    the two are nearly the same. The losses of batches of answers differ tenfold: near the end of a
    tuning, ten times the average is a healthy batch. Without a full window only NaN and infinity
    are spikes, because the first losses fall fast.
    """
    if not math.isfinite(loss):
        return True
    recent = history[-config.window :]
    if len(recent) < config.window:
        return False
    return loss > config.factor * sorted(recent)[len(recent) * 9 // 10]
