"""Raw text becomes text worth learning: repaired, filtered with a reason for each drop, and without
duplicates.

One task per raw file: the number of tasks may show in the bytes, the number of workers must not.
Each task filters its documents and hashes those that passed. The hashes of all tasks together tell
which documents duplicate an earlier one, and a second round of tasks writes the others.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from antimatter.data.cleaning import examples
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.duplicates import first_occurrence
from antimatter.data.cleaning.steps import (
    DUPLICATES,
    FilterStep,
    MinHashStep,
    ReadStep,
    WriteStep,
    save_array,
)
from antimatter.data.documents import text_bytes
from antimatter.errors import UserError
from antimatter.tasks import executor
from antimatter.tasks.config import TasksRuntime


@dataclass(frozen=True, kw_only=True)
class Report:
    """Bytes are of UTF-8 text; bytes_in = bytes_out + bytes_trimmed + the sum of dropped_bytes."""

    documents_in: int  # a conversation counts as the parts into which it is cut
    documents_out: int
    bytes_in: int
    bytes_out: int
    # From documents that passed: lines that C4's rules dropped, white space, repairs
    bytes_trimmed: int
    dropped: dict[str, int]  # reason -> documents, the most frequent first
    dropped_bytes: dict[str, int]
    lines_dropped: dict[str, int]  # reason -> lines that C4's rules dropped from documents
    turns_in: int  # of conversations
    turns_changed: int  # those that tidying changed
    turns_dropped: dict[str, int]  # reason -> turns that were cut out of conversations
    personal: dict[str, int]  # kind -> pieces of personal data that became placeholders
    lengths: list[tuple[int, int, int]]  # bytes, at least -> documents in, documents out


def clean(raw: Path, work: Path, config: CleanConfig, runtime: TasksRuntime) -> Report:
    """Cleans each raw/*.parquet into work/cleaned/*.parquet, and writes examples of dropped
    documents to work/cleaned/examples.jsonl.

    The bytes depend on the text and `config` alone. A call resumes what a killed one did in `work`.

    Raises:
        UserError: `raw` has no files, every document was dropped, or a raw file is damaged.
    """
    names = sorted(path.name for path in raw.glob("*.parquet"))
    if not names:
        raise UserError(f"{raw} holds no .parquet file: run `dvc repro raw` to make it")
    raw, work = raw.resolve(), work.resolve()
    sizes = [text_bytes(raw / name) for name in names]
    passed, cleaned = work / "passed", work / "cleaned"
    for folder in (passed, cleaned):
        folder.mkdir(parents=True, exist_ok=True)
    filters = [ReadStep(raw, names), FilterStep(passed, names, config)]
    filters.append(MinHashStep(passed, names, config))
    counts = executor.run(filters, sizes, work / "filter", runtime, "cleaned")

    duplicates = _mark_duplicates(passed, names, config)
    copies = [WriteStep(passed, cleaned, names)]
    # Not +=, which drops negative counts: a repair may lengthen a text
    counts.update(executor.run(copies, sizes, work / "write", runtime, "cleaned (writing)"))
    if not counts["documents_out"]:
        (reason, n), *_ = _group(counts, "dropped").items()
        raise UserError(
            f"cleaned: nothing is left of {counts['documents_in']:,} documents, {n:,} were "
            f"dropped for {reason}: loosen that rule in params.yaml"
        )
    examples.write(
        [passed / f"{name}.dropped.jsonl" for name in names],
        [passed / name for name in names],
        duplicates,
        cleaned / "examples.jsonl",
    )
    report = _report(counts)
    assert sum(report.dropped.values()) == report.documents_in - report.documents_out
    lost = report.bytes_in - report.bytes_out - report.bytes_trimmed
    assert sum(report.dropped_bytes.values()) == lost
    return report


def _mark_duplicates(passed: Path, names: list[str], config: CleanConfig) -> examples.Duplicates:
    """Writes beside each passed file which of its rows to drop, (rows,) uint8 by DUPLICATES.

    Returns:
        Examples: reason -> row -> the row that it duplicates.
    """
    exact, near = (
        first_occurrence([passed / f"{name}.{kind}.npy" for name in names])
        for kind in ("exact", "bands")
    )
    marks = np.zeros(len(exact), np.uint8)
    if config.near_duplicates.enabled:
        marks[near >= 0] = 2
    if config.exact_duplicates:
        marks[exact >= 0] = 1
    start = 0
    for name in names:
        end = start + pq.ParquetFile(passed / name).metadata.num_rows
        save_array(passed / f"{name}.duplicates.npy", marks[start:end])
        start = end
    random = np.random.default_rng(0)
    drawn = {}
    for mark, duplicate_of in ((1, exact), (2, near)):
        rows = random.permutation(np.flatnonzero(marks == mark))[: examples.EXAMPLES]
        drawn[DUPLICATES[mark]] = {int(row): int(duplicate_of[row]) for row in rows}
    return drawn


def _report(counts: Counter[str]) -> Report:
    dropped, dropped_bytes = _group(counts, "dropped"), _group(counts, "dropped_bytes")
    before, after = (
        {int(label): n for label, n in _group(counts, f"length_{side}").items()}
        for side in ("in", "out")
    )
    return Report(
        documents_in=counts["documents_in"],
        documents_out=counts["documents_out"],
        bytes_in=counts["bytes_in"],
        bytes_out=counts["bytes_out"],
        bytes_trimmed=counts["bytes_trimmed"],
        dropped=dropped,
        dropped_bytes={reason: dropped_bytes[reason] for reason in dropped},
        lines_dropped={
            label.removeprefix("line-filter-"): n
            for label, n in sorted(counts.items())
            if label.startswith("line-filter-")
        },
        turns_in=counts["turns_in"],
        turns_changed=counts["turns_changed"],
        turns_dropped=_group(counts, "turn-dropped"),
        personal=_group(counts, "personal"),
        lengths=[
            (length, before.get(length, 0), after.get(length, 0))
            for length in sorted(before | after)
        ],
    )


def _group(counts: Counter[str], group: str) -> dict[str, int]:
    """The counts labelled "group name" by their names, the largest first."""
    prefix = f"{group} "
    found = {
        label.removeprefix(prefix): n for label, n in counts.items() if label.startswith(prefix)
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
