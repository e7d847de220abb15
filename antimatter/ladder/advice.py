"""What the neighbours of the smallest rungs say about the learning rate and the batch. They say little, and where they say nothing this says so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from antimatter.ladder.configs import RATE_BY_BATCH
from antimatter.ladder.forecast import Target
from antimatter.ladder.runner import Result
from antimatter.ladder.scaling import Array, Interval

DRAWS = 4_000
# Share of the draws without a lowest point at which the data are said to tell nothing
UNSURE = 0.05
SIGNAL = 2 * 2**0.5  # of the noise of a run: two standard deviations of a difference
# Batches further apart than this are beyond the square-root rule, which ends at the critical batch
# (McCandlish et al. 2018)
NEAR = 16.0


@dataclass(frozen=True, eq=False)
class BestRate:
    """The lowest point of the parabola through the losses of three rates, in log2(rate)."""

    width: int
    tried: tuple[float, ...]
    losses: tuple[float, ...]  # nats per token
    # Of the best rate, (S,), as far as the noise of a run leaves it open; None where the data
    # cannot tell
    draws: Array | None

    @property
    def rate(self) -> Interval | None:
        return None if self.draws is None else Interval.of(self.draws)


def best_rates(results: Sequence[Result], noise: float, seed: int = 3) -> list[BestRate]:
    """One for each width that has three rates over the same steps, the narrowest first.

    Args:
        noise: standard deviation of a run's loss, nats per token.
    """
    found, random = [], np.random.default_rng(seed)
    rungs = sorted(
        (result for result in results if result.rung.kind == "rung"),
        key=lambda result: result.rung.weights,
    )
    for middle in rungs:
        same = (middle.rung.model, middle.rung.steps)
        others = [
            result
            for result in results
            if result.rung.kind == "rate" and (result.rung.model, result.rung.steps) == same
        ]
        if len(others) != 2:
            continue
        three = sorted([middle, *others], key=lambda result: result.rung.learning_rate)
        rates, losses = (
            [result.rung.learning_rate for result in three],
            [result.loss for result in three],
        )
        x, y = np.log2(rates), np.array(losses) + noise * random.standard_normal((DRAWS, 3))
        slopes = np.diff(y, axis=1) / np.diff(x)
        bend = (slopes[:, 1] - slopes[:, 0]) / (x[2] - x[0])
        lowest = (x[0] + x[1]) / 2 - slopes[:, 0] / (2 * np.where(bend > 0, bend, 1.0))
        # Further out it is no more than a guess
        sure = (bend > 0) & (lowest > x[0] - 1) & (lowest < x[2] + 1)
        draws = 2 ** lowest[sure] if sure.mean() >= 1 - UNSURE else None
        found.append(BestRate(middle.rung.model.n_embd, tuple(rates), tuple(losses), draws))
    return found


def by_width(rates: Sequence[BestRate]) -> tuple[Array, Array] | None:
    """The power law rate = factor x width^-exponent through the narrowest and the widest: draws of factor and exponent, or None."""
    known = [(rate.width, rate.draws) for rate in rates if rate.draws is not None]
    if len(known) < 2:
        return None
    (narrow, low), (wide, high) = known[0], known[-1]
    size = min(len(low), len(high))
    exponent = np.log(low[:size] / high[:size]) / math.log(wide / narrow)
    return low[:size] * narrow**exponent, exponent


def lines(results: Sequence[Result], noise: float, target: Target) -> list[str]:
    """For people, and for the run that is to be forecast."""
    rates = best_rates(results, noise)
    found = []
    for one in rates:
        tried = ", ".join(
            f"{rate:.3g}: {loss:.3f}" for rate, loss in zip(one.tried, one.losses, strict=True)
        )
        best = (
            "the lowest point cannot be told"
            if one.rate is None
            else f"best {one.rate.text('.2g')}"
        )
        found.append(f"rate        {one.width} wide, loss at {tried}; {best}")
    if (law := by_width(rates)) is not None:
        found += _advice(
            law,
            max(one.width for one in rates),
            results[0].rung.batch_size * results[0].rung.model.block_size,
            target,
        )
    elif rates:
        found.append("            so there is no advice on the rate")
    return found + _batches(results, noise)


def _advice(law: tuple[Array, Array], widest: int, batch_tokens: int, target: Target) -> list[str]:
    factor, exponent = law
    width, ratio = target.plan.model.n_embd, target.batch_tokens / batch_tokens
    there, power, further = (
        Interval.of(factor * width**-exponent),
        Interval.of(exponent).text(),
        width / widest,
    )
    found = [
        f"            so rate ~ width^-x with x {power}: {there.text('.2g')} at {width:,} wide, {further:.1f} x the widest rung"
    ]
    if 1 / NEAR <= ratio <= NEAR:
        root = there.times(ratio**RATE_BY_BATCH).text(".2g")
        found.append(
            f"            for its batch, {ratio:.3g} x as large, {root} by the square-root rule; {target.name} has {target.rate:.2g}"
        )
    else:
        beyond = f"Those of {target.name} are {ratio:,.0f} x as large: the ladder cannot judge its {target.rate:.2g}"
        found.append(f"            for batches of {batch_tokens:,} tokens. {beyond}")
    return found


def _batches(results: Sequence[Result], noise: float) -> list[str]:
    tried = [result for result in results if result.rung.kind == "batch"]
    if not tried:
        return []
    same = (tried[0].rung.model, tried[0].rung.tokens)
    middle = [
        result
        for result in results
        if result.rung.kind == "rung" and (result.rung.model, result.rung.tokens) == same
    ]
    row = sorted([*tried, *middle], key=lambda result: result.rung.batch_size)
    losses = ", ".join(
        f"{result.rung.batch_size * result.rung.model.block_size:,}: {result.loss:.3f}"
        for result in row
    )
    costs = [after.loss - before.loss for before, after in pairwise(row)]
    words = ", then ".join(
        f"{cost:+.3f}" + (" (no more than noise)" if abs(cost) < SIGNAL * noise else "")
        for cost in costs
    )
    return [
        f"batch       {same[0].n_embd} wide, loss by tokens a step: {losses}",
        f"            a doubling, over the same text, costs {words}",
    ]
