"""Cleaned text becomes token shards (their format is shards.py's), split into train and validation.

A task encodes one cleaned file. A hash of its text makes a document a candidate for validation; a candidate that resembles a document outside of
validation is trained on instead, so that neither copies nor near copies stand on both sides.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import xxhash
from datatrove.data import DocumentsPipeline

from antimatter import files
from antimatter.data.documents import CONVERSATION, SEPARATOR, text_bytes
from antimatter.data.shards.config import MAX_VOCAB, ShardsConfig
from antimatter.data.shards.reader import DOCUMENT, DOCUMENTS, SPLITS, Split
from antimatter.data.special_tokens import ASSISTANT, BOS, EOS, USER, neutralise
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.tasks import executor
from antimatter.tasks.config import EngineRuntime
from antimatter.tasks.executor import Step

# Bytes of a sketch that look-alikes share: similarity 0.5 is found with 86% in 120 bytes, 0.6 with
# 98%, 0.7 with 99.97%
BAND = 4


def is_candidate(text: str, config: ShardsConfig) -> bool:
    """Whether a document is for validation, if none in train resembles it. Equal texts are on one side for this alone."""
    return xxhash.xxh3_64_intdigest(text, config.seed) < config.validation_fraction * 2**64


def write(
    corpus: Path,
    tokenizer: Path,
    work: Path,
    config: ShardsConfig,
    runtime: EngineRuntime,
    made_of: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Encodes the parquet files in `corpus` to shards in work/shards; returns the metrics of each split.

    What a killed call has encoded in `work` the next call does not do again.

    Args:
        made_of: digests of what is read, for the index: so they reach the model that is trained on the shards.

    Raises:
        FileNotFoundError: there is nothing in `corpus`.
        ValueError: the vocabulary does not fit uint16, a document does not fit a file, or a split is empty.
    """
    paths = sorted(path.resolve() for path in corpus.glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(
            f"{corpus} holds no .parquet file: run `dvc repro cleaned` to make it"
        )
    vocab_size = Tokenizer.load(tokenizer).vocab_size
    if vocab_size > MAX_VOCAB:
        raise UserError(
            f"shards hold ids below {MAX_VOCAB:,}, the tokenizer has {vocab_size:,}: lower tokenizer.vocab_size in params.yaml"
        )
    encoded, folder = work.resolve() / "encoded", work.resolve() / "shards"
    encoded.mkdir(parents=True, exist_ok=True)
    steps = [Encode(paths, tokenizer.resolve(), encoded, config)]
    executor.run(steps, [text_bytes(path) for path in paths], work / "encode", runtime, "shards")
    parts = [Part.load(encoded / path.stem) for path in paths]

    candidates = sum(int(part.candidate.sum()) for part in parts)
    keep_to_validation(parts, config.max_similarity)
    files.remove(folder)
    folder.mkdir()
    writers = {
        split: _Writer(folder, split, config.tokens_per_file, np.zeros(vocab_size, np.uint64))
        for split in SPLITS
    }
    for part in parts:
        tokens = np.load(part.tokens, mmap_mode="r")
        for split, chosen in zip(SPLITS, (~part.candidate, part.candidate), strict=True):
            writers[split].add(
                tokens[np.repeat(chosen, part.lengths)],
                part.lengths[chosen],
                int(part.sizes[chosen].sum()),
            )
    for writer in writers.values():
        writer.flush()
        if not writer.documents:
            n = sum(other.documents for other in writers.values())
            raise UserError(
                f"shards.validation_fraction = {config.validation_fraction} leaves no {writer.split} document of {n}: change it, or clean more text"
            )
    np.save(folder / "token_counts.npy", writers["train"].counts)
    known = Tokenizer.load(tokenizer)
    # A byte a character
    files.write_json(
        folder / "texts.json", [known.token_bytes(id).decode("latin-1") for id in range(vocab_size)]
    )
    sources, documents = _validation_documents(parts)
    np.save(folder / DOCUMENTS, documents)
    known_documents = {
        "name": DOCUMENTS,
        "sha256": files.sha256(folder / DOCUMENTS),
        "sources": sources,
    }
    splits = {split: writer.summary() for split, writer in writers.items()}
    index = {
        "vocab_size": vocab_size,
        "bos": BOS,
        "eos": EOS,
        "made_of": dict(made_of or {}),
        "splits": splits,
        "documents": known_documents,
    }
    files.write_json(folder / "index.json", index)
    return {
        **{
            s: {
                "tokens": w.tokens,
                "documents": w.documents,
                "bytes": w.bytes,
                "bytes_per_token": w.bytes / w.tokens,
            }
            for s, w in writers.items()
        },
        # Candidates for validation that are in train
        "look_alikes": candidates - writers["validation"].documents,
    }


# ---- a task: one cleaned file


@dataclass
class Part:
    """An encoded file. N documents."""

    tokens: Path  # .npy of uint16: all documents, each with BOS and EOS
    lengths: np.ndarray  # (N,) tokens
    sizes: np.ndarray  # (N,) bytes of text
    candidate: np.ndarray  # (N,) bool: for validation
    sketch: np.ndarray  # (N, S) uint8: a byte of each MinHash value
    source: np.ndarray  # (N,) a place in `sources`
    sources: np.ndarray  # their names

    @classmethod
    def load(cls, stem: Path) -> "Part":
        arrays = np.load(stem.with_suffix(".npz"))
        return cls(
            tokens=stem.with_suffix(".npy"),
            **{field.name: arrays[field.name] for field in fields(cls) if field.name != "tokens"},
        )


class Encode(Step):
    def __init__(
        self, paths: list[Path], tokenizer: Path, folder: Path, config: ShardsConfig
    ) -> None:
        super().__init__()
        self.paths, self.tokenizer, self.folder, self.config = paths, tokenizer, folder, config

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        path, limit = self.paths[rank], self.config.tokens_per_file
        encode = _tokenizer(self.tokenizer).encode_array
        documents: list[np.ndarray] = []
        rows: list[tuple[int, bool, bytes, str]] = []
        size = 0
        for id, text, sketch, source, kind in _rows(path):
            if kind == CONVERSATION:
                ids = conversation_ids(text, encode)
            else:
                ids = np.empty(len(found := encode(text)) + 2, np.uint16)
                ids[0], ids[1:-1], ids[-1] = BOS, found, EOS
            if len(ids) > limit:
                raise UserError(
                    f"the document {id} has {len(ids):,} tokens, more than shards.tokens_per_file = {limit:,}: raise that in params.yaml"
                )
            documents.append(ids)
            size += len(text.encode())
            self.tell(rank, size)
            rows.append((len(text.encode()), is_candidate(text, self.config), sketch, source))
        sizes, candidate, sketches, sources = zip(*rows, strict=True)
        names, places = np.unique(sources, return_inverse=True)
        arrays = {
            "lengths": np.array([len(ids) for ids in documents], np.int64),
            "sizes": np.array(sizes, np.int64),
            "candidate": np.array(candidate, bool),
            "sketch": np.frombuffer(b"".join(sketches), np.uint8).reshape(len(rows), -1),
            "source": places,
            "sources": names,
        }
        stem = self.folder / path.stem
        with files.replacing(stem.with_suffix(".npy")) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(documents))
        with files.replacing(stem.with_suffix(".npz")) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        yield from ()


_tokenizer = cache(Tokenizer.load)  # once a worker


def conversation_ids(text: str, encode: Callable[[str], np.ndarray]) -> np.ndarray:
    """The tokens of a conversation, as antimatter.chat.template renders it: each turn after its role
    token, and the end token after each answer.
    """
    parts = [np.array([BOS], np.uint16)]
    for number, turn in enumerate(text.split(SEPARATOR)):
        is_answer = number % 2 == 1
        role, end = (ASSISTANT, [EOS]) if is_answer else (USER, [])
        parts += [np.array([role], np.uint16), encode(neutralise(turn)).astype(np.uint16)]
        parts.append(np.array(end, np.uint16))
    return np.concatenate(parts)


def _rows(path: Path) -> Iterator[tuple[str, str, bytes, str, str]]:
    """id, text, sketch, source and kind of each document."""
    names = ["id", "text", "sketch", "source", "kind"]
    for batch in pq.ParquetFile(path).iter_batches(1000, columns=names):
        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


# ---- what is alike stays on one side


def keep_to_validation(parts: Sequence[Part], max_similarity: float) -> None:
    """Withdraws each candidate for validation that resembles a document outside of validation, until none is left.

    Two sketches agree in a share s + (1 - s) / 256 of their bytes, s the Jaccard similarity. Candidates are compared with what shares BAND
    neighbouring bytes with them, one part at a time: memory holds the sketches of the candidates and of one part.
    """
    # To compare with: all of train at first, then what was withdrawn in the last round
    others = [~part.candidate for part in parts]
    while any(other.any() for other in others):
        sketches = np.concatenate([part.sketch[part.candidate] for part in parts])
        alike = np.zeros(len(sketches), bool)
        for part, other in zip(parts, others, strict=True):
            alike |= resembles(sketches, part.sketch[other], max_similarity)
        start = 0
        for i, part in enumerate(parts):
            rows = np.flatnonzero(part.candidate)
            withdrawn = rows[alike[start : (start := start + len(rows))]]
            part.candidate[withdrawn] = False
            others[i] = np.zeros(len(part.candidate), bool)
            others[i][withdrawn] = True


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
            agree = (sketches[same] == others[j]).mean(1)
            alike[same] |= agree > max_similarity + (1 - max_similarity) / 256
    return alike


# ---- from parts to shards


def _validation_documents(parts: Sequence[Part]) -> tuple[list[str], np.ndarray]:
    """The names of the sources in validation, and its documents in their order, (D,) DOCUMENT."""
    names = sorted(
        {
            str(part.sources[place])
            for part in parts
            for place in np.unique(part.source[part.candidate])
        }
    )
    found = []
    for part in parts:
        # Of a source without validation it is never looked up
        place = np.searchsorted(names, part.sources)
        documents = np.empty(int(part.candidate.sum()), DOCUMENT)
        documents["source"], documents["bytes"] = (
            place[part.source[part.candidate]],
            part.sizes[part.candidate],
        )
        found.append(documents)
    return names, np.concatenate(found)


@dataclass
class _Writer:
    folder: Path
    split: Split
    tokens_per_file: int
    counts: np.ndarray  # (V,) how often each token occurs
    tokens: int = 0
    documents: int = 0
    bytes: int = 0  # of text
    held: list[np.ndarray] = field(default_factory=list)  # of the file at hand
    held_tokens: int = 0
    held_documents: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)

    def add(self, ids: np.ndarray, lengths: np.ndarray, size: int) -> None:
        """Documents one after the other, each whole in one file."""
        ends = np.cumsum(lengths)
        first = start = 0
        while first < len(ends):
            # Documents that fit
            last = int(
                np.searchsorted(ends, start + self.tokens_per_file - self.held_tokens, "right")
            )
            if last == first:
                self.flush()
                continue
            end = int(ends[last - 1])
            self.held.append(ids[start:end])
            self.held_tokens += end - start
            self.held_documents += last - first
            first, start = last, end
        self.tokens += len(ids)
        self.documents += len(lengths)
        self.bytes += size

    def flush(self) -> None:
        if self.held:
            ids = np.concatenate(self.held)
            self.counts += np.bincount(ids, minlength=len(self.counts)).astype(np.uint64)
            path = self.folder / f"{self.split}-{len(self.files):05d}.npy"
            np.save(path, ids)
            self.files.append(
                {
                    "name": path.name,
                    "tokens": len(ids),
                    "documents": self.held_documents,
                    "sha256": files.sha256(path),
                }
            )
            self.held, self.held_tokens, self.held_documents = [], 0, 0

    def summary(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "files": self.files,
        }
