"""What params.yaml says of the tokenizer.

Apart from the code that it steers, so that values are checked without importing what learns it.
"""

from dataclasses import dataclass

from antimatter.data.special_tokens import SPECIAL


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    vocab_size: int  # with the six special tokens and the 256 bytes
    train_mb: float  # megabytes of text to learn from, evenly from the whole corpus: memory grows with the distinct words in it

    def __post_init__(self) -> None:
        if self.vocab_size < len(SPECIAL) + 256:
            raise ValueError(f"vocab_size must be at least {len(SPECIAL) + 256} ({len(SPECIAL)} special tokens and 256 bytes), got {self.vocab_size}")
        if self.train_mb <= 0:
            raise ValueError(f"train_mb must exceed 0, got {self.train_mb}")


@dataclass(frozen=True, kw_only=True)
class TokenizerRuntime:
    workers: int  # threads

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
