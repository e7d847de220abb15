"""Which tokens a step sees: a pure function of the seed, the step and the rank, so that a resumed run meets the same batches."""

# B batch, T time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


class Batches:
    """Windows of `block_size` + 1 tokens in a random order, each once an epoch.

    The global batch is a run of `batch_size` windows in that order and the ranks take equal slices of it, so the number of devices changes
    nothing. Each epoch cuts the windows at another phase: the model does not meet the same text at the same positions again.
    """

    def __init__(self, files: Sequence[np.ndarray], *, batch_size: int, block_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        """
        Args:
            files: token arrays, usually memory-mapped; windows never straddle two of them.
            batch_size: windows in the global batch.

        Raises:
            ValueError: the files hold less than one window, or the ranks cannot share the batch equally.
        """
        if batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the {world} devices, got {batch_size}")
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
            raise ValueError(f"block_size must be smaller than half the tokens at hand ({sum(map(len, files))}), got {block_size}")

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step for this rank, both (B, T) int64 with B = batch_size / world. Steps count from 0."""
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


class Ahead:
    """Reads the next batch while the device computes: windows that are not in memory yet may take a disk longer than a step."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """As Batches.at(), on the device."""
        if self._next is None or self._next[0] != step:
            self._next = (step, self._reader.submit(self._read, step))
        inputs, targets = self._next[1].result()
        self._next = (step + 1, self._reader.submit(self._read, step + 1))
        return inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batches.at(step)
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the computation
            torch.cuda.set_device(self.device)  # each thread has its own, and begins with GPU 0
            return inputs.pin_memory(), targets.pin_memory()
        return inputs, targets


def in_order(files: Sequence[np.ndarray], *, batch_size: int, block_size: int, tokens: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The files from their start, for evaluation: inputs and targets, (B, T) int64; every token but each file's first is a target once.

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
            rows = np.stack([file[i * block_size : (i + 1) * block_size + 1] for i in range(first, first + count)])
            left -= count * block_size
            yield _shifted(rows)
        if rest and left > 0:
            left -= rest
            yield _shifted(file[np.newaxis, whole * block_size :])


def _shifted(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    tokens = torch.from_numpy(rows.astype(np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
