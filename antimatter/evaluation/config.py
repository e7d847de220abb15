"""What params.yaml says of the evaluation: what its parts read of it, and all of it in one.

Apart from the code that it steers, so that values are checked without importing torch.
"""

from dataclasses import dataclass
from typing import Literal

from antimatter.errors import UserError
from antimatter.model import devices
from antimatter.model.config import Sampling


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig:
    # Tokens from one sliding window to the next; the context of a model that has a shorter one
    stride: int
    texts: tuple[str, ...]  # files, folders and glob patterns of texts to score besides validation
    text_column: str  # of JSON and parquet among them

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserError(f"stride must be at least 1, got {self.stride}")


@dataclass(frozen=True, kw_only=True)
class CoherenceConfig(Sampling):
    seeds: tuple[int, ...]  # of the draws: one continuation of each prompt for each

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(
                f"seeds must be different whole numbers from 0, at least one, got {list(self.seeds)}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(PerplexityConfig, CoherenceConfig):
    def __post_init__(self) -> None:
        PerplexityConfig.__post_init__(self)
        CoherenceConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationRuntime:
    device: Literal["auto", "cpu", "cuda"]

    def __post_init__(self) -> None:
        if self.device == "cuda" and not devices.has_gpu():
            raise UserError("device is cuda, but torch sees no GPU here: set it to auto or cpu")

    def device_type(self) -> str:
        return (
            "cuda"
            if self.device == "cuda" or (self.device == "auto" and devices.has_gpu())
            else "cpu"
        )


@dataclass(frozen=True, kw_only=True)
class AnswersConfig(CoherenceConfig):
    """What is sampled follows these values and has one answer for each seed; all else is greedy."""

    items: int  # conversations of each kind, and of each part of the persona, at most
    choices: int  # next turns of each kind of conversation, at most
    system: str  # text before each conversation that has none of its own; empty: none

    def __post_init__(self) -> None:
        CoherenceConfig.__post_init__(self)
        for name in ("items", "choices"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
