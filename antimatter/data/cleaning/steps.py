"""The steps of a cleaning task: read, filter, hash for duplicates, write. Each runs in a worker.

Task n processes the n-th of the `names` of the raw files.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter

from antimatter import files
from antimatter.data.cleaning import duplicates, pii
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.conversations import ConversationRules
from antimatter.data.cleaning.decontamination import Decontamination
from antimatter.data.cleaning.examples import DroppedDocuments
from antimatter.data.cleaning.junk import Junk
from antimatter.data.cleaning.languages import traits
from antimatter.data.cleaning.rules import enabled_rules, first_rejection
from antimatter.data.documents import BATCH_BYTES, COLUMNS, CONVERSATION, SEPARATOR
from antimatter.data.parquet import read_rows
from antimatter.tasks.task import Step

# The low byte of each MinHash value, by which later stages find look-alikes
SCHEMA = COLUMNS.append(pa.field("sketch", pa.binary()))
# Marks of rows to drop, in *.duplicates.npy; 0 is a row to keep
DUPLICATES = {1: "exact_duplicate", 2: "near_duplicate"}
# A page is compared as a whole only if the line rules keep at least this share of its characters
MOSTLY = 0.5

Judged = tuple[Document, str, str]  # a document, its text before, and the reason to drop it or ""


class ReadStep(Step):
    """The documents of a raw file."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        super().__init__()
        self.folder, self.names = folder, names

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for rows in read_rows(self.folder / self.names[rank], COLUMNS.names, "raw"):
            for row in rows:
                columns = dict(zip(COLUMNS.names, row, strict=True))
                metadata = {name: columns[name] for name in ("source", "licence", "kind")}
                yield Document(text=columns["text"], id=columns["id"], metadata=metadata)


class FilterStep(Step):
    """Yields the documents that every rule accepts. Counts the others by their reason, and keeps
    examples of them.
    """

    def __init__(self, folder: Path, names: list[str], config: CleanConfig) -> None:
        super().__init__()
        self.folder, self.names = folder, names
        self.repair, *self.rules = enabled_rules(config)
        if config.junk.enabled:
            self.rules.append(Junk(config.junk, traits(config.language.code)))
        self.conversation_rules: list[BaseFilter] = []
        if config.decontamination.texts:
            contamination = Decontamination(config.decontamination, traits(config.language.code))
            self.rules.append(contamination)
            self.conversation_rules.append(contamination)
        self.turns = ConversationRules(config.conversation, config.language)
        self.personal = config.personal.kinds()
        for rule in self.rules:
            # C4 counts lines in its statistics
            rule.stats = self.stats

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        counts, examples = Counter[str](), DroppedDocuments()
        for document in data:
            counts["bytes_in"] += len(document.text.encode())
            counts["bytes_trimmed"] += len(document.text.encode())
            self.report_progress(rank, counts["bytes_in"])
            for part, before, reason in self._parts(document, counts):
                size = len(before.encode())
                counts["documents_in"] += 1
                counts[f"length_in {length_class(size)}"] += 1
                if reason:
                    counts["bytes_trimmed"] -= size
                    counts[f"dropped {reason}"] += 1
                    counts[f"dropped_bytes {reason}"] += size
                    examples.add(reason, part, before)
                else:
                    counts["bytes_trimmed"] -= len(part.text.encode())
                    yield part
        self.count(counts)
        examples.write(self.folder / f"{self.names[rank]}.dropped.jsonl")

    def _parts(self, document: Document, counts: Counter[str]) -> Iterator[Judged]:
        """A text becomes one document, a conversation one for each run of good or of bad turns."""
        before = document.text
        if document.metadata["kind"] == CONVERSATION:
            yield from self._runs(document, counts)
            return
        reason = first_rejection(document, [self.repair])
        document.metadata["whole"] = document.text
        reason = reason or first_rejection(document, self.rules)
        if self.personal and not reason:
            document.text, masked = pii.mask(document.text, self.personal)
            counts.update({f"personal {kind}": n for kind, n in masked.items()})
        yield document, before, reason

    def _runs(self, document: Document, counts: Counter[str]) -> Iterator[Judged]:
        turns = self.turns(document.text)
        counts["turns_in"] += len(turns)
        counts["turns_changed"] += sum(turn.original != turn.tidied for turn in turns)
        for number, (reason, group) in enumerate(groupby(turns, lambda turn: turn.reason)):
            run = list(group)
            text = SEPARATOR.join(turn.tidied for turn in run)
            metadata = {**document.metadata, "whole": text}
            part = Document(text=text, id=f"{document.id}/{number}", metadata=metadata)
            before = SEPARATOR.join(turn.original for turn in run)
            if reason:
                counts[f"turn-dropped {reason}"] += len(run)
                yield part, before, f"conversation_{reason}"
            else:
                yield part, before, first_rejection(part, self.conversation_rules)


class Hashes(NamedTuple):
    exact: int
    bands: list[int]
    sketch: bytes


class MinHashStep(Step):
    """Writes the documents of the task, and beside them the hashes by which duplicates are found.

    Both texts are hashed, before the line rules and after: one changed word at the end of a
    paragraph can cost one copy the paragraph, and the same article may appear among different menus
    and notices. Where the rules dropped most of a page, only the text after them counts: as a whole
    it resembles other pages of its site.
    """

    def __init__(self, folder: Path, names: list[str], config: CleanConfig) -> None:
        super().__init__()
        self.folder, self.names, self.near = folder, names, config.near_duplicates
        self.language = traits(config.language.code)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        path = self.folder / self.names[rank]
        exact: list[tuple[int, int]] = []
        bands: list[list[int]] = []
        rows: list[tuple[Any, ...]] = []
        characters = 0
        with (
            files.replacing(path) as partial,
            pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer,
        ):
            for document in data:
                whole = document.metadata.pop("whole")
                after = self._hashes(document.text)
                before = after if whole == document.text else self._hashes(whole)
                compares_whole = len(document.text) >= MOSTLY * len(whole)
                exact.append((before.exact, after.exact))
                bands.append((before if compares_whole else after).bands + after.bands)
                metadata = document.metadata.values()
                rows.append((document.id, document.text, *metadata, after.sketch))
                characters += len(document.text)
                if characters >= BATCH_BYTES:
                    writer.write_table(_table(rows))
                    rows, characters = [], 0
                yield document
            if rows:
                writer.write_table(_table(rows))
        _save_hashes(path.with_name(f"{path.name}.exact.npy"), exact, 2)
        _save_hashes(path.with_name(f"{path.name}.bands.npy"), bands, 2 * self.near.bands)

    def _hashes(self, text: str) -> Hashes:
        words = self.language.spaced(text.lower()).split()
        signature = duplicates.signature(words, self.near)
        return Hashes(
            duplicates.exact_hash(words),
            duplicates.bands(signature, self.near),
            signature.astype(np.uint8).tobytes(),
        )


def _table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = zip(zip(*rows, strict=True), SCHEMA, strict=True)
    arrays = [pa.array(column, field.type) for column, field in columns]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _save_hashes(path: Path, hashes: Sequence[Sequence[int]], width: int) -> None:
    """Writes (width, documents) uint64, as first_occurrence() reads it: a row at a time."""
    array = np.array(hashes, np.uint64).reshape(-1, width)
    save_array(path, np.ascontiguousarray(array.T))


def save_array(path: Path, array: np.ndarray) -> None:
    with files.replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array)


class WriteStep(Step):
    """Writes the documents that are no duplicates. Writes no file if there are none."""

    def __init__(self, passed: Path, folder: Path, names: list[str]) -> None:
        super().__init__()
        self.passed, self.folder, self.names = passed, folder, names

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        name = self.names[rank]
        marks = np.load(self.passed / f"{name}.duplicates.npy")
        counts = Counter[str]()
        if (marks == 0).any():
            with (
                files.replacing(self.folder / name) as partial,
                pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer,
            ):
                for batch in self._unique(name, marks, counts):
                    writer.write_batch(batch)
        else:
            # Only for the counts
            for _ in self._unique(name, marks, counts):
                pass
        self.count(counts)
        yield from ()

    def _unique(
        self, name: str, marks: np.ndarray, counts: Counter[str]
    ) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in pq.ParquetFile(self.passed / name).iter_batches(1000):
            own = marks[start : start + len(batch)]
            start += len(batch)
            for mark, text in zip(own.tolist(), batch.column("text").to_pylist(), strict=True):
                size = len(text.encode())
                if mark:
                    counts[f"dropped {DUPLICATES[mark]}"] += 1
                    counts[f"dropped_bytes {DUPLICATES[mark]}"] += size
                else:
                    counts["documents_out"] += 1
                    counts["bytes_out"] += size
                    counts[f"length_out {length_class(size)}"] += 1
            yield batch.filter(pa.array(own == 0))


def length_class(size: int) -> int:
    """The lower bound of the length class of a document, in bytes; two classes an octave."""
    return int(2 ** (math.floor(2 * math.log2(max(1, size))) / 2))
