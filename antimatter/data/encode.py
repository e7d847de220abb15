"""Cleaned text becomes token shards (their format is shards.py's). A hash of its text sends a document to `train` or `validation`, so equal
documents can never stand on both sides.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from antimatter import files
from antimatter.data.shards import SPLITS, Split
from antimatter.data.tokenizer import BOS, EOS, Tokenizer, texts

MAX_VOCAB = 1 << 16  # ids are uint16


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    tokens_per_file: int
    validation_fraction: float  # of the documents
    seed: int  # of the hash that chooses them

    def __post_init__(self) -> None:
        if self.tokens_per_file < 1:
            raise ValueError(f"tokens_per_file must be at least 1, got {self.tokens_per_file}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class ShardsRuntime:
    workers: int  # threads that encode

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")


def split_of(text: str, config: ShardsConfig) -> Split:
    """Where a document belongs."""
    return "validation" if xxhash.xxh3_64_intdigest(text, config.seed) < config.validation_fraction * 2**64 else "train"


def write(corpus: Path, tokenizer: Tokenizer, folder: Path, config: ShardsConfig, workers: int) -> dict[str, Any]:
    """Encodes the parquet files in `corpus` to shards in `folder`; returns the metrics of each split.

    Raises:
        ValueError: the vocabulary does not fit uint16, a document does not fit a file, or a split is empty.
    """
    if tokenizer.vocab_size > MAX_VOCAB:
        raise ValueError(
            f"shards hold ids below {MAX_VOCAB:,}, the tokenizer has {tokenizer.vocab_size:,}: lower tokenizer.vocab_size in params.yaml"
        )
    folder.mkdir(parents=True)
    writers = {split: _Writer(folder, split, config.tokens_per_file, np.zeros(tokenizer.vocab_size, np.uint64)) for split in SPLITS}
    documents = texts(corpus)
    due = time.monotonic() + 5
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(documents, 4096)):
            for text, ids in zip(batch, pool.map(tokenizer.encode_array, batch), strict=True):
                writers[split_of(text, config)].add(np.concatenate(([BOS], ids, [EOS])).astype(np.uint16), len(text.encode()))
            if time.monotonic() > due:
                print(f"shards: {sum(writer.tokens for writer in writers.values()):,} tokens", file=sys.stderr, flush=True)
                due += 5
    for writer in writers.values():
        writer.flush()
        if not writer.documents:
            n = sum(other.documents for other in writers.values())
            raise ValueError(
                f"shards.validation_fraction = {config.validation_fraction} leaves no {writer.split} document of {n}: change it, or clean more text"
            )
    np.save(folder / "token_counts.npy", writers["train"].counts)
    index = {"vocab_size": tokenizer.vocab_size, "bos": BOS, "eos": EOS, "splits": {split: writer.summary() for split, writer in writers.items()}}
    files.write_json(folder / "index.json", index)
    return {
        split: {"tokens": w.tokens, "documents": w.documents, "bytes": w.bytes, "bytes_per_token": w.bytes / w.tokens} for split, w in writers.items()
    }


@dataclass
class _Writer:
    folder: Path
    split: Split
    tokens_per_file: int
    counts: np.ndarray  # (V,) how often each token occurs
    tokens: int = 0
    documents: int = 0
    bytes: int = 0  # of text
    held: list[np.ndarray] = field(default_factory=list)  # documents of the file at hand
    held_tokens: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)

    def add(self, ids: np.ndarray, size: int) -> None:
        if len(ids) > self.tokens_per_file:
            raise ValueError(f"a document of {len(ids):,} tokens exceeds shards.tokens_per_file = {self.tokens_per_file:,}: raise it in params.yaml")
        if self.held_tokens + len(ids) > self.tokens_per_file:
            self.flush()
        self.held.append(ids)
        self.held_tokens += len(ids)
        self.tokens += len(ids)
        self.documents += 1
        self.bytes += size

    def flush(self) -> None:
        if self.held:
            ids = np.concatenate(self.held)
            self.counts += np.bincount(ids, minlength=len(self.counts)).astype(np.uint64)
            path = self.folder / f"{self.split}-{len(self.files):05d}.npy"
            np.save(path, ids)
            self.files.append({"name": path.name, "tokens": len(ids), "documents": len(self.held), "sha256": files.sha256(path)})
            self.held, self.held_tokens = [], 0

    def summary(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes, "files": self.files}
