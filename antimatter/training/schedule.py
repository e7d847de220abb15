"""The learning rate as a function of the step: linear warm-up, then decay along a cosine
(Loshchilov & Hutter 2017) or a straight line.
"""

import math
from dataclasses import dataclass
from typing import Literal

from antimatter.params import Count, Fraction, Section


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Section):
    warmup_steps: Count
    final_fraction: Fraction  # of the peak rate, at the last step
    decay: Literal["cosine", "linear"]


def rate_factor(step: int, steps: int, config: ScheduleConfig) -> float:
    """The share of the peak rate at a step, in [0, 1].

    Args:
        step: counts from 1, so that the first step already learns.
        steps: length of the run; the factor is `final_fraction` at step == steps.
    """
    if step <= config.warmup_steps:
        return step / config.warmup_steps
    progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
    left = 1 - progress if config.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_fraction + (1 - config.final_fraction) * left
