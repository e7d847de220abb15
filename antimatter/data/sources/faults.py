"""What is wrong with a user's file, and what a reader does about it."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from antimatter import text
from antimatter.errors import UserError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Faults of a part that are listed; all of them are counted
LISTED = 100
NOTES = 5  # that are printed


class Fault(UserError):
    """A file, or a record of it, cannot be read.

    Args:
        path: the file.
        reason: what is wrong, after the name of the file: "is empty".
        fix: what a user can do about it.
        line: of the file, from 1; 0: the whole file.
        unit: what `line` counts.
        size: bytes that are lost.
    """

    def __init__(
        self,
        path: str,
        reason: str,
        fix: str,
        *,
        line: int = 0,
        unit: str = "line",
        size: int = 0,
    ) -> None:
        self.path, self.reason, self.fix, self.size = shown(path), reason, fix, size
        self.line, self.unit = line, unit
        place = f"{self.path}, {unit} {line}" if line else self.path
        super().__init__(f"{place} {reason}: {fix}")

    def row(self) -> dict[str, object]:
        """The fault as JSON."""
        return {"file": self.path, self.unit: self.line, "reason": self.reason, "fix": self.fix}


@dataclass
class Report:
    """What a reader has read and skipped. The counts have these labels: `files KIND`, `documents
    KIND`, `bytes KIND`, `encoding NAME` (files), `column NAME` (files), `other ENDING` (files),
    `empty` (records), `faults`, `skipped` (bytes).
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, object]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)  # of the same faults, for people
    notes: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)  # files and their encodings

    def skip(self, fault: Fault) -> None:
        self.counts["faults"] += 1
        self.counts["skipped"] += fault.size
        if len(self.faults) < LISTED:
            self.faults.append(fault.row())
            self.messages.append(str(fault))

    def note(self, line: str) -> None:
        """What a user should know that is no fault."""
        if len(self.notes) < LISTED:
            self.notes.append(line)

    def guess(self, file: str) -> None:
        """A file whose encoding is a guess, with the encoding."""
        if len(self.guesses) < LISTED:
            self.guesses.append(file)

    def add(self, other: "Report") -> None:
        self.counts.update(other.counts)
        room = LISTED - len(self.faults)
        self.faults += other.faults[:room]
        self.messages += other.messages[:room]
        self.notes += other.notes[: LISTED - len(self.notes)]
        self.guesses += other.guesses[: LISTED - len(self.guesses)]

    def share(self) -> float:
        """The skipped share of the bytes that could have been text."""
        skipped = self.counts["skipped"]
        return skipped / max(1, skipped + sum(self._labelled("bytes").values()))

    def summary(self) -> dict[str, Any]:
        """What was read and skipped, for the metrics; empty if no file was read."""
        if not self.counts:
            return {}
        kinds = {
            kind: {unit: self.counts[f"{unit} {kind}"] for unit in ("files", "documents", "bytes")}
            for kind in self._labelled("files")
        }
        skipped = {
            "faults": self.counts["faults"],
            "bytes": self.counts["skipped"],
            "share": self.share(),
            "empty_records": self.counts["empty"],
            "other_kinds": self._labelled("other"),
            "listed": self.faults,
        }
        encodings, columns = self._labelled("encoding"), self._labelled("column")
        notes = {"notes": self.notes} if self.notes else {}
        notes |= {"guessed_encodings": self.guesses} if self.guesses else {}
        figures = {"kinds": kinds, "encodings": encodings, "columns": columns, "skipped": skipped}
        return figures | notes

    def lines(self) -> Iterator[str]:
        """The same for people."""
        for kind in self._labelled("files"):
            files, documents = self.counts[f"files {kind}"], self.counts[f"documents {kind}"]
            size = text.size(self.counts[f"bytes {kind}"])
            yield f"{kind}: files {files:,}, documents {documents:,}, {size}"
        legacy = {name: n for name, n in self._labelled("encoding").items() if name != "UTF-8"}
        if legacy:
            yield f"encodings besides UTF-8: {_listed(legacy)}"
        if self.guesses:
            more = " and more" if len(self.guesses) > NOTES else ""
            fix = "if one is wrong, name it as in `{pattern: a.txt, encoding: cp1250}` of raw.files"
            yield f"guessed encodings: {', '.join(self.guesses[:NOTES])}{more}; {fix}"
        if others := self._labelled("other"):
            yield f"not read, of other kinds: {_listed(others)}"
        yield from self.notes[:NOTES]
        if len(self.notes) > NOTES:
            yield f"and {len(self.notes) - NOTES} more such notes in metrics/raw/summary.json"
        if faults := self.counts["faults"]:
            named = "metrics/raw/summary.json names them"
            yield f"skipped {self.share():.2%} of the bytes, faults: {faults:,}; {named}"

    def _labelled(self, label: str) -> dict[str, int]:
        """The counts of a label, by their names."""
        found = {
            name.removeprefix(f"{label} "): n
            for name, n in sorted(self.counts.items())
            if name.startswith(f"{label} ")
        }
        return found


def _listed(counts: dict[str, int], most: int = 8) -> str:
    names = sorted(counts, key=lambda name: (-counts[name], name))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"{counts[name]:,} {name}" for name in names[:most]) + more


class Strict(Report):
    """Takes no fault: raises the first one."""

    def skip(self, fault: Fault) -> None:
        raise fault


def shown(path: str) -> str:
    """A path that every encoding can print in one line: names of files may be any bytes."""
    return _CONTROL.sub("?", os.fsencode(path).decode(errors="replace"))
