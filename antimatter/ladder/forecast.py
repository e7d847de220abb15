"""The forecast of any run by the ladder that is committed in ladder/, without its shards."""

import csv
from dataclasses import dataclass
from pathlib import Path

from antimatter.errors import UserError
from antimatter.ladder.fit import LN2, Forecast
from antimatter.ladder.scaling import Law, fit, worth
from antimatter.model.flops import matmul_weights
from antimatter.planning.plan import Plan
from antimatter.planning.reads import BYTES_PER_TOKEN

RUNGS = "rungs.csv"


@dataclass(frozen=True)
class Forecaster:
    """The law through the rungs of a ladder."""

    law: Law
    vocab_size: int  # of the rungs
    bytes_per_token: float  # of their text

    def of(self, plan: Plan, unique_bytes: float | None) -> Forecast | None:
        """None if the bytes per token of its vocabulary are unknown.

        Args:
            unique_bytes: of text without repetition; None takes all of it for new.
        """
        size = plan.model.vocab_size
        known = BYTES_PER_TOKEN | {self.vocab_size: self.bytes_per_token}
        if size not in known:
            return None
        read = plan.tokens * known[size]
        data = read if unique_bytes is None else worth(read, unique_bytes)
        return Forecast(self.law.predict(matmul_weights(plan.model), data), known[size])


def read(folder: Path) -> Forecaster | None:
    """Fits the law to folder/rungs.csv again; None if there is no such file.

    ladder.json has intervals of each number of the law, but a forecast needs the laws themselves.

    Raises:
        UserError: the file is damaged, or has too few rungs.
    """
    path = folder / RUNGS
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "rung"]
        weights, tokens, losses, bits = (
            [float(row[name]) for row in rows]
            for name in ("weights", "tokens", "loss", "bits_per_byte")
        )
        shape = [int(rows[0][name]) for name in ("layers", "width", "weights")]
    except (KeyError, ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
        fix = f"restore it by `git checkout {path}`"
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {fix}") from None
    # Of validation, which is all that the file tells; the ladder itself counts those of train
    bytes_per_token = losses[0] / (bits[0] * LN2)
    layers, width, first = shape
    law = fit(weights, [number * bytes_per_token for number in tokens], [bit * LN2 for bit in bits])
    vocab_size = (first - 12 * layers * width**2) // width
    return Forecaster(law, vocab_size, bytes_per_token)
