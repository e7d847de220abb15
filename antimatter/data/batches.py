"""Which tokens a step sees: a pure function of the seed, the step and the rank, so that a resumed run meets the same batches."""

# B batch, T time, R rows
from collections.abc import Iterator, Sequence
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
    # (B, T) float32: what each target counts in the mean; None is 1
    counts: Tensor | None = None
    # (B, T, 2) int64, as GPT.hidden() takes them; None: a row is one text
    segments: Tensor | None = None


class Emphasis(NamedTuple):
    """The first targets of an answer decide which answer it is, and may count more than the rest."""

    tokens: int  # how many of each answer
    weight: float  # what each of them counts; the others count 1


ALIKE = Emphasis(0, 1.0)


class Steps(Protocol):
    """What a training reads: the batch of any step."""

    def at(self, step: int) -> Batch: ...


class Batches:
    """Windows of `block_size` + 1 tokens in a random order, each once an epoch.

    The global batch is a run of `batch_size` windows in that order and the ranks take equal slices of it, so the number of devices changes
    nothing. Each epoch cuts the windows at another phase: the model does not meet the same text at the same positions again.
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
            files: token arrays, usually memory-mapped; windows never straddle two of them.
            batch_size: windows in the global batch.

        Raises:
            ValueError: the files hold less than one window, or the ranks cannot share the batch equally.
        """
        if batch_size % world:
            raise UserError(
                f"batch_size must be a multiple of the {world} devices, got {batch_size}"
            )
        self.files = files
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self._epoch = lru_cache(maxsize=2)(self._cut_epoch)  # two: a batch may lie across a border
        # every phase leaves the same number of windows, at the price of less than one window a file
        self._counts = [max(0, (len(file) - block_size) // block_size) for file in files]
        self.windows = sum(self._counts)
        if not self.windows:
            raise UserError(
                f"block_size must be smaller than half the tokens at hand ({sum(map(len, files))}), got {block_size}"
            )

    def at(self, step: int) -> Batch:
        """Of a step for this rank, B = batch_size / world. Steps count from 0."""
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
        raise AssertionError("a window beyond the last file")

    def _cut_epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        return int(random.integers(self.block_size)), random.permutation(self.windows)


class RowBatches:
    """Rows of packed conversations in a random order, each once an epoch; only the targets that the
    marks name count.

    The counts average to 1 over the global batch, so the mean of count times loss is the weighted
    mean over the targets that count, however they are spread over ranks and micro-batches.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        marks: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        emphasis: Emphasis = ALIKE,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """
        Args:
            tokens: (R, T + 1), usually memory-mapped.
            marks: (R, T + 1), of each token, COUNTS and BEGINS or neither.
            batch_size: rows in the global batch.

        Raises:
            ValueError: there are no rows, or the ranks cannot share the batch equally.
        """
        if batch_size % world:
            raise UserError(
                f"batch_size must be a multiple of the {world} devices, got {batch_size}"
            )
        if not len(tokens):
            raise UserError("there is no conversation to learn from")
        self.tokens, self.marks, self.batch_size, self.seed = tokens, marks, batch_size, seed
        self.emphasis, self.rank, self.world = emphasis, rank, world
        # Two: a batch may lie across a border
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def at(self, step: int) -> Batch:
        """As Batches.at()."""
        first = step * self.batch_size
        rows = np.array([self._row(index) for index in range(first, first + self.batch_size)])
        counted = _counted(self.marks[rows], self.emphasis)
        share = self.batch_size // self.world
        own = slice(self.rank * share, (self.rank + 1) * share)
        counts = counted[own] * (counted.size / max(float(counted.sum()), 1.0))
        return _packed(self.tokens[rows[own]], self.marks[rows[own]], counts)

    def _row(self, index: int) -> int:
        epoch, position = divmod(index, len(self.tokens))
        return int(self._order(epoch)[position])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.tokens))


class Ahead:
    """Reads the next batch while the device computes: windows that are not in memory yet may take a disk longer than a step."""

    def __init__(self, batches: Steps, device: torch.device) -> None:
        self.batches, self.device = batches, device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def at(self, step: int) -> Batch:
        """As Batches.at(), on the device."""
        if self._next is None or self._next[0] != step:
            self._next = (step, self._reader.submit(self._read, step))
        batch = self._next[1].result()
        self._next = (step + 1, self._reader.submit(self._read, step + 1))
        return Batch(*(None if part is None else self._moved(part) for part in batch))  # type: ignore[arg-type]

    def _moved(self, part: Tensor) -> Tensor:
        return part.to(self.device, non_blocking=True)

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> Batch:
        batch = self.batches.at(step)
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the computation
            torch.cuda.set_device(self.device)  # each thread has its own, and begins with GPU 0
            return Batch(*(None if part is None else part.pin_memory() for part in batch))  # type: ignore[arg-type]
        return batch


def in_order(
    files: Sequence[np.ndarray], *, batch_size: int, block_size: int, tokens: int | None = None
) -> Iterator[Batch]:
    """The files from their start, for evaluation: every token but each file's first is a target once.

    A file's last windows, which may be fewer or shorter, come as batches of their own.

    Args:
        tokens: stop after about that many targets (to whole windows); None is all of them.
    """
    left = sum(map(len, files)) if tokens is None else tokens
    for file in files:
        whole, rest = divmod(len(file) - 1, block_size)
        for first in range(0, whole, batch_size):
            count = min(batch_size, whole - first, -(-left // block_size))
            if count <= 0:
                return
            rows = np.stack(
                [
                    file[i * block_size : (i + 1) * block_size + 1]
                    for i in range(first, first + count)
                ]
            )
            left -= count * block_size
            yield _shifted(rows)
        if rest and left > 0:
            left -= rest
            yield _shifted(file[np.newaxis, whole * block_size :])


def rows_in_order(tokens: np.ndarray, marks: np.ndarray, *, batch_size: int) -> Iterator[Batch]:
    """All rows, for validation; a target counts 1 where the marks name it, else 0."""
    for first in range(0, len(tokens), batch_size):
        rows = slice(first, first + batch_size)
        yield _packed(tokens[rows], marks[rows], _counted(marks[rows], ALIKE))


def _counted(marks: np.ndarray, emphasis: Emphasis) -> np.ndarray:
    """What each target counts, (B, T + 1) -> (B, T)."""
    counts = marks[:, 1:] & COUNTS > 0
    number = counts.cumsum(1)
    # Those that count one after the other are an answer; `place` is 1 for its first token
    before = np.maximum.accumulate(np.where(counts, 0, number), 1)
    place = number - before
    first = counts & (place <= emphasis.tokens)
    return np.where(first, emphasis.weight, counts).astype(np.float32)


def _packed(rows: np.ndarray, marks: np.ndarray, counts: np.ndarray) -> Batch:
    inputs, targets, *_ = _shifted(rows)
    opens, begins = inputs == BOS, torch.from_numpy(marks[:, :-1] & BEGINS > 0)
    text = (opens | begins).cumsum(1)
    opening = torch.where(opens, text, 0).cummax(1).values
    return Batch(inputs, targets, torch.from_numpy(counts), torch.stack([text, opening], -1))


def _shifted(rows: np.ndarray) -> Batch:
    tokens = torch.from_numpy(rows.astype(np.int64))
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
