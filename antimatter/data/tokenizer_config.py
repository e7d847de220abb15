"""The configuration of the tokenizer.

Separate from the code that uses it, so that values are checked without importing `tokenizers`.
"""

from dataclasses import dataclass

from antimatter.data.special_tokens import SPECIAL
from antimatter.errors import UserError
from antimatter.params import Positive, PositiveInt, Section


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Section):
    # A tokenizer.json of this pipeline or its folder, to use instead of learning one; empty: learn
    initial: str
    vocab_size: int  # including the six special tokens and the 256 bytes
    # Megabytes of text to learn from, evenly from the whole corpus. Memory grows with its distinct
    # words
    train_mb: Positive

    def validate(self) -> None:
        least = len(SPECIAL) + 256
        if self.vocab_size < least:
            raise UserError(
                f"vocab_size must be at least {least} ({len(SPECIAL)} special tokens and 256 "
                f"bytes), got {self.vocab_size}"
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerRuntime(Section):
    workers: PositiveInt  # threads
