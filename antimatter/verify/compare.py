"""How a reproduced output differs from the recorded one, and how far a number may be off on another kind of machine: docs/verify.md."""

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

# Whole numbers and text: the same to the byte on any machine
DATA_STAGES = ("raw", "cleaned", "tokenizer", "shards")
# Drawn from outputs that are compared themselves; their compression may depend on the processor
PICTURES = (".png",)
TOLERANCE = 0.01  # relative, of what is a mean over all of the validation or training text

# Of the numbers of the later stages, those that mean the same on any machine, each with the largest
# relative difference; 0: the same. Any other
# is told, never judged: samples are drawn token by token and part at the first rounding, a bin of
# rare tokens holds few, KL is itself a rounding.
BOUNDS: dict[str, dict[str, float]] = {
    "metrics/checkpoints.json": {
        "parameters": 0,
        "steps": 0,
        "tokens": 0,
        "train_loss": TOLERANCE,
        "validation_loss": TOLERANCE,
    },
    "metrics/evaluation.json": dict.fromkeys(
        ("validation.loss", "validation.perplexity", "validation.bits_per_byte"), TOLERANCE
    ),
    "metrics/frequencies.json": {"*.tokens": 0},
    "metrics/gguf.json": {
        "*.tensors.*": 0,
        "tokenizer.*": 0,
        "*.perplexity": TOLERANCE,
        "*.torch_perplexity": TOLERANCE,
    },
}


@dataclass(frozen=True)
class Number:
    """A number that differs: of a JSON file, or the worst row of a column of a CSV file."""

    name: str
    old: float | None  # None: there is none
    new: float | None
    # The largest relative difference on another machine; None: told, not judged
    bound: float | None = None

    @property
    def apart(self) -> float:
        """Difference relative to the recorded value."""
        if self.old is None or self.new is None or not math.isfinite(self.new - self.old):
            return math.inf
        return abs(self.new - self.old) / abs(self.old) if self.old else math.inf

    @property
    def within(self) -> bool:
        return self.bound is None or self.apart <= self.bound


@dataclass(frozen=True)
class Recorded:
    """What the commit says of an output."""

    md5: str | None  # in dvc.lock; None: dvc.lock does not know the output
    content: bytes | None  # in Git; None: it is not there


@dataclass(frozen=True)
class Output:
    """An output of a reproduced stage beside the recorded one."""

    stage: str
    path: str
    identical: bool
    # That differ: those with a bound first, then the largest difference first
    numbers: tuple[Number, ...] = ()
    notes: tuple[str, ...] = ()  # what else differs, each a few words
    contradiction: bool = False  # Git and dvc.lock of the commit disagree about it

    @property
    def within(self) -> bool:
        """Whether another kind of machine may leave it like this."""
        if self.identical or self.contradiction:
            return self.identical
        if self.stage in DATA_STAGES:
            return Path(self.path).suffix in PICTURES
        return all(number.within for number in self.numbers)


@dataclass(frozen=True)
class Cache:
    """DVC's cache, as its documentation lays it out (internal files): an object under its digest, a folder as JSON that lists its files' digests."""

    folder: Path

    def path(self, md5: str) -> Path:
        return self.folder / "files" / "md5" / md5[:2] / md5[2:]

    def members(self, md5: str) -> dict[str, str]:
        """Digests of a folder's files by their path in it; of a file, itself under the name "". Raises OSError if the object is not there."""
        if not md5.endswith(".dir"):
            return {"": md5}
        return {entry["relpath"]: entry["md5"] for entry in json.loads(self.path(md5).read_bytes())}

    def holds(self, md5: str) -> bool:
        """Whether the object and, of a folder, each of its files is there."""
        return self.path(md5).is_file() and all(
            self.path(member).is_file() for member in self.members(md5).values()
        )


def compare(
    stage: str,
    path: str,
    recorded: Recorded,
    md5: str | None,
    new: Path,
    old_cache: Cache,
    new_cache: Cache,
) -> Output:
    """
    Args:
        path: of the output in the project.
        md5: its new digest in dvc.lock; None: the stage leaves it no more.
        new: the output itself, a file or a folder.
    """
    if md5 is None or recorded.md5 is None:
        return Output(
            stage,
            path,
            False,
            notes=(
                "no output of the stage any more"
                if md5 is None
                else "not in the dvc.lock of the commit",
            ),
        )
    told = (
        recorded.md5
        if recorded.content is None
        else hashlib.md5(recorded.content, usedforsecurity=False).hexdigest()
    )
    if md5 == told == recorded.md5:
        return Output(stage, path, True)
    contradiction = told != recorded.md5
    notes = ["dvc.lock and Git disagree about it at the commit"] if contradiction else []
    numbers: list[Number] = []
    if md5.endswith(".dir"):
        notes += _folders(recorded.md5, md5, old_cache, new_cache)
    elif recorded.content is not None and md5 != told:
        found, more = _contents(path, recorded.content, new.read_bytes())
        numbers, notes = numbers + found, notes + more
    return Output(stage, path, False, tuple(numbers), tuple(notes), contradiction)


def _contents(path: str, old: bytes, new: bytes) -> tuple[list[Number], list[str]]:
    """Numbers that differ, and notes. What claims to be JSON or CSV and is not is compared as bytes."""
    try:
        if path.endswith(".json"):
            return numbers_of_json(json.loads(old), json.loads(new), BOUNDS.get(path, {}))
        if path.endswith(".csv"):
            return numbers_of_csv(old.decode(), new.decode())
    except ValueError as error:
        return [], [f"not readable: {error}"]
    return [], []


def numbers_of_json(
    old: Any, new: Any, bounds: Mapping[str, float]
) -> tuple[list[Number], list[str]]:
    """Every number of a JSON file that differs, under its dotted name, and the names of other values that do.

    Args:
        bounds: by pattern of names, the largest relative difference.
    """
    before, after = _leaves(old), _leaves(new)
    numbers, notes = [], []
    for name in [*before, *(name for name in after if name not in before)]:
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        if all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in (was, now)
        ):
            numbers.append(
                Number(
                    name,
                    was,
                    now,
                    next(
                        (bound for pattern, bound in bounds.items() if fnmatchcase(name, pattern)),
                        None,
                    ),
                )
            )
        else:
            notes.append(f"{name} differs")
    return sorted(numbers, key=lambda number: (number.bound is None, -number.apart)), notes


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = {str(i): item for i, item in enumerate(value)}
    if not isinstance(value, dict):
        return {name: value}
    return {
        leaf: item
        for key, inner in value.items()
        for leaf, item in _leaves(inner, f"{name}.{key}" if name else key).items()
    }


def numbers_of_csv(old: str, new: str) -> tuple[list[Number], list[str]]:
    """For each column the row with the largest relative difference, the worst column first; of other cells, how many differ."""
    before, after = ([*csv.reader(io.StringIO(text))] for text in (old, new))
    if before[:1] != after[:1] or not before:
        return [], ["other columns"]
    notes = (
        [f"{len(after) - 1:,} rows, {len(before) - 1:,} are recorded"]
        if len(before) != len(after)
        else []
    )
    worst: dict[str, Number] = {}
    words = 0
    for was, now in zip(before[1:], after[1:], strict=False):
        for column, a, b in zip(before[0], was, now, strict=False):
            if a == b:
                continue
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
    """Which files of a folder differ, and by how much weights do, as far as the old ones are in the cache."""
    try:
        before, after = old_cache.members(old), new_cache.members(new)
    except OSError:
        return ["the recorded files are not in the cache"]
    different = [
        name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)
    ]
    notes = []
    for name in different[:3]:
        text = (
            name
            if name in before and name in after
            else f"{name} is {'new' if name in after else 'missing'}"
        )
        if (
            text == name
            and name.endswith(".safetensors")
            and old_cache.path(before[name]).is_file()
        ):
            text += f" ({weights(old_cache.path(before[name]), new_cache.path(after[name]))})"
        notes.append(text)
    return [*notes, f"and {len(different) - 3} more"] if len(different) > 3 else notes


def weights(old: Path, new: Path) -> str:
    """How far two safetensors files are apart, in words; a tensor at a time, so that memory stays small."""
    largest = difference = norm = 0.0
    try:
        with (
            safe_open(old, framework="numpy") as before,
            safe_open(new, framework="numpy") as after,
        ):
            if before.keys() != after.keys():
                return "other tensors"
            for name in before.keys():  # noqa: SIM118, it is no dict
                a, b = (file.get_tensor(name).astype(np.float64) for file in (before, after))
                if a.shape != b.shape:
                    return f"{name} is {b.shape}, {a.shape} is recorded"
                largest = max(largest, float(np.abs(b - a).max(initial=0)))
                difference, norm = (
                    difference + float(((b - a) ** 2).sum()),
                    norm + float((a**2).sum()),
                )
    except SafetensorError as error:
        return f"not readable: {error}"
    return f"weights at most {largest:.2g} apart, {math.sqrt(difference / norm) if norm else math.inf:.2%} of their norm"


def as_json(output: Output) -> dict[str, Any]:
    """For `--json`; JSON knows no infinity, so a difference from 0 is null."""
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
