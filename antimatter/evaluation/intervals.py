"""95% intervals: of a share, of a mean, and of a ratio of sums."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

Numbers = Sequence[float] | np.ndarray

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 1_000
# Fixed, so that equal figures have equal intervals
SEED = 0xB007
# More bits than the 6 digits that metrics keep
HALVINGS = 50


def share(right: int, n: int) -> dict[str, float]:
    """The figures for a share of `right` out of `n`: the share itself and its interval."""
    low, high = of_share(right, n)
    return {"share": right / n, "low": low, "high": high, "items": n}


def of_share(right: int, n: int) -> tuple[float, float]:
    """The interval of a share of `right` out of `n` (Clopper and Pearson 1934): exact, so it is
    never too narrow.
    """
    low, high = 0.0, 1.0
    if right:
        low = _share_with(right, n, TAIL)
    if right < n:
        high = _share_with(right + 1, n, 1 - TAIL)
    return low, high


def of_ratio(numerators: Numbers, denominators: Numbers) -> tuple[float, float]:
    """The interval of one sum over another, both over the same items: the percentile bootstrap over
    the items (Efron 1979) with a fixed seed.
    """
    n = len(numerators)
    drawn = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    ratios = np.asarray(numerators)[drawn].sum(1) / np.asarray(denominators)[drawn].sum(1)
    low, high = np.quantile(ratios, (TAIL, 1 - TAIL))
    return float(low), float(high)


def of_mean(values: Numbers) -> tuple[float, float]:
    return of_ratio(values, np.ones(len(values)))


def _share_with(least: int, n: int, probability: float) -> float:
    """The share with which `least` or more of n occur with this probability, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_small = _at_least(least, n, middle) < probability
        low, high = (middle, high) if too_small else (low, middle)
    return low


def _at_least(least: int, n: int, probability: float) -> float:
    """The probability of `least` or more of n events, each with this probability."""
    # In logarithms: n over n / 2 exceeds the largest float from n = 1,030 on
    counts = np.arange(least, n + 1)
    chances = counts * math.log(probability) + (n - counts) * math.log1p(-probability)
    return float(np.exp(_log_choose(n)[least:] + chances).sum())


@cache
def _log_choose(n: int) -> np.ndarray:
    """The logarithms of n over 0, n over 1, ..., n over n: (n + 1,)."""
    factorials = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    return factorials[n] - factorials - factorials[::-1]
