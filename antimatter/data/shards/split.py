"""Which documents are for validation.

A hash of its text makes a document a candidate. A candidate that resembles a document of the
training split is trained on instead, so neither copies nor near copies are in both splits.
"""

import math
from collections.abc import Sequence

import numpy as np
import xxhash

from antimatter.data.shards.config import ShardsConfig

# Adjacent bytes of a sketch that look-alikes must share to be compared. In a sketch of 120 bytes
# this finds similarity 0.5 with 86%, 0.6 with 98%, 0.7 with 99.97%
BAND = 4


def is_candidate(text: str, config: ShardsConfig) -> bool:
    """Whether a document is for validation, if none in train resembles it. Equal texts are always
    in the same split.
    """
    return place(text, config) < config.validation_fraction * 2**64


def place(text: str, config: ShardsConfig) -> int:
    """The place of a document in the order by which validation is drawn, in [0, 2^64)."""
    return xxhash.xxh3_64_intdigest(text, config.seed)


def candidates(places: Sequence[np.ndarray], config: ShardsConfig) -> list[np.ndarray]:
    """Which documents are candidates for validation, as is_candidate(); of each file, (N,) bool.

    With few documents the share may fall to none, or to all. Then the first one in the order is for
    validation, or the last one for training, so that two documents are enough.

    Args:
        places: of each file, (N,) uint64.
    """
    limit = np.uint64(math.ceil(config.validation_fraction * 2**64))
    every = np.concatenate(places)
    first, last = every.min(), every.max()
    if first >= limit:
        limit = first + np.uint64(1)
    elif last < limit:
        limit = last
    return [place < limit for place in places]


def withdraw_look_alikes(
    sketches: Sequence[np.ndarray], candidates: Sequence[np.ndarray], max_similarity: float
) -> None:
    """Withdraws, in place, every candidate that resembles a document outside of validation, until
    there are none.

    Two sketches agree in a share s + (1 - s) / 256 of their bytes, s the Jaccard similarity.
    Candidates are compared with the documents of one file at a time: memory holds the sketches of
    the candidates and of one file.

    Args:
        sketches: of each file, (N, S) uint8: a byte of each MinHash value.
        candidates: of each file, (N,) bool.
    """
    # To compare with: all of train at first, then what was withdrawn in the last round
    others = [~candidate for candidate in candidates]
    while any(other.any() for other in others):
        chosen = np.concatenate([s[c] for s, c in zip(sketches, candidates, strict=True)])
        alike = np.zeros(len(chosen), bool)
        for sketch, other in zip(sketches, others, strict=True):
            alike |= resembles(chosen, sketch[other], max_similarity)
        start = 0
        for candidate, other in zip(candidates, others, strict=True):
            rows = np.flatnonzero(candidate)
            withdrawn = rows[alike[start : start + len(rows)]]
            start += len(rows)
            candidate[withdrawn] = False
            other[:] = False
            other[withdrawn] = True


def resembles(sketches: np.ndarray, others: np.ndarray, max_similarity: float) -> np.ndarray:
    """Which sketches, (C, S), resemble one of the others, (N, S): (C,) bool."""
    alike = np.zeros(len(sketches), bool)
    for start in range(0, sketches.shape[1] - BAND + 1, BAND):
        ours, theirs = (
            np.ascontiguousarray(s[:, start : start + BAND]).view(np.uint32)[:, 0]
            for s in (sketches, others)
        )
        order = np.argsort(ours)
        left, right = (np.searchsorted(ours[order], theirs, side) for side in ("left", "right"))
        for j in np.flatnonzero(left < right):
            same = order[left[j] : right[j]]
            agreement = (sketches[same] == others[j]).mean(1)
            alike[same] |= agreement > max_similarity + (1 - max_similarity) / 256
    return alike
