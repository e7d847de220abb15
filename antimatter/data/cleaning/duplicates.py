"""Exact and near duplicates: the signature of a document, and its first occurrence in a corpus."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from rensa import RMinHash

from antimatter.data.cleaning.config import NearDuplicatesConfig


def exact_hash(words: Sequence[str]) -> int:
    """Equal for texts that differ in white space alone, and also in case if the words are given in
    lower case.
    """
    return xxhash.xxh3_64_intdigest(" ".join(words))


def signature(words: Sequence[str], config: NearDuplicatesConfig) -> np.ndarray:
    """MinHash values of the word n-grams, (bands * rows,) uint32. The share of equal values of two
    texts estimates their Jaccard similarity.
    """
    starts = range(max(1, len(words) - config.ngram + 1))
    minhash = RMinHash(num_perm=config.bands * config.rows, seed=config.seed)
    minhash.update([" ".join(words[start : start + config.ngram]) for start in starts])
    return np.array(minhash.digest(), np.uint32)


def bands(signature: np.ndarray, config: NearDuplicatesConfig) -> list[int]:
    """A hash of each band of a signature: near duplicates share at least one."""
    return [
        xxhash.xxh3_64_intdigest(signature[i : i + config.rows].tobytes())
        for i in range(0, len(signature), config.rows)
    ]


def first_occurrence(files: Sequence[Path]) -> np.ndarray:
    """For each document the number of the first one that has the same hash in some row, or -1;
    (N,) int64.

    That one may itself be dropped as a duplicate of a still earlier one, so the first document of a
    chain of slightly changed copies is kept.

    Args:
        files: .npy, each (rows, documents) uint64; the documents are counted through all files. One
            row is in memory at a time: 8 bytes a document, and three times that to sort it.
    """
    opened = [np.load(path, mmap_mode="r") for path in files]
    duplicate_of = np.full(sum(hashes.shape[1] for hashes in opened), -1, np.int64)
    for row in range(len(opened[0])):
        column = np.concatenate([hashes[row] for hashes in opened])
        # Stable, so equal hashes keep the order of the documents
        order = np.argsort(column, kind="stable")
        column = column[order]
        first = np.flatnonzero(np.concatenate(([True], column[1:] != column[:-1])))
        sizes = np.diff(first, append=len(column))
        groups = sizes > 1
        first, sizes = first[groups], sizes[groups]
        later = np.repeat(first, sizes - 1) + 1 + _within(sizes - 1)
        documents, originals = order[later], np.repeat(order[first], sizes - 1)
        unknown = duplicate_of[documents] < 0
        duplicate_of[documents] = np.where(unknown, originals, duplicate_of[documents])
    return duplicate_of


def _within(sizes: np.ndarray) -> np.ndarray:
    """0 ... size - 1 for each size, concatenated."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
