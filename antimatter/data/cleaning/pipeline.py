"""Raw text becomes text worth learning: repaired, filtered with a reason for each drop, and without duplicates.

One task per raw file, because the number of tasks may show in the bytes while the number of workers must not. Each task judges its documents and
leaves a signature of every one that passed; a look at all signatures decides what repeats an earlier document; a second round of tasks copies the
rest.
"""

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter

from antimatter import files
from antimatter.data.cleaning import duplicates
from antimatter.data.cleaning import pii as personal
from antimatter.data.cleaning import rules as filters
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.conversations import Rules
from antimatter.data.cleaning.decontamination import Decontamination
from antimatter.data.cleaning.junk import Rubbish
from antimatter.data.documents import BATCH_BYTES, COLUMNS, CONVERSATION, SEPARATOR, text_bytes
from antimatter.errors import UserError
from antimatter.tasks import executor
from antimatter.tasks.config import EngineRuntime
from antimatter.tasks.executor import Step

# The low byte of each MinHash value: what a later stage can tell look-alikes by
SCHEMA = COLUMNS.append(pa.field("sketch", pa.binary()))
REPEATS = {1: "exact_duplicate", 2: "near_duplicate"}  # marks of rows to drop
# Of a page: what the line rules must have left of it for the page as a whole to be compared
MOSTLY = 0.5
EXAMPLES = 20  # documents shown for each reason
EXAMPLE_CHARACTERS = 4000  # of each


@dataclass(frozen=True, kw_only=True)
class Report:
    """Bytes are of UTF-8 text; bytes_in = bytes_out + bytes_trimmed + those dropped."""

    documents_in: int  # a conversation counts as the parts in which it is cut
    documents_out: int
    bytes_in: int
    bytes_out: int
    # From documents that passed: lines that C4's rules took, white space, repairs
    bytes_trimmed: int
    dropped: dict[str, int]  # reason -> documents, the most frequent first
    dropped_bytes: dict[str, int]
    lines_dropped: dict[str, int]  # reason -> lines that C4's rules took from documents
    turns_in: int  # of conversations
    turns_changed: int  # those that are not written as they were found
    turns_dropped: dict[str, int]  # reason -> turns that were cut out of conversations
    personal: dict[str, int]  # kind -> pieces of personal data that became placeholders
    lengths: list[tuple[int, int, int]]  # at least so many bytes -> documents in, documents out


def clean(raw: Path, work: Path, config: CleanConfig, runtime: EngineRuntime) -> Report:
    """Cleans each raw/*.parquet into work/cleaned/*.parquet, and leaves examples of what was dropped in work/cleaned/examples.jsonl.

    The bytes depend on the text and `config` alone. What a killed call has finished in `work` the next call does not do again.

    Raises:
        FileNotFoundError: there is nothing in `raw`.
        ValueError: nothing is left, or a raw file is broken.
    """
    names = sorted(path.name for path in raw.glob("*.parquet"))
    if not names:
        raise FileNotFoundError(f"{raw} holds no .parquet file: run `dvc repro raw` to make it")
    raw, work = raw.resolve(), work.resolve()
    sizes = [text_bytes(raw / name) for name in names]
    passed, cleaned = work / "passed", work / "cleaned"
    for folder in (passed, cleaned):
        folder.mkdir(parents=True, exist_ok=True)
    counts = executor.run(
        [Read(raw, names), Judge(passed, names, config), Sign(passed, names, config)],
        sizes,
        work / "judge",
        runtime,
        "cleaned",
    )

    origins = _repeats(passed, names, config)
    # Not +=, which forgets what is negative: text may grow by its repair
    counts.update(
        executor.run(
            [Copy(passed, cleaned, names)], sizes, work / "copy", runtime, "cleaned (copying)"
        )
    )
    if not counts["documents_out"]:
        reason, n = Counter(_part(counts, "dropped")).most_common(1)[0]
        raise UserError(
            f"cleaned: nothing is left of {counts['documents_in']:,} documents, {n:,} were dropped for {reason}: loosen that rule in params.yaml"
        )
    _examples(passed, names, origins, cleaned / "examples.jsonl")
    report = _report(counts)
    assert sum(report.dropped.values()) == report.documents_in - report.documents_out
    assert (
        sum(report.dropped_bytes.values())
        == report.bytes_in - report.bytes_out - report.bytes_trimmed
    )
    return report


def _report(counts: Counter[str]) -> Report:
    dropped = _part(counts, "dropped")
    before, after = (
        {int(label): n for label, n in _part(counts, f"length_{side}").items()}
        for side in ("in", "out")
    )
    return Report(
        documents_in=counts["documents_in"],
        documents_out=counts["documents_out"],
        bytes_in=counts["bytes_in"],
        bytes_out=counts["bytes_out"],
        bytes_trimmed=counts["bytes_trimmed"],
        dropped=dropped,
        dropped_bytes={reason: _part(counts, "dropped_bytes")[reason] for reason in dropped},
        lines_dropped={
            label.removeprefix("line-filter-"): n
            for label, n in sorted(counts.items())
            if label.startswith("line-filter-")
        },
        turns_in=counts["turns_in"],
        turns_changed=counts["turns_changed"],
        turns_dropped=_part(counts, "turn-dropped"),
        personal=_part(counts, "personal"),
        lengths=[
            (length, before.get(length, 0), after.get(length, 0))
            for length in sorted(before | after)
        ],
    )


def _part(counts: Counter[str], group: str) -> dict[str, int]:
    """The counts labelled "group name", the largest first."""
    found = {
        label.removeprefix(f"{group} "): n
        for label, n in counts.items()
        if label.startswith(f"{group} ")
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _length(size: int) -> int:
    """The lower bound of the length class of a document, in bytes; two classes an octave."""
    return int(2 ** (math.floor(2 * math.log2(max(1, size))) / 2))


# ---- duplicates: what all signatures say together


def _repeats(passed: Path, names: list[str], config: CleanConfig) -> dict[str, dict[int, int]]:
    """Writes beside each passed file which of its rows to drop, (rows,) uint8 by REPEATS; examples: reason -> row -> the row that it repeats."""
    exact, near = (
        duplicates.earlier([passed / f"{name}.{kind}.npy" for name in names])
        for kind in ("exact", "bands")
    )
    repeats = np.zeros(len(exact), np.uint8)
    if config.near_duplicates.enabled:
        repeats[near >= 0] = 2
    if config.exact_duplicates:
        repeats[exact >= 0] = 1
    start = 0
    for name in names:
        end = start + pq.ParquetFile(passed / name).metadata.num_rows
        with files.replacing(passed / f"{name}.repeats.npy") as partial, partial.open("wb") as file:
            np.save(file, repeats[start:end])
        start = end
    random = np.random.default_rng(0)
    shown = {}
    for number, origins in ((1, exact), (2, near)):
        rows = random.permutation(np.flatnonzero(repeats == number))[:EXAMPLES]
        shown[REPEATS[number]] = {int(row): int(origins[row]) for row in rows}
    return shown


def _examples(passed: Path, names: list[str], pairs: dict[str, dict[int, int]], path: Path) -> None:
    """Writes some dropped documents of each reason, chosen by a hash of their text, so by nothing that a machine decides."""
    drawn: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for name in names:
        with (passed / f"{name}.dropped.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                example = json.loads(line)
                drawn.setdefault(example["reason"], []).append((example.pop("draw"), example))
    rows = [row for pair in pairs.values() for row in (*pair, *pair.values())]
    documents = _documents(passed, names, sorted(set(rows)))
    shown = [
        example
        for reason in sorted(drawn)
        for _, example in sorted(drawn[reason], key=lambda item: item[0])[:EXAMPLES]
    ]
    for reason, pair in pairs.items():
        for row, origin in sorted(pair.items()):
            one, other = documents[row], documents[origin]
            shown.append(
                {
                    "reason": reason,
                    **_example(**one),
                    "repeats": other["id"],
                    "repeated_text": other["text"][:EXAMPLE_CHARACTERS],
                }
            )
    files.write_text(
        path, "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in shown)
    )


def _example(id: str, source: str, text: str) -> dict[str, str]:
    return {"id": id, "source": source, "text": text[:EXAMPLE_CHARACTERS]}


def _documents(passed: Path, names: list[str], rows: list[int]) -> dict[int, dict[str, str]]:
    """The documents of those row numbers, counted through all files."""
    found: dict[int, dict[str, str]] = {}
    first = 0
    for name in names:
        opened = pq.ParquetFile(passed / name)
        for group in range(opened.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            if wanted := [row - first for row in rows if first <= row < first + count]:
                table = opened.read_row_group(group, columns=["id", "source", "text"]).take(wanted)
                found |= {
                    first + row: document
                    for row, document in zip(wanted, table.to_pylist(), strict=True)
                }
            first += count
    return found


# ---- the steps of a task; each runs in a worker


class Read(Step):
    """The documents of a raw file: task n has the n-th of `names`, here and in the steps that follow."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        super().__init__()
        self.folder, self.names = folder, names

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        path = self.folder / self.names[rank]
        try:
            for batch in pq.ParquetFile(path).iter_batches(1000, columns=COLUMNS.names):
                for row in batch.to_pylist():
                    yield Document(
                        text=row["text"],
                        id=row["id"],
                        metadata={name: row[name] for name in ("source", "licence", "kind")},
                    )
        except (pa.ArrowException, KeyError, OSError) as error:
            raise UserError(
                f"{path} is not readable ({str(error).splitlines()[0]}): run `dvc repro --force raw`"
            ) from None


class Judge(Step):
    """Passes on what every rule accepts; counts the rest by its reason, and keeps examples of it."""

    def __init__(self, folder: Path, names: list[str], config: CleanConfig) -> None:
        super().__init__()
        self.folder, self.names = folder, names
        self.repair, *self.rules = filters.steps(
            config.language, config.c4, config.gopher, config.fineweb, config.repetition
        )
        if config.rubbish.enabled:
            self.rules.append(Rubbish(config.rubbish))
        if config.decontamination.texts:
            self.rules.append(Decontamination(config.decontamination))
        texts = config.decontamination.texts
        self.of_conversations = [Decontamination(config.decontamination)] if texts else []
        self.turns = Rules(config.conversation, config.language)
        self.personal = config.personal.kinds()
        for rule in self.rules:
            rule.stats = self.stats  # the C4 rules count lines

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        counts = Counter[str]()
        # Reason -> heap with the largest hash on top
        examples: dict[str, list[tuple[int, str, str, str]]] = {}
        for document in data:
            counts["bytes_in"] += len(document.text.encode())
            counts["bytes_trimmed"] += len(document.text.encode())
            self.tell(rank, counts["bytes_in"])
            for part, before, reason in self._parts(document, counts):
                size = len(before.encode())
                counts["documents_in"] += 1
                counts[f"length_in {_length(size)}"] += 1
                if reason:
                    counts["bytes_trimmed"] -= size
                    counts[f"dropped {reason}"] += 1
                    counts[f"dropped_bytes {reason}"] += size
                    shown = (part.id, part.metadata["source"], before[:EXAMPLE_CHARACTERS])
                    item = (-xxhash.xxh3_64_intdigest(before), *shown)
                    heap = examples.setdefault(reason, [])
                    (heapq.heappush if len(heap) < EXAMPLES else heapq.heappushpop)(heap, item)
                else:
                    counts["bytes_trimmed"] -= len(part.text.encode())
                    yield part
        self.count(counts)
        found = [
            {"reason": reason, "draw": -draw, **_example(id, source, text)}
            for reason, heap in examples.items()
            for draw, id, source, text in heap
        ]
        files.write_text(
            self.folder / f"{self.names[rank]}.dropped.jsonl",
            "".join(json.dumps(example) + "\n" for example in found),
        )

    def _parts(
        self, document: Document, counts: Counter[str]
    ) -> Iterator[tuple[Document, str, str]]:
        """The documents that come of one: itself, or of a conversation the runs of good turns and,
        to be dropped, those of bad ones. Each with its text before, and why it is dropped or "".
        """
        before = document.text
        if document.metadata["kind"] != CONVERSATION:
            reason = self._verdict(document, [self.repair])
            document.metadata["whole"] = document.text
            reason = reason or self._verdict(document, self.rules)
            if self.personal and not reason:
                document.text, found = personal.mask(document.text, self.personal)
                counts.update({f"personal {kind}": n for kind, n in found.items()})
            yield document, before, reason
            return
        said = self.turns(before)
        counts["turns_in"] += len(said)
        counts["turns_changed"] += sum(turn.found != turn.tidied for turn in said)
        for number, (reason, group) in enumerate(groupby(said, lambda turn: turn.reason)):
            turns = list(group)
            text = SEPARATOR.join(turn.tidied for turn in turns)
            metadata = {**document.metadata, "whole": text}
            part = Document(text=text, id=f"{document.id}/{number}", metadata=metadata)
            if reason:
                counts[f"turn-dropped {reason}"] += len(turns)
            reason = (
                f"conversation_{reason}" if reason else self._verdict(part, self.of_conversations)
            )
            yield part, SEPARATOR.join(turn.found for turn in turns), reason

    def _verdict(self, document: Document, rules: Sequence[BaseFilter]) -> str:
        """Why a document is dropped; empty if it is not."""
        for rule in rules:
            accepted = rule.filter(document)
            if accepted is not True:
                return str(accepted[1])
        return ""


class Hashes(NamedTuple):
    exact: int
    bands: list[int]
    sketch: bytes


class Sign(Step):
    """Writes the documents of this task, and beside them the hashes by which repeats are found.

    Both texts are hashed, before the line rules and after: one changed word at the end of a paragraph can cost one copy the paragraph, and the same
    article may stand in different surroundings. Where the rules took most of a page, its near copies before that would be pages of one site.
    """

    def __init__(self, folder: Path, names: list[str], config: CleanConfig) -> None:
        super().__init__()
        self.folder, self.names, self.near = folder, names, config.near_duplicates

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        path = self.folder / self.names[rank]
        exact: list[tuple[int, int]] = []
        bands: list[list[int]] = []
        rows: list[tuple[Any, ...]] = []
        held = 0
        with (
            files.replacing(path) as partial,
            pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer,
        ):
            for document in data:
                whole = document.metadata.pop("whole")
                cleaned = self._hashes(document.text)
                before = cleaned if whole == document.text else self._hashes(whole)
                same_kind = len(document.text) >= MOSTLY * len(whole)
                exact.append((before.exact, cleaned.exact))
                bands.append((before if same_kind else cleaned).bands + cleaned.bands)
                rows.append(
                    (document.id, document.text, *document.metadata.values(), cleaned.sketch)
                )
                held += len(document.text)
                if held >= BATCH_BYTES:
                    writer.write_table(_table(rows))
                    rows, held = [], 0
                yield document
            if rows:
                writer.write_table(_table(rows))
        for kind, hashes, width in (("exact", exact, 2), ("bands", bands, 2 * self.near.bands)):
            with (
                files.replacing(path.with_name(f"{path.name}.{kind}.npy")) as partial,
                partial.open("wb") as file,
            ):
                # A row of all documents for each hash
                np.save(
                    file, np.ascontiguousarray(np.array(hashes, np.uint64).reshape(-1, width).T)
                )

    def _hashes(self, text: str) -> Hashes:
        words = text.lower().split()
        signature = duplicates.signature(words, self.near)
        return Hashes(
            duplicates.exact_hash(words),
            duplicates.bands(signature, self.near),
            signature.astype(np.uint8).tobytes(),
        )


def _table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_arrays(
        [
            pa.array(column, field.type)
            for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)
        ],
        schema=SCHEMA,
    )


class Copy(Step):
    """Writes the documents that repeat none; a file of none is not written."""

    def __init__(self, passed: Path, folder: Path, names: list[str]) -> None:
        super().__init__()
        self.passed, self.folder, self.names = passed, folder, names

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        name = self.names[rank]
        repeats = np.load(self.passed / f"{name}.repeats.npy")
        counts = Counter[str]()
        if (repeats == 0).any():
            with (
                files.replacing(self.folder / name) as partial,
                pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer,
            ):
                for kept in self._kept(name, repeats, counts):
                    writer.write_batch(kept)
        else:
            for _ in self._kept(name, repeats, counts):
                pass
        self.count(counts)
        yield from ()

    def _kept(
        self, name: str, repeats: np.ndarray, counts: Counter[str]
    ) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in pq.ParquetFile(self.passed / name).iter_batches(1000):
            marks = repeats[start : (start := start + len(batch))]
            for mark, text in zip(marks.tolist(), batch.column("text").to_pylist(), strict=True):
                size = len(text.encode())
                if mark:
                    counts[f"dropped {REPEATS[mark]}"] += 1
                    counts[f"dropped_bytes {REPEATS[mark]}"] += size
                else:
                    counts["documents_out"] += 1
                    counts["bytes_out"] += size
                    counts[f"length_out {_length(size)}"] += 1
            yield batch.filter(pa.array(marks == 0))
