"""The sections `evaluation` and `answers` of params.yaml, and the keys that their parts read.

In a module without other imports, so that values are checked without importing torch.
"""

from dataclasses import dataclass
from typing import Literal

from antimatter.errors import UserError
from antimatter.model import devices
from antimatter.model.config import Sampling
from antimatter.params import LARGEST, PositiveInt, Section


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(Section):
    # Tokens from one sliding window to the next; at most the context of the model
    stride: PositiveInt
    texts: tuple[str, ...]  # files, folders and glob patterns of texts to score besides validation
    text_column: str  # of JSON and parquet among them


@dataclass(frozen=True, kw_only=True)
class CoherenceConfig(Sampling):
    seeds: tuple[int, ...]  # of the draws: one continuation of each prompt for each

    def validate(self) -> None:
        super().validate()
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or min(self.seeds) < 0
            or max(self.seeds) > LARGEST
        ):
            raise UserError(
                f"seeds must be different whole numbers from 0 to {LARGEST}, at least one, "
                f"got {list(self.seeds)}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(PerplexityConfig, CoherenceConfig):
    """All of the section `evaluation`."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRuntime(Section):
    device: Literal["auto", "cpu", "cuda"]

    def validate(self) -> None:
        if self.device == "cuda" and not devices.has_gpu():
            raise UserError("device is cuda, but torch sees no GPU here: set it to auto or cpu")

    def device_type(self) -> str:
        if self.device == "auto":
            return "cuda" if devices.has_gpu() else "cpu"
        return self.device


@dataclass(frozen=True, kw_only=True)
class AnswersConfig(CoherenceConfig):
    """Sampled answers follow these values, one for each seed; all others are greedy."""

    items: PositiveInt  # conversations of each kind, and of each part of the persona, at most
    choices: PositiveInt  # next turns of each kind of conversation, at most
    system: str  # text before each conversation without a system text; empty: none
