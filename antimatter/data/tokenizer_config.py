"""What params.yaml says of the tokenizer.

Apart from the code that it steers, so that values are checked without importing what learns it.
"""

from dataclasses import dataclass

from antimatter.data.special_tokens import SPECIAL
from antimatter.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    vocab_size: int  # with the six special tokens and the 256 bytes
    # Megabytes of text to learn from, evenly from the whole corpus: memory grows with the distinct
    # words in it
    train_mb: float

    def __post_init__(self) -> None:
        if self.vocab_size < len(SPECIAL) + 256:
            raise UserError(
                f"vocab_size must be at least {len(SPECIAL) + 256} ({len(SPECIAL)} special tokens and 256 bytes), got {self.vocab_size}"
            )
        if self.train_mb <= 0:
            raise UserError(f"train_mb must exceed 0, got {self.train_mb}")


@dataclass(frozen=True, kw_only=True)
class TokenizerRuntime:
    workers: int  # threads

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"workers must be at least 1, got {self.workers}")
