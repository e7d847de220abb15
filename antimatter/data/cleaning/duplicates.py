"""Documents that repeat others: signatures, and which documents to drop for an earlier one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from rensa import RMinHash

from antimatter.data.cleaning.config import NearDuplicatesConfig


def exact_hash(words: Sequence[str]) -> int:
    """Equal for texts that differ in white space alone; give it lower-case words and case does not count either."""
    return xxhash.xxh3_64_intdigest(" ".join(words))


def signature(words: Sequence[str], config: NearDuplicatesConfig) -> np.ndarray:
    """MinHash values of the word n-grams, (bands * rows,) uint32: two texts agree in a share of them that estimates their Jaccard similarity."""
    minhash = RMinHash(num_perm=config.bands * config.rows, seed=config.seed)
    minhash.update(
        [
            " ".join(words[i : i + config.ngram])
            for i in range(max(1, len(words) - config.ngram + 1))
        ]
    )
    return np.array(minhash.digest(), np.uint32)


def bands(signature: np.ndarray, config: NearDuplicatesConfig) -> list[int]:
    """A hash of each band of a signature: near duplicates share at least one."""
    return [
        xxhash.xxh3_64_intdigest(signature[i : i + config.rows].tobytes())
        for i in range(0, len(signature), config.rows)
    ]


def earlier(files: Sequence[Path]) -> np.ndarray:
    """For each document the number of an earlier one with the same hash in some row, or -1; (N,) int64.

    The earlier one may itself be dropped for a still earlier one, so that of a chain of ever so slightly changed copies the first stays.

    Args:
        files: .npy, each (rows, documents) uint64, the documents counted through all of them. One row is in memory at a time: 8 bytes a document,
            and three times that to sort it.
    """
    opened = [np.load(path, mmap_mode="r") for path in files]
    found = np.full(sum(hashes.shape[1] for hashes in opened), -1, np.int64)
    for row in range(len(opened[0])):
        column = np.concatenate([hashes[row] for hashes in opened])
        # Equal hashes stand in the order of the documents
        order = np.argsort(column, kind="stable")
        column = column[order]
        first = np.flatnonzero(np.concatenate(([True], column[1:] != column[:-1])))
        sizes = np.diff(first, append=len(column))
        groups = sizes > 1
        first, sizes = first[groups], sizes[groups]
        repeats = np.repeat(first, sizes - 1) + 1 + _within(sizes - 1)
        documents, originals = order[repeats], np.repeat(order[first], sizes - 1)
        found[documents] = np.where(found[documents] < 0, originals, found[documents])
    return found


def _within(sizes: np.ndarray) -> np.ndarray:
    """0 ... size - 1 for each size, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
