"""How a reproduced output differs from the recorded one, and by how much a number may differ on
another kind of machine: docs/verify.md.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from antimatter.pipeline.recorded import Cache

# Whole numbers and text: the same bytes on any machine
DATA_STAGES = ("raw", "cleaned", "tokenizer", "shards")
# Drawn from outputs that are compared themselves; their compression may depend on the processor
PICTURES = (".png",)
TOLERANCE = 0.01  # relative, of a mean over all of the validation or training text

# The numbers of the later stages that mean the same on any machine, each with the largest relative
# difference; 0: the same number. All others are reported and not judged: samples are drawn token by
# token and diverge at the first rounding error, a bin of rare tokens holds few tokens, and KL is a
# rounding error itself.
BOUNDS: dict[str, dict[str, float]] = {
    "metrics/checkpoints/summary.json": {
        "parameters": 0,
        "steps": 0,
        "tokens": 0,
        "train_loss": TOLERANCE,
        "validation_loss": TOLERANCE,
    },
    "metrics/evaluation/summary.json": dict.fromkeys(
        ("loss", "perplexity", "bits_per_byte"), TOLERANCE
    ),
    "metrics/evaluation/frequencies.json": {"*.tokens": 0},
    "metrics/gguf/summary.json": {
        "*.tensors.*": 0,
        "tokenizer.*": 0,
        "*.perplexity": TOLERANCE,
        "*.torch_perplexity": TOLERANCE,
    },
}

# Numbers that differ, and other differences in a few words each
Differences = tuple[list["Number"], list[str]]


@dataclass(frozen=True)
class Number:
    """A number that differs: one of a JSON file, or the worst row of a column of a CSV file."""

    name: str
    old: float | None  # None: missing
    new: float | None
    # The largest relative difference on another machine; None: reported, not judged
    bound: float | None = None

    @property
    def apart(self) -> float:
        """The difference relative to the recorded value."""
        if self.old is None or self.new is None or not math.isfinite(self.new - self.old):
            return math.inf
        return abs(self.new - self.old) / abs(self.old) if self.old else math.inf

    @property
    def within(self) -> bool:
        return self.bound is None or self.apart <= self.bound


@dataclass(frozen=True)
class Committed:
    """What the commit has of an output."""

    md5: str | None  # in dvc.lock; None: dvc.lock does not know the output
    content: bytes | None  # in Git; None: it is not there


@dataclass(frozen=True)
class Output:
    """An output of a reproduced stage, compared with the recorded one."""

    stage: str
    path: str
    identical: bool
    # Those that differ: first those with a bound, then the largest difference first
    numbers: tuple[Number, ...] = ()
    notes: tuple[str, ...] = ()  # other differences, a few words each
    contradiction: bool = False  # Git and dvc.lock of the commit disagree about it

    @property
    def within(self) -> bool:
        """Whether another kind of machine may produce this difference."""
        if self.identical or self.contradiction:
            return self.identical
        if self.stage in DATA_STAGES:
            return Path(self.path).suffix in PICTURES
        return all(number.within for number in self.numbers)


def compare(
    stage: str,
    path: str,
    committed: Committed,
    md5: str | None,
    new: Path,
    old_cache: Cache,
    new_cache: Cache,
) -> Output:
    """
    Args:
        path: of the output in the project.
        md5: its new digest in dvc.lock; None: the stage no longer has this output.
        new: the output itself, a file or a folder.
    """
    if md5 is None:
        return Output(stage, path, False, notes=("no longer an output of the stage",))
    if committed.md5 is None:
        return Output(stage, path, False, notes=("not in the dvc.lock of the commit",))
    in_git = committed.md5
    if committed.content is not None:
        in_git = hashlib.md5(committed.content, usedforsecurity=False).hexdigest()
    if md5 == in_git == committed.md5:
        return Output(stage, path, True)
    contradiction = in_git != committed.md5
    notes = ["dvc.lock and Git disagree about it at the commit"] if contradiction else []
    numbers: list[Number] = []
    if md5.endswith(".dir"):
        notes += _folders(committed.md5, md5, old_cache, new_cache)
    elif committed.content is not None and md5 != in_git:
        numbers, others = _contents(path, committed.content, new.read_bytes())
        notes += others
    return Output(stage, path, False, tuple(numbers), tuple(notes), contradiction)


def _contents(path: str, old: bytes, new: bytes) -> Differences:
    """A file whose name claims JSON or CSV but is not is compared as bytes."""
    try:
        if path.endswith(".json"):
            return numbers_of_json(json.loads(old), json.loads(new), BOUNDS.get(path, {}))
        if path.endswith(".csv"):
            return numbers_of_csv(old.decode(), new.decode())
    except ValueError as error:
        return [], [f"not readable: {error}"]
    return [], []


def numbers_of_json(old: Any, new: Any, bounds: Mapping[str, float]) -> Differences:
    """Every number of a JSON file that differs, under its dotted name, and the names of other
    values that differ.

    Args:
        bounds: the largest relative difference, by pattern of names.
    """
    before, after = _leaves(old), _leaves(new)
    numbers, notes = [], []
    for name in [*before, *(name for name in after if name not in before)]:
        old_value, new_value = before.get(name), after.get(name)
        if old_value == new_value:
            continue
        if _is_number(old_value) and _is_number(new_value):
            matching = (bound for pattern, bound in bounds.items() if fnmatchcase(name, pattern))
            numbers.append(Number(name, old_value, new_value, next(matching, None)))
        else:
            notes.append(f"{name} differs")
    return sorted(numbers, key=lambda number: (number.bound is None, -number.apart)), notes


def _is_number(value: Any) -> bool:
    """None counts, as a number that is missing."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves |= _leaves(inner, f"{name}.{key}" if name else key)
    return leaves


def numbers_of_csv(old: str, new: str) -> Differences:
    """For each column the row with the largest relative difference, the worst column first; of
    other cells, how many differ.
    """
    before, after = ([*csv.reader(io.StringIO(text))] for text in (old, new))
    if before[:1] != after[:1] or not before:
        return [], ["other columns"]
    notes = []
    if len(before) != len(after):
        notes.append(f"{len(after) - 1:,} rows, {len(before) - 1:,} are recorded")
    worst: dict[str, Number] = {}
    words = 0
    for old_row, new_row in zip(before[1:], after[1:], strict=False):
        for column, a, b in zip(before[0], old_row, new_row, strict=False):
            if a == b:
                continue
            # A cell is a number if both versions are
            try:
                number = Number(column, float(a), float(b))
            except ValueError:
                words += 1
                continue
            if column not in worst or number.apart > worst[column].apart:
                worst[column] = number
    if words:
        notes.append(f"{words:,} cells of text")
    return sorted(worst.values(), key=lambda number: -number.apart), notes


def _folders(old: str, new: str, old_cache: Cache, new_cache: Cache) -> list[str]:
    """Which files of a folder differ, and by how much their weights do, if the cache has the old
    files.
    """
    try:
        before, after = old_cache.members(old), new_cache.members(new)
    except OSError:
        return ["the recorded files are not in the cache"]
    names = sorted(before.keys() | after.keys())
    different = [name for name in names if before.get(name) != after.get(name)]
    notes = []
    for name in different[:3]:
        if name not in before or name not in after:
            notes.append(f"{name} is {'new' if name in after else 'missing'}")
            continue
        recorded = old_cache.path(before[name])
        if name.endswith(".safetensors") and recorded.is_file():
            notes.append(f"{name} ({weights(recorded, new_cache.path(after[name]))})")
        else:
            notes.append(name)
    return [*notes, f"and {len(different) - 3} more"] if len(different) > 3 else notes


def weights(old: Path, new: Path) -> str:
    """How much two safetensors files differ, in words. Reads one tensor at a time."""
    largest = squares = norm = 0.0
    try:
        with (
            safe_open(old, framework="numpy") as before,
            safe_open(new, framework="numpy") as after,
        ):
            if before.keys() != after.keys():
                return "other tensors"
            for name in before.keys():  # noqa: SIM118, it is not a dict
                a, b = (file.get_tensor(name).astype(np.float64) for file in (before, after))
                if a.shape != b.shape:
                    return f"{name} is {b.shape}, {a.shape} is recorded"
                largest = max(largest, float(np.abs(b - a).max(initial=0)))
                squares += float(((b - a) ** 2).sum())
                norm += float((a**2).sum())
    except SafetensorError as error:
        return f"not readable: {error}"
    relative = math.sqrt(squares / norm) if norm else math.inf
    return f"weights at most {largest:.2g} apart, {relative:.2%} of their norm"


def as_json(output: Output) -> dict[str, Any]:
    """For `--json`. JSON has no infinity, so a difference from 0 is null."""
    numbers = [
        {
            "name": n.name,
            "old": n.old,
            "new": n.new,
            "apart": n.apart if math.isfinite(n.apart) else None,
            "bound": n.bound,
        }
        for n in output.numbers
    ]
    return {
        "path": output.path,
        "identical": output.identical,
        "within": output.within,
        "numbers": numbers,
        "notes": list(output.notes),
    }
