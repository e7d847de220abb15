"""What the runs of a ladder tell: the scaling law, its check on the largest rung, and the forecast
of a large run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from antimatter import params
from antimatter.data.sources.config import RawConfig
from antimatter.errors import UserError
from antimatter.ladder.configs import Base, RunConfig
from antimatter.ladder.runner import Result
from antimatter.ladder.scaling import LEAST, Interval, Law, fit, worth
from antimatter.model.flops import flops_per_token, matmul_weights
from antimatter.planning import plan
from antimatter.planning.reads import BYTES_PER_TOKEN, KEPT
from antimatter.training.config import OptimizerConfig

LN2 = math.log(2)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The run to forecast."""

    name: str
    plan: plan.Plan
    bytes_per_token: float
    learning_rate: float
    unique_bytes: float | None  # of text without repetition; None: unknown, so all of it is new

    @property
    def weights(self) -> int:
        return matmul_weights(self.plan.model)

    @property
    def data_bytes(self) -> float:
        """The text that it reads, in new text of the same worth."""
        read = self.plan.tokens * self.bytes_per_token
        return read if self.unique_bytes is None else worth(read, self.unique_bytes)

    @property
    def passes(self) -> float | None:
        """How often it reads its text."""
        if self.unique_bytes is None:
            return None
        return self.plan.tokens * self.bytes_per_token / self.unique_bytes

    @property
    def batch_tokens(self) -> int:
        return self.plan.training.batch_size * self.plan.model.block_size

    @property
    def flops(self) -> float:
        return float(self.plan.tokens) * flops_per_token(self.plan.model)


@dataclass(frozen=True)
class Forecast:
    """The loss of the target, in each unit."""

    nats_per_byte: Interval
    bytes_per_token: float

    @property
    def bits_per_byte(self) -> Interval:
        return self.nats_per_byte.times(1 / LN2)

    @property
    def loss(self) -> Interval:
        """Nats per token."""
        return self.nats_per_byte.times(self.bytes_per_token)

    @property
    def perplexity(self) -> Interval:
        loss = self.loss
        return Interval(math.exp(loss.median), math.exp(loss.low), math.exp(loss.high))


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The results of all runs, and the fit."""

    base: Base
    results: Sequence[Result]  # of every kind
    law: Law
    check: Interval  # the largest rung as predicted from the others, nats per byte
    target: Target
    forecast: Forecast

    @property
    def rungs(self) -> list[Result]:
        """The results that the law was fitted to."""
        return [result for result in self.results if result.run.kind == "rung"]

    @property
    def largest(self) -> Result:
        """The rung that the check predicts from the others."""
        return max(self.rungs, key=lambda result: result.run.flops)

    @property
    def noise(self) -> float:
        """Standard deviation of a run's loss around the law, nats per token."""
        return Interval.of(self.law.sigma).median * self.bytes_per_token

    @property
    def bytes_per_token(self) -> float:
        """Of the validation split. Converts nats per byte to nats per token."""
        result = self.results[0]
        return result.loss / (result.bits_per_byte * LN2)

    def fitted(self, run: RunConfig) -> float:
        """The law's loss of a run, nats per token."""
        expected = self.law.expected(run.weights, data_bytes(self.base, run))
        return expected.median * self.bytes_per_token


def read_target(path: Path, base: Base, devices: int, mfu: float | None) -> Target:
    """Reads the parameters of the run to forecast.

    Raises:
        UserError: a file that cannot be planned, or a vocabulary whose bytes per token are unknown.
    """
    planned = plan.read(path, devices, mfu)
    size = planned.model.vocab_size
    if size == base.model.vocab_size:
        bytes_per_token = base.bytes_per_token
    elif size in BYTES_PER_TOKEN:
        bytes_per_token = BYTES_PER_TOKEN[size]
    else:
        raise UserError(
            f"{path}: bytes per token is unknown for its vocabulary of {size:,}: make its shards,"
            " and run the ladder on them"
        )
    raw = params.read(RawConfig, "raw", path)
    return Target(
        name=path.stem,
        plan=planned,
        bytes_per_token=bytes_per_token,
        learning_rate=params.read(OptimizerConfig, "optimizer", path).learning_rate,
        unique_bytes=raw.hub.total_mb * 1e6 * KEPT if raw.source == "hub" else None,
    )


def fit_ladder(base: Base, results: Sequence[Result], target: Target) -> Ladder:
    """Fits the law to the rungs, and again without the largest for the check.

    Raises:
        UserError: there are too few rungs.
    """
    rungs = sorted(
        (result for result in results if result.run.kind == "rung"),
        key=lambda result: result.run.flops,
    )
    if len(rungs) <= LEAST:
        raise UserError(
            f"{len(rungs)} rungs have run, and a law with a check needs {LEAST + 1} or more:"
            " `antimatter ladder` runs the others"
        )
    law = _law(base, rungs)
    top = rungs[-1].run
    check = _law(base, rungs[:-1]).predict(top.weights, data_bytes(base, top))
    prediction = law.predict(target.weights, target.data_bytes)
    return Ladder(
        base=base,
        results=results,
        law=law,
        check=check,
        target=target,
        forecast=Forecast(prediction, target.bytes_per_token),
    )


def _law(base: Base, rungs: Sequence[Result]) -> Law:
    return fit(
        [result.run.weights for result in rungs],
        [data_bytes(base, result.run) for result in rungs],
        [result.bits_per_byte * LN2 for result in rungs],
    )


def data_bytes(base: Base, run: RunConfig) -> float:
    """D. The law counts text and not tokens, so that it holds for any vocabulary."""
    return run.tokens * base.bytes_per_token
