"""What the runs of a ladder come to: the law, its check on the largest rung, and the forecast of a run that nobody has made yet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from antimatter.errors import UserError
from antimatter.ladder.configs import Base, Rung
from antimatter.ladder.forecast import Forecast, Target, forecast
from antimatter.ladder.runner import Result
from antimatter.ladder.scaling import LEAST, Interval, Law, fit

LN2 = math.log(2)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """All that has come out."""

    base: Base
    results: Sequence[Result]  # of every kind
    law: Law
    check: Interval  # the largest rung as the others predict it, nats per byte
    target: Target
    forecast: Forecast

    @property
    def rungs(self) -> list[Result]:
        """Those that the law was fitted to."""
        return [result for result in self.results if result.rung.kind == "rung"]

    @property
    def held_out(self) -> Result:
        return max(self.rungs, key=lambda result: result.rung.flops)

    @property
    def noise(self) -> float:
        """Of a run around the law, nats per token."""
        return Interval.of(self.law.sigma).median * self.ratio

    @property
    def ratio(self) -> float:
        """Bytes per token of the validation split: nats per token are so many nats per byte."""
        result = self.results[0]
        return result.loss / (result.bits_per_byte * LN2)

    def fitted(self, rung: Rung) -> float:
        """The law's loss for a rung, nats per token."""
        return self.law.expected(rung.weights, data_bytes(self.base, rung)).median * self.ratio


def assess(base: Base, results: Sequence[Result], target: Target) -> Ladder:
    """ValueError: too few rungs for a law, or for one without the largest."""
    rungs = sorted(
        (result for result in results if result.rung.kind == "rung"),
        key=lambda result: result.rung.flops,
    )

    def law(of: Sequence[Result]) -> Law:
        return fit(
            [r.rung.weights for r in of],
            [data_bytes(base, r.rung) for r in of],
            [r.bits_per_byte * LN2 for r in of],
        )

    if len(rungs) <= LEAST:
        raise UserError(
            f"{len(rungs)} rungs have run, and a law with a check needs {LEAST + 1} or more: `antimatter ladder` runs the others"
        )
    whole = law(rungs)
    top = rungs[-1].rung
    check = law(rungs[:-1]).predict(top.weights, data_bytes(base, top))
    return Ladder(
        base=base,
        results=results,
        law=whole,
        check=check,
        target=target,
        forecast=forecast(whole, target),
    )


def data_bytes(base: Base, rung: Rung) -> float:
    """D: text counts, not the tokens that a tokenizer happens to make of it, so that laws and forecasts pass from one vocabulary to another."""
    return rung.tokens * base.bytes_per_token
