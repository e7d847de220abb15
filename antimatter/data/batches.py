"""Batches of tokens: a pure function of the seed, the step and the rank, so a resumed run reads the
same ones.

Shapes: B batch, T time, R rows.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from antimatter.data.special_tokens import BEGINS, BOS, COUNTS
from antimatter.errors import UserError


class Batch(NamedTuple):
    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64
    # (B, T) float32: the weight of each target in the mean loss; None is 1
    weights: Tensor | None = None
    # (B, T, 2) int64, as GPT.hidden() takes them; None if each row is one text
    segments: Tensor | None = None


class Emphasis(NamedTuple):
    """A larger weight for the first targets of an answer, which decide which answer it is."""

    tokens: int  # of each answer
    weight: float  # of each of them; the others have weight 1


NO_EMPHASIS = Emphasis(0, 1.0)


class BatchSource(Protocol):
    """The batch of any step."""

    def at(self, step: int) -> Batch: ...


class Batches:
    """Windows of `block_size` + 1 tokens in a random order, each once an epoch.

    The global batch is the next `batch_size` windows in that order. The ranks take equal slices of
    it, so the number of devices changes nothing. Each epoch cuts the windows at another phase, so
    the model does not see the same text at the same positions again.
    """

    def __init__(
        self,
        files: Sequence[np.ndarray],
        *,
        batch_size: int,
        block_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """
        Args:
            files: token arrays, usually memory-mapped; no window spans two of them.
            batch_size: windows in the global batch.

        Raises:
            UserError: the files hold less than one window, or the ranks cannot share a batch
                equally.
        """
        _check_share(batch_size, world)
        self.files = files
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        # Two, because a batch may span two epochs
        self._epoch = lru_cache(maxsize=2)(self._cut_epoch)
        # Every phase gives the same number of windows, at the cost of less than a window a file
        self._counts = [max(0, (len(file) - block_size) // block_size) for file in files]
        self.windows = sum(self._counts)
        if not self.windows:
            raise UserError(
                f"block_size must be smaller than half the number of tokens "
                f"({sum(map(len, files))}), got {block_size}"
            )

    def at(self, step: int) -> Batch:
        """The batch of a step for this rank, B = batch_size / world. Steps count from 0."""
        share = self.batch_size // self.world
        first = step * self.batch_size + self.rank * share
        rows = np.stack([self._window(index) for index in range(first, first + share)])
        return _shifted(rows)

    def _window(self, index: int) -> np.ndarray:
        epoch, position = divmod(index, self.windows)
        phase, order = self._epoch(epoch)
        window = int(order[position])
        for file, count in zip(self.files, self._counts, strict=True):
            if window < count:
                start = phase + window * self.block_size
                return file[start : start + self.block_size + 1]
            window -= count
        raise AssertionError(f"window {index} is beyond the last file")

    def _cut_epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        return int(random.integers(self.block_size)), random.permutation(self.windows)


class RowBatches:
    """Rows of packed conversations in a random order, each once an epoch. Targets without the mark
    COUNTS have weight 0.

    The weights average to 1 over the global batch, so the mean of weight times loss is the weighted
    mean over the marked targets, however ranks and micro-batches divide them.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        marks: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        emphasis: Emphasis = NO_EMPHASIS,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """
        Args:
            tokens: (R, T + 1), usually memory-mapped.
            marks: (R, T + 1), the bits COUNTS and BEGINS of each token.
            batch_size: rows in the global batch.

        Raises:
            UserError: there are no rows, or the ranks cannot share a batch equally.
        """
        _check_share(batch_size, world)
        if not len(tokens):
            raise UserError("there is no conversation to learn from")
        self.tokens, self.marks, self.batch_size, self.seed = tokens, marks, batch_size, seed
        self.emphasis, self.rank, self.world = emphasis, rank, world
        # Two, because a batch may span two epochs
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def at(self, step: int) -> Batch:
        """Like Batches.at()."""
        first = step * self.batch_size
        rows = np.array([self._row(index) for index in range(first, first + self.batch_size)])
        weights = _weights(self.marks[rows], self.emphasis)
        share = self.batch_size // self.world
        own = slice(self.rank * share, (self.rank + 1) * share)
        scaled = weights[own] * (weights.size / max(float(weights.sum()), 1.0))
        return _packed(self.tokens[rows[own]], self.marks[rows[own]], scaled)

    def _row(self, index: int) -> int:
        epoch, position = divmod(index, len(self.tokens))
        return int(self._order(epoch)[position])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.tokens))


class Prefetcher:
    """Reads the next batch while the device computes: reading windows that are not in memory yet
    may take a disk longer than a step.
    """

    def __init__(self, batches: BatchSource, device: torch.device) -> None:
        self.batches, self.device = batches, device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def at(self, step: int) -> Batch:
        """Like Batches.at(), on the device."""
        if self._next is None or self._next[0] != step:
            self._next = (step, self._reader.submit(self._read, step))
        batch = self._next[1].result()
        self._next = (step + 1, self._reader.submit(self._read, step + 1))
        return _each(batch, lambda part: part.to(self.device, non_blocking=True))

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> Batch:
        batch = self.batches.at(step)
        if self.device.type != "cuda":
            return batch
        # The current device belongs to a thread, and is GPU 0 in a new one
        torch.cuda.set_device(self.device)
        # A copy from pinned memory overlaps with the computation
        return _each(batch, Tensor.pin_memory)


def sequential_batches(
    files: Sequence[np.ndarray], *, batch_size: int, block_size: int, tokens: int | None = None
) -> Iterator[Batch]:
    """The files from their start, for evaluation. Every token but the first of each file is a
    target once.

    The last windows of a file, which may be fewer or shorter, form separate batches.

    Args:
        tokens: stop after about that many targets, rounded up to whole windows; None is all.
    """
    remaining = sum(map(len, files)) if tokens is None else tokens
    for file in files:
        whole, rest = divmod(len(file) - 1, block_size)
        for first in range(0, whole, batch_size):
            count = min(batch_size, whole - first, -(-remaining // block_size))
            if count <= 0:
                return
            starts = range(first * block_size, (first + count) * block_size, block_size)
            remaining -= count * block_size
            yield _shifted(np.stack([file[start : start + block_size + 1] for start in starts]))
        if rest and remaining > 0:
            remaining -= rest
            yield _shifted(file[np.newaxis, whole * block_size :])


def sequential_rows(tokens: np.ndarray, marks: np.ndarray, *, batch_size: int) -> Iterator[Batch]:
    """All rows, for validation. A target has weight 1 where it is marked as COUNTS, else 0."""
    for first in range(0, len(tokens), batch_size):
        rows = slice(first, first + batch_size)
        yield _packed(tokens[rows], marks[rows], _weights(marks[rows], NO_EMPHASIS))


def _check_share(batch_size: int, world: int) -> None:
    if batch_size % world:
        raise UserError(f"batch_size must be a multiple of the {world} devices, got {batch_size}")


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return Batch(*(None if part is None else change(part) for part in batch))  # type: ignore[arg-type]


def _weights(marks: np.ndarray, emphasis: Emphasis) -> np.ndarray:
    """The weight of each target, (B, T + 1) -> (B, T)."""
    counts = marks[:, 1:] & COUNTS > 0
    number = counts.cumsum(1)
    # Adjacent targets that count are an answer; `position` is 1 for its first token
    before = np.maximum.accumulate(np.where(counts, 0, number), 1)
    position = number - before
    first = counts & (position <= emphasis.tokens)
    return np.where(first, emphasis.weight, counts).astype(np.float32)


def _packed(rows: np.ndarray, marks: np.ndarray, weights: np.ndarray) -> Batch:
    inputs, targets, *_ = _shifted(rows)
    opens, begins = inputs == BOS, torch.from_numpy(marks[:, :-1] & BEGINS > 0)
    text = (opens | begins).cumsum(1)
    opening = torch.where(opens, text, 0).cummax(1).values
    return Batch(inputs, targets, torch.from_numpy(weights), torch.stack([text, opening], -1))


def _shifted(rows: np.ndarray) -> Batch:
    tokens = torch.from_numpy(rows.astype(np.int64))
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
