"""What the neighbours of the shortest rungs say about the learning rate and the batch size. Where
the runs are inconclusive, it says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from antimatter.ladder.configs import RATE_BY_BATCH
from antimatter.ladder.fit import Target
from antimatter.ladder.runner import Result
from antimatter.ladder.scaling import Array, Interval

DRAWS = 4_000
# With a larger share of draws without a minimum the runs are inconclusive
UNSURE = 0.05
SIGNAL = 2 * 2**0.5  # times the noise of a run: two standard deviations of a difference
# The square-root rule ends at the critical batch (McCandlish et al. 2018): it is not applied to
# batches further apart than this factor
NEAR = 16.0


@dataclass(frozen=True, eq=False)
class BestRate:
    """The minimum of the parabola through the losses of three rates, in log2(rate)."""

    width: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]  # nats per token
    # Of the best rate, (S,), given the noise of a run; None if the runs are inconclusive
    draws: Array | None

    @property
    def interval(self) -> Interval | None:
        return None if self.draws is None else Interval.of(self.draws)


def best_rates(results: Sequence[Result], noise: float, seed: int = 3) -> list[BestRate]:
    """One for each width that has three rates over the same steps, the narrowest first.

    Args:
        noise: standard deviation of a run's loss, nats per token.
    """
    random = np.random.default_rng(seed)
    rungs = sorted(
        (result for result in results if result.run.kind == "rung"),
        key=lambda result: result.run.weights,
    )
    best = []
    for middle in rungs:
        others = [
            result
            for result in results
            if result.run.kind == "rate"
            and (result.run.model, result.run.steps) == (middle.run.model, middle.run.steps)
        ]
        if len(others) != 2:
            continue
        three = sorted([middle, *others], key=lambda result: result.run.learning_rate)
        rates = tuple(result.run.learning_rate for result in three)
        losses = tuple(result.loss for result in three)
        x = np.log2(rates)
        y = np.array(losses) + noise * random.standard_normal((DRAWS, 3))
        slopes = np.diff(y, axis=1) / np.diff(x)
        bend = (slopes[:, 1] - slopes[:, 0]) / (x[2] - x[0])
        minimum = (x[0] + x[1]) / 2 - slopes[:, 0] / (2 * np.where(bend > 0, bend, 1.0))
        # Further outside the three rates it is only a guess
        sure = (bend > 0) & (minimum > x[0] - 1) & (minimum < x[2] + 1)
        draws = 2 ** minimum[sure] if sure.mean() >= 1 - UNSURE else None
        best.append(BestRate(middle.run.model.n_embd, rates, losses, draws))
    return best


def by_width(best: Sequence[BestRate]) -> tuple[Array, Array] | None:
    """The power law rate = factor x width^-exponent through the narrowest and the widest. Returns
    draws of factor and exponent, or None if fewer than two rates are known.
    """
    known = [(rate.width, rate.draws) for rate in best if rate.draws is not None]
    if len(known) < 2:
        return None
    (narrow, low), (wide, high) = known[0], known[-1]
    size = min(len(low), len(high))
    exponent = np.log(low[:size] / high[:size]) / math.log(wide / narrow)
    return low[:size] * narrow**exponent, exponent


def lines(results: Sequence[Result], noise: float, target: Target) -> list[str]:
    """The part of the report on rate and batch, for the run to forecast."""
    best = best_rates(results, noise)
    report = []
    for rate in best:
        pairs = zip(rate.rates, rate.losses, strict=True)
        tried = ", ".join(f"{value:.3g}: {loss:.3f}" for value, loss in pairs)
        minimum = "inconclusive"
        if rate.interval is not None:
            minimum = f"best {rate.interval.text('.2g')}"
        report.append(f"rate        {rate.width} wide, loss at {tried}; {minimum}")
    law = by_width(best)
    if law is not None:
        widest = max(rate.width for rate in best)
        run = results[0].run
        report += _rate_of_target(law, widest, run.batch_size * run.model.block_size, target)
    elif best:
        report.append("            so there is no advice on the rate")
    return report + _batches(results, noise)


def _rate_of_target(
    law: tuple[Array, Array], widest: int, batch_tokens: int, target: Target
) -> list[str]:
    factor, exponent = law
    width, ratio = target.plan.model.n_embd, target.batch_tokens / batch_tokens
    rate = Interval.of(factor * width**-exponent)
    report = [
        f"            so rate ~ width^-x with x {Interval.of(exponent).text()}:"
        f" {rate.text('.2g')} at {width:,} wide, {width / widest:.1f} x the widest rung"
    ]
    if 1 / NEAR <= ratio <= NEAR:
        scaled = rate.times(ratio**RATE_BY_BATCH).text(".2g")
        report.append(
            f"            for its batch, {ratio:.3g} x as large, {scaled} by the square-root rule;"
            f" {target.name} has {target.learning_rate:.2g}"
        )
    else:
        report.append(
            f"            for batches of {batch_tokens:,} tokens. Those of {target.name} are"
            f" {ratio:,.0f} x as large: the ladder cannot judge its {target.learning_rate:.2g}"
        )
    return report


def _batches(results: Sequence[Result], noise: float) -> list[str]:
    batches = [result for result in results if result.run.kind == "batch"]
    if not batches:
        return []
    first = batches[0].run
    middle = [
        result
        for result in results
        if result.run.kind == "rung"
        and (result.run.model, result.run.tokens) == (first.model, first.tokens)
    ]
    row = sorted([*batches, *middle], key=lambda result: result.run.batch_size)
    losses = ", ".join(
        f"{result.run.batch_size * result.run.model.block_size:,}: {result.loss:.3f}"
        for result in row
    )
    costs = []
    for before, after in pairwise(row):
        cost = after.loss - before.loss
        noisy = " (no more than noise)" if abs(cost) < SIGNAL * noise else ""
        costs.append(f"{cost:+.3f}{noisy}")
    return [
        f"batch       {first.model.n_embd} wide, loss by tokens a step: {losses}",
        f"            a doubling, over the same text, costs {', then '.join(costs)}",
    ]
