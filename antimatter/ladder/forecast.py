"""What a law says about another run: its loss in every unit, with its interval, its hours and its price."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from antimatter import params
from antimatter.errors import UserError
from antimatter.ladder.configs import Base
from antimatter.ladder.scaling import Interval, Law
from antimatter.model.flops import flops_per_token, matmul_weights, peak_flops
from antimatter.planning import plan
from antimatter.planning.gpus import Card
from antimatter.training.config import OptimizerConfig

# Text per token of a vocabulary that is not the ladder's own. 50,257: measured on 285 MB of C4 and
# RefinedWeb (docs/log.md).
BYTES_PER_TOKEN = {50257: 4.47}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A run that nobody has made yet."""

    name: str
    plan: plan.Plan
    bytes_per_token: float
    rate: float

    @property
    def weights(self) -> int:
        return matmul_weights(self.plan.model)

    @property
    def data(self) -> float:
        """Bytes of text."""
        return self.plan.tokens * self.bytes_per_token

    @property
    def batch_tokens(self) -> int:
        return self.plan.training.batch_size * self.plan.model.block_size

    @property
    def flops(self) -> float:
        return float(self.plan.tokens) * flops_per_token(self.plan.model)


@dataclass(frozen=True)
class Forecast:
    nats_per_byte: Interval

    def bits_per_byte(self) -> Interval:
        return self.nats_per_byte.times(1 / math.log(2))

    def loss(self, bytes_per_token: float) -> Interval:
        """Nats per token."""
        return self.nats_per_byte.times(bytes_per_token)

    def perplexity(self, bytes_per_token: float) -> Interval:
        loss = self.loss(bytes_per_token)
        return Interval(math.exp(loss.median), math.exp(loss.low), math.exp(loss.high))


def read(path: Path, base: Base, devices: int, mfu: float) -> Target:
    """ValueError or FileNotFoundError, in one line: a file that cannot be planned, or a vocabulary with an unknown number of bytes in a token."""
    planned = plan.read(path, devices, mfu)
    size = planned.model.vocab_size
    own = base.bytes_per_token if size == base.model.vocab_size else BYTES_PER_TOKEN.get(size)
    if own is None:
        raise UserError(
            f"{path}: nobody knows the bytes in a token of its vocabulary of {size:,}: make its shards, and run the ladder on them"
        )
    return Target(
        name=path.stem,
        plan=planned,
        bytes_per_token=own,
        rate=params.read(OptimizerConfig, "optimizer", path).learning_rate,
    )


def forecast(law: Law, target: Target) -> Forecast:
    return Forecast(law.predict(target.weights, target.data))


def hours(flops: float, cards: Sequence[Card], mfu: float) -> list[tuple[Card, float]]:
    """Hours on one of each card."""
    peaks = [(card, peak_flops(card.device)) for card in cards]
    return [(card, flops / (peak * mfu) / 3600) for card, peak in peaks if peak]
