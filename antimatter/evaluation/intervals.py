"""95% intervals: of a share, of a mean, and of a ratio of sums."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

Numbers = Sequence[float] | np.ndarray

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 1_000
SEED = 0xB007
HALVINGS = 50


def share(right: int, n: int) -> dict[str, float]:
    """What metrics say of a share of which `right` of `n` were seen."""
    low, high = of_share(right, n)
    return {"share": right / n, "low": low, "high": high, "items": n}


def of_share(right: int, n: int) -> tuple[float, float]:
    """The exact interval (Clopper and Pearson 1934): that of cloze.interval(), in a time that does
    not grow with the square of n.
    """
    low, high = 0.0, 1.0
    if right:
        low = _share_with(right, n, TAIL)
    if right < n:
        high = _share_with(right + 1, n, 1 - TAIL)
    return low, high


def of_ratio(numerators: Numbers, denominators: Numbers) -> tuple[float, float]:
    """Of one sum over another, both over the same items: the percentile bootstrap over the items
    (Efron 1979) with a fixed seed.
    """
    n = len(numerators)
    drawn = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    ratios = np.asarray(numerators)[drawn].sum(1) / np.asarray(denominators)[drawn].sum(1)
    low, high = np.quantile(ratios, (TAIL, 1 - TAIL))
    return float(low), float(high)


def of_mean(values: Numbers) -> tuple[float, float]:
    return of_ratio(values, np.ones(len(values)))


def _share_with(least: int, n: int, probability: float) -> float:
    """The share of which `least` or more of n are seen with this probability, by halving."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_small = _at_least(least, n, middle) < probability
        low, high = (middle, high) if too_small else (low, middle)
    return low


def _at_least(least: int, n: int, probability: float) -> float:
    """How likely `least` or more of n are, each of which has this probability."""
    seen = np.arange(least, n + 1)
    chances = seen * math.log(probability) + (n - seen) * math.log1p(-probability)
    return float(np.exp(_log_choose(n)[least:] + chances).sum())


@cache
def _log_choose(n: int) -> np.ndarray:
    """The logarithms of n over 0, n over 1, ..., n over n: (n + 1,)."""
    factorials = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    return factorials[n] - factorials - factorials[::-1]
