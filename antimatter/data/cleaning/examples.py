"""Documents that show why the cleaning drops text: some for each reason, in examples.jsonl."""

import heapq
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import xxhash
from datatrove.data import Document

from antimatter import files

EXAMPLES = 20  # documents shown for each reason
CHARACTERS = 4000  # shown of each document

# Reason -> row of a dropped document -> row of the document that it duplicates
Duplicates = Mapping[str, Mapping[int, int]]


class DroppedDocuments:
    """Collects examples in a task: for each reason the documents with the smallest hashes.

    So the choice depends on the texts alone, and not on the machine or the number of workers.
    """

    def __init__(self) -> None:
        # Heaps of negated hashes: the largest hash is on top and is replaced first
        self._heaps: dict[str, list[tuple[int, str, str, str]]] = {}

    def add(self, reason: str, document: Document, text: str) -> None:
        """
        Args:
            text: the document as it was before the cleaning.
        """
        priority = -xxhash.xxh3_64_intdigest(text)
        item = (priority, document.id, document.metadata["source"], text[:CHARACTERS])
        heap = self._heaps.setdefault(reason, [])
        if len(heap) < EXAMPLES:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)

    def write(self, path: Path) -> None:
        rows = [
            {"reason": reason, "draw": -priority, "id": id, "source": source, "text": text}
            for reason, heap in self._heaps.items()
            for priority, id, source, text in heap
        ]
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write(dropped: Iterable[Path], passed: list[Path], duplicates: Duplicates, path: Path) -> None:
    """Writes the examples of all tasks, and those of duplicates with their first occurrence.

    Args:
        dropped: what DroppedDocuments.write() wrote.
        passed: the parquet files that `duplicates` refers to, rows counted through all of them.
    """
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for part in dropped:
        # Not splitlines(): web text holds U+2028 and others, which end no line of JSON
        with part.open(encoding="utf-8") as lines:
            for line in lines:
                example = json.loads(line)
                by_reason.setdefault(example["reason"], []).append(example)
    shown = []
    for reason in sorted(by_reason):
        chosen = sorted(by_reason[reason], key=lambda example: example["draw"])[:EXAMPLES]
        shown += [{key: example[key] for key in example if key != "draw"} for example in chosen]

    rows = {row for pairs in duplicates.values() for pair in pairs.items() for row in pair}
    documents = _documents(passed, sorted(rows))
    for reason, pairs in duplicates.items():
        for row, first in sorted(pairs.items()):
            document, original = documents[row], documents[first]
            shown.append(
                {
                    "reason": reason,
                    "id": document["id"],
                    "source": document["source"],
                    "text": document["text"][:CHARACTERS],
                    "repeats": original["id"],
                    "repeated_text": original["text"][:CHARACTERS],
                }
            )
    lines_of_json = (json.dumps(example, ensure_ascii=False) + "\n" for example in shown)
    files.write_text(path, "".join(lines_of_json))


def _documents(paths: Iterable[Path], rows: list[int]) -> dict[int, dict[str, str]]:
    """The documents of those rows, counted through all files."""
    documents: dict[int, dict[str, str]] = {}
    first = 0
    for path in paths:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if inside := [row for row in rows if first <= row < first + count]:
                table = file.read_row_group(group, columns=["id", "source", "text"])
                taken = table.take([row - first for row in inside]).to_pylist()
                documents |= zip(inside, taken, strict=True)
            first += count
    return documents
