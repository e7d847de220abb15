"""What a training reads: documents one after the other, or conversations packed in rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from antimatter.data.batches import (
    Batch,
    Batches,
    BatchSource,
    Emphasis,
    RowBatches,
    sequential_batches,
    sequential_rows,
)
from antimatter.training.distributed import ProcessGroup

# Tokens of the validation split that a sample continues
PROMPT = 16


@dataclass(frozen=True)
class TextData:
    """Documents as one stream of tokens, cut into windows."""

    # Token arrays, as Shards.split() gives them
    train: Sequence[np.ndarray]
    validation: Sequence[np.ndarray]
    # Of each token in train, (V,)
    counts: np.ndarray
    # Token ids to text, for samples
    decode: Callable[[Sequence[int]], str]
    # The token that ends a sample; -1: none
    end: int = field(default=-1, kw_only=True)

    def batches(self, size: int, block_size: int, seed: int, group: ProcessGroup) -> BatchSource:
        """The batches of this process, by step."""
        return Batches(
            self.train,
            batch_size=size,
            block_size=block_size,
            seed=seed,
            rank=group.rank,
            world=group.size,
        )

    def held_out(self, size: int, block_size: int, tokens: int) -> Iterator[Batch]:
        """About `tokens` tokens to validate on, in batches of `size` windows."""
        order = {"batch_size": size, "block_size": block_size, "tokens": tokens}
        return sequential_batches(self.validation, **order)

    def prompt(self, block_size: int) -> list[int]:
        """The token ids that a sample continues."""
        return self.validation[0][:PROMPT].astype(int).tolist()[: block_size - 1]


@dataclass(frozen=True)
class ConversationData(TextData):
    """Conversations packed in rows, with masks of the tokens to learn."""

    train: np.ndarray  # type: ignore[assignment]  # (R, T + 1)
    validation: np.ndarray  # type: ignore[assignment]
    train_marks: np.ndarray
    validation_marks: np.ndarray
    # Token ids of a question that a sample answers
    question: list[int]
    emphasis: Emphasis

    def batches(self, size: int, block_size: int, seed: int, group: ProcessGroup) -> BatchSource:
        return RowBatches(
            self.train,
            self.train_marks,
            batch_size=size,
            seed=seed,
            emphasis=self.emphasis,
            rank=group.rank,
            world=group.size,
        )

    def held_out(self, size: int, block_size: int, tokens: int) -> Iterator[Batch]:
        rows = slice(max(1, tokens // block_size))
        return sequential_rows(self.validation[rows], self.validation_marks[rows], batch_size=size)

    def prompt(self, block_size: int) -> list[int]:
        return self.question[: block_size - 1]
