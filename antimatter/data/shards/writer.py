"""Cleaned text becomes token shards: each task encodes one file, then the documents are split into
train and validation and written.

reader.py describes the format, split.py decides which documents are for validation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import DocumentsPipeline

from antimatter import files
from antimatter.data.documents import CONVERSATION, SEPARATOR, text_bytes
from antimatter.data.parquet import read_rows
from antimatter.data.shards import split as splitting
from antimatter.data.shards.config import MAX_VOCAB, ShardsConfig
from antimatter.data.shards.reader import DOCUMENT, DOCUMENTS, SPLITS, Split
from antimatter.data.special_tokens import ASSISTANT, BOS, EOS, USER, neutralise
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.tasks import executor
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.task import Step


def write(
    corpus: Path,
    tokenizer: Path,
    work: Path,
    config: ShardsConfig,
    runtime: TasksRuntime,
    made_of: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Encodes the parquet files in `corpus` to shards in work/shards; returns the metrics of each
    split. A call resumes what a killed one did in `work`.

    Args:
        made_of: digests of the inputs, for the index and so for the model that is trained on it.

    Raises:
        UserError: `corpus` has no files or a damaged one, the vocabulary does not fit uint16, a
            document does not fit a file, or a split is empty.
    """
    paths = sorted(path.resolve() for path in corpus.glob("*.parquet"))
    if not paths:
        raise UserError(f"{corpus} holds no .parquet file: run `dvc repro cleaned` to make it")
    words = Tokenizer.load(tokenizer)
    if words.vocab_size > MAX_VOCAB:
        raise UserError(
            f"shards hold ids below {MAX_VOCAB:,}, the tokenizer has {words.vocab_size:,}: "
            "lower tokenizer.vocab_size in params.yaml"
        )
    encoded, folder = work.resolve() / "encoded", work.resolve() / "shards"
    encoded.mkdir(parents=True, exist_ok=True)
    steps = [EncodeStep(paths, tokenizer.resolve(), encoded, config)]
    executor.run(steps, [text_bytes(path) for path in paths], work / "encode", runtime, "shards")
    parts = [EncodedFile.load(encoded / path.stem) for path in paths]

    chosen = splitting.candidates([part.place for part in parts], config)
    n_candidates = sum(int(candidate.sum()) for candidate in chosen)
    splitting.withdraw_look_alikes([part.sketch for part in parts], chosen, config.max_similarity)
    files.remove(folder)
    folder.mkdir()
    writers = _write_tokens(parts, chosen, folder, config, words.vocab_size)
    np.save(folder / "token_counts.npy", writers["train"].counts)
    # As latin-1, in which each byte is a character
    texts = [words.token_bytes(id).decode("latin-1") for id in range(words.vocab_size)]
    files.write_json(folder / "texts.json", texts)
    sources, documents = _validation_documents(parts, chosen)
    np.save(folder / DOCUMENTS, documents)
    digest = files.sha256(folder / DOCUMENTS)
    index = {
        "vocab_size": words.vocab_size,
        "bos": BOS,
        "eos": EOS,
        "made_of": dict(made_of or {}),
        "splits": {split: writer.summary() for split, writer in writers.items()},
        "documents": {"name": DOCUMENTS, "sha256": digest, "sources": sources},
    }
    files.write_json(folder / "index.json", index)
    metrics: dict[str, Any] = {split: writer.metrics() for split, writer in writers.items()}
    # Candidates for validation that are in train
    return metrics | {"look_alikes": n_candidates - writers["validation"].documents}


# ---- a task: one cleaned file


@dataclass
class EncodedFile:
    """N documents."""

    tokens: Path  # .npy of uint16: all documents, each with BOS and EOS
    lengths: np.ndarray  # (N,) tokens
    sizes: np.ndarray  # (N,) bytes of text
    place: np.ndarray  # (N,) uint64: in the order by which validation is drawn
    sketch: np.ndarray  # (N, S) uint8: a byte of each MinHash value
    source: np.ndarray  # (N,) index into `sources`
    sources: np.ndarray  # their names

    @classmethod
    def load(cls, stem: Path) -> "EncodedFile":
        arrays = np.load(stem.with_suffix(".npz"))
        names = [field.name for field in fields(cls) if field.name != "tokens"]
        return cls(tokens=stem.with_suffix(".npy"), **{name: arrays[name] for name in names})


class EncodeStep(Step):
    def __init__(
        self, paths: list[Path], tokenizer: Path, folder: Path, config: ShardsConfig
    ) -> None:
        super().__init__()
        self.paths, self.tokenizer, self.folder, self.config = paths, tokenizer, folder, config

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        path, limit = self.paths[rank], self.config.tokens_per_file
        encode = _tokenizer(self.tokenizer).encode_array
        documents: list[np.ndarray] = []
        rows: list[tuple[int, int, bytes, str]] = []
        done = 0
        columns = ("id", "text", "sketch", "source", "kind")
        for batch in read_rows(path, columns, "cleaned"):
            for id, text, sketch, source, kind in batch:
                is_conversation = kind == CONVERSATION
                ids = (conversation_ids if is_conversation else text_ids)(text, encode)
                if len(ids) > limit:
                    raise UserError(
                        f"the document {id} has {len(ids):,} tokens, more than "
                        f"shards.tokens_per_file = {limit:,}: raise that in params.yaml"
                    )
                documents.append(ids)
                size = len(text.encode())
                done += size
                self.report_progress(rank, done)
                rows.append((size, splitting.place(text, self.config), sketch, source))
        sizes, places, sketches, sources = zip(*rows, strict=True)
        names, indices = np.unique(sources, return_inverse=True)
        arrays: dict[str, np.ndarray] = {
            "lengths": np.array([len(ids) for ids in documents], np.int64),
            "sizes": np.array(sizes, np.int64),
            "place": np.array(places, np.uint64),
            "sketch": np.frombuffer(b"".join(sketches), np.uint8).reshape(len(rows), -1),
            "source": indices,
            "sources": names,
        }
        stem = self.folder / path.stem
        with files.replacing(stem.with_suffix(".npy")) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(documents))
        with files.replacing(stem.with_suffix(".npz")) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        yield from ()


# Loaded once a worker
_tokenizer = cache(Tokenizer.load)


def text_ids(text: str, encode: Callable[[str], np.ndarray]) -> np.ndarray:
    """The tokens of a text between BOS and EOS, (T,) uint16."""
    tokens = encode(text)
    ids = np.empty(len(tokens) + 2, np.uint16)
    ids[0], ids[1:-1], ids[-1] = BOS, tokens, EOS
    return ids


def conversation_ids(text: str, encode: Callable[[str], np.ndarray]) -> np.ndarray:
    """The tokens of a conversation, (T,) uint16, as antimatter.chat.template renders it: each turn
    after its role token, and the end token after each answer.
    """
    parts = [np.array([BOS], np.uint16)]
    for number, turn in enumerate(text.split(SEPARATOR)):
        is_answer = number % 2 == 1
        role, end = (ASSISTANT, [EOS]) if is_answer else (USER, [])
        parts += [np.array([role], np.uint16), encode(neutralise(turn)).astype(np.uint16)]
        parts.append(np.array(end, np.uint16))
    return np.concatenate(parts)


# ---- from encoded files to shards


def _write_tokens(
    parts: Sequence[EncodedFile],
    candidates: Sequence[np.ndarray],
    folder: Path,
    config: ShardsConfig,
    vocab_size: int,
) -> dict[Split, "_SplitWriter"]:
    writers = {
        split: _SplitWriter(folder, split, config.tokens_per_file, np.zeros(vocab_size, np.uint64))
        for split in SPLITS
    }
    for part, candidate in zip(parts, candidates, strict=True):
        tokens = np.load(part.tokens, mmap_mode="r")
        for split, chosen in zip(SPLITS, (~candidate, candidate), strict=True):
            ids, size = tokens[np.repeat(chosen, part.lengths)], int(part.sizes[chosen].sum())
            writers[split].add(ids, part.lengths[chosen], size)
    for writer in writers.values():
        writer.flush()
        if not writer.documents:
            n = sum(len(part.lengths) for part in parts)
            raise UserError(
                f"none of {n:,} documents is left for {writer.split}, since train and validation "
                f"must differ by shards.max_similarity = {config.max_similarity}: add other text, "
                "or raise that value"
            )
    return writers


def _validation_documents(
    parts: Sequence[EncodedFile], candidates: Sequence[np.ndarray]
) -> tuple[list[str], np.ndarray]:
    """The names of the sources in validation, and its documents in their order, (D,) DOCUMENT."""
    pairs = list(zip(parts, candidates, strict=True))
    names = sorted(
        {str(name) for part, chosen in pairs for name in part.sources[part.source[chosen]]}
    )
    documents = []
    for part, chosen in pairs:
        # A source without validation documents gets some index, which is never used
        indices = np.searchsorted(names, part.sources)
        rows = np.empty(int(chosen.sum()), DOCUMENT)
        rows["source"] = indices[part.source[chosen]]
        rows["bytes"] = part.sizes[chosen]
        documents.append(rows)
    return names, np.concatenate(documents)


@dataclass
class _SplitWriter:
    """Writes the documents of a split to files of at most `tokens_per_file` tokens."""

    folder: Path
    split: Split
    tokens_per_file: int
    counts: np.ndarray  # (V,) how often each token occurs
    tokens: int = 0
    documents: int = 0
    bytes: int = 0  # of text
    # What the next file holds
    buffer: list[np.ndarray] = field(default_factory=list)
    buffer_tokens: int = 0
    buffer_documents: int = 0
    files: list[dict[str, Any]] = field(default_factory=list)

    def add(self, ids: np.ndarray, lengths: np.ndarray, size: int) -> None:
        """Adds documents, each whole in one file.

        Args:
            ids: their tokens, concatenated.
            lengths: (N,) tokens.
            size: bytes of their text.
        """
        ends = np.cumsum(lengths)
        first = start = 0
        while first < len(ends):
            room = self.tokens_per_file - self.buffer_tokens
            # Documents up to this one fit
            last = int(np.searchsorted(ends, start + room, "right"))
            if last == first:
                self.flush()
                continue
            end = int(ends[last - 1])
            self.buffer.append(ids[start:end])
            self.buffer_tokens += end - start
            self.buffer_documents += last - first
            first, start = last, end
        self.tokens += len(ids)
        self.documents += len(lengths)
        self.bytes += size

    def flush(self) -> None:
        if not self.buffer:
            return
        ids = np.concatenate(self.buffer)
        self.counts += np.bincount(ids, minlength=len(self.counts)).astype(np.uint64)
        path = self.folder / f"{self.split}-{len(self.files):05d}.npy"
        np.save(path, ids)
        self.files.append(
            {
                "name": path.name,
                "tokens": len(ids),
                "documents": self.buffer_documents,
                "sha256": files.sha256(path),
            }
        )
        self.buffer, self.buffer_tokens, self.buffer_documents = [], 0, 0

    def summary(self) -> dict[str, Any]:
        """For the index."""
        counts = {"tokens": self.tokens, "documents": self.documents, "bytes": self.bytes}
        return counts | {"files": self.files}

    def metrics(self) -> dict[str, float]:
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "bytes_per_token": self.bytes / self.tokens,
        }
