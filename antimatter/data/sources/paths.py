"""The files that params.yaml names: patterns, and where they are found.

Kept apart from the readers, so that patterns are checked without importing pyarrow.

A pattern is a file, a folder or a glob pattern. What exists under the name itself is that, brackets
and all; otherwise the name is a glob pattern, from its first part that does not exist. A folder is
read with its subfolders. Hidden files and folders (`.git`) are skipped. Links are followed; a file
that is reached twice is read once, under its first name. Names are sorted, so that every machine
reads the same files in the same order.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from antimatter.data.sources import kinds
from antimatter.data.sources.faults import Fault, shown
from antimatter.errors import UserError

STDIN = "-"  # a pattern: standard input
COMMAND_LINE = "the command line"  # a key: the arguments of a command


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    pattern: str  # file, folder or glob pattern
    text_column: str  # of JSON, CSV and parquet: the field of the text; empty: found by itself
    licence: str  # goes with each document
    encoding: str = ""  # of text, JSON, CSV and HTML, as Python names it; empty: found by itself

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError:
            known = "utf-8, cp1250, cp1252, iso8859-2, koi8-r"
            fix = f"name one as Python does ({known}), or leave it out"
            raise UserError(f"encoding {self.encoding!r} is unknown: {fix}") from None

    @staticmethod
    def expand(value: Any) -> Any:
        """The section that params.yaml names in short: a text is a pattern, and the other keys may
        be left out.
        """
        if isinstance(value, str):
            value = {"pattern": value}
        if isinstance(value, dict):
            return {"text_column": "", "licence": "unknown", "encoding": ""} | value
        return value


@dataclass(frozen=True)
class Reading:
    """How texts become documents."""

    join_lines: bool = False  # of hard-wrapped text
    document_kb: float = 0  # longest document, in kilobytes; 0: any


@dataclass(frozen=True)
class Part:
    """Files that are read one after the other: the unit of work."""

    config: FilesConfig
    paths: tuple[str, ...]  # as the pattern names them; located() says where they are
    bytes: int  # on disk
    key: str  # in params.yaml, for errors
    reading: Reading = Reading()


@dataclass
class Listing:
    """What patterns name: files with their sections, and what was passed over."""

    files: list[tuple[FilesConfig, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # files by ending
    faults: list[Fault] = field(default_factory=list)  # folders that cannot be read


def parts(sources: Sequence[FilesConfig], file_mb: float, key: str) -> list[Part]:
    """The files of all patterns in parts of at most `file_mb` megabytes on disk, or of one file.
    They depend on the files alone.

    Args:
        key: where params.yaml names them, for errors.

    Raises:
        UserError: as listing().
    """
    return cut(listing(sources, key), file_mb, key)


def listing(sources: Sequence[FilesConfig], key: str) -> Listing:
    """The files that can be read among those that patterns name. Files of other kinds below a
    folder or in a glob pattern are counted.

    Raises:
        UserError: a pattern matches no file or no readable kind, or names a file of an unknown kind
            itself, or a file needs an extra that is not installed.
    """
    result, seen = Listing(), set[str]()
    for config in sources:
        _check(config.pattern, key)
        faults = len(result.faults)
        names = _names(config.pattern, result.faults)
        if not names:
            raise next(iter(result.faults[faults:]), _no_match(config.pattern, key))
        is_named = names == [os.path.expanduser(config.pattern)]
        others, known = Counter[str](), 0
        for name in names:
            kind = kinds.kind_of(name)
            if kind and located(name).is_file():
                known += 1
                kinds.require(kind.name, shown(name), key)
                real = os.path.realpath(located(name))
                if real not in seen:
                    seen.add(real)
                    result.files.append((config, name))
            elif is_named and kind:
                fix = "name a file that can be read twice"
                raise UserError(f"{shown(name)} is no file, but a pipe or a device: {fix}")
            elif is_named:
                raise kinds.unknown(shown(name), key)
            else:
                others[kinds.ending(name)] += 1
        if not known:
            most = sorted(others.items(), key=lambda one: (-one[1], one[0]))
            found = ", ".join(f"{n:,} {ending}" for ending, n in most[:5])
            fix = f"it reads {kinds.KNOWN}"
            raise UserError(f"{key}: {config.pattern} holds no text, but {found}: {fix}")
        result.others += others
    return result


def cut(listed: Listing, file_mb: float, key: str, reading: Reading = Reading()) -> list[Part]:
    """The files of a listing as parts, in its order."""
    result: list[Part] = []
    for config, path in listed.files:
        size = _size(path)
        last = result[-1] if result else None
        if last and last.config == config and last.bytes + size <= file_mb * 1e6:
            result[-1] = Part(config, (*last.paths, path), last.bytes + size, key, reading)
        else:
            result.append(Part(config, (path,), size, key, reading))
    return result


def _size(path: str) -> int:
    """Bytes on disk; 0 if the file has disappeared, which its reader reports."""
    try:
        return located(path).stat().st_size
    except OSError:
        return 0


def roots() -> list[Path]:
    """The folders in which a relative path is looked up: the current one, then the main repository.

    They differ in a queued experiment, which runs in a copy of what Git tracks: texts that Git does
    not track are missing there.
    """
    here, main = Path(), Path(os.environ.get("DVC_ROOT", "."))
    return [here] if main.resolve() == here.resolve() else [here, main]


def matches(pattern: str) -> list[str]:
    """The files that a pattern names in any of the roots, sorted: the same names whichever root has
    them.
    """
    return [name for name in _names(pattern, []) if located(name).is_file()]


def required(pattern: str, key: str) -> list[str]:
    """The files that a pattern names, at least one.

    Raises:
        UserError: the pattern is empty, or matches no file.
    """
    _check(pattern, key)
    if names := matches(pattern):
        return names
    raise _no_match(pattern, key)


def _check(pattern: str, key: str) -> None:
    if not pattern:
        raise UserError(f"{key}: a pattern is empty: name a file, a folder or a glob pattern")


def _no_match(pattern: str, key: str) -> UserError:
    searched = " or ".join(f"in {root.resolve()}" for root in roots())
    fix = "correct the pattern, or put the files there"
    return UserError(f"{key}: {pattern} matches no file {searched}: {fix}")


def _names(pattern: str, faults: list[Fault]) -> list[str]:
    """What a pattern names in any of the roots, sorted: files, and pipes and devices too.

    Args:
        faults: receives the folders that cannot be read.
    """
    is_absolute = os.path.isabs(os.path.expanduser(pattern))
    searched = [Path()] if is_absolute else roots()
    names = {name for root in searched for name in _expand(root, pattern, faults)}
    # DVC writes `books.dvc` beside the folder books: no text of a user
    return sorted(name for name in names if name == pattern or not name.endswith(".dvc"))


def located(name: str) -> Path:
    """The path of a file or folder, in the first of the roots that has it."""
    return next((root / name for root in roots() if (root / name).exists()), Path(name))


def find(patterns: Sequence[str], key: str) -> list[tuple[str, bool]]:
    """The files of any kind, each once, and whether it was named itself.

    Args:
        patterns: as in the docstring of this module, or STDIN.

    Raises:
        UserError: a pattern is empty, or matches no file.
    """
    named: dict[str, bool] = {}
    for pattern in patterns:
        name = os.path.expanduser(pattern)
        if pattern == STDIN or located(name).is_file():
            named[name] = True
            continue
        for name in required(pattern, key):
            named.setdefault(name, False)
    return list(named.items())


def column_setting(key: str) -> str:
    """What names the text column of the files that `key` names, for errors."""
    return "--text-column" if key == COMMAND_LINE else f"text_column of {key}"


def _expand(root: Path, pattern: str, faults: list[Fault]) -> Iterator[str]:
    """The names of the files that a pattern names below a root, in no order. Pipes, sockets and
    devices among them, which the caller counts.
    """
    base, rest = Path(), Path(os.path.expanduser(pattern)).parts
    while rest and (root / base / rest[0]).exists():
        base, rest = base / rest[0], rest[1:]
    if not rest:
        yield from _below(root, base, faults) if (root / base).is_dir() else [str(base)]
        return
    if "**" not in rest:
        for name in glob.glob(os.path.join(*rest), root_dir=root / base):
            if not (root / base / name).is_dir():
                yield str(base / name)
        return
    # glob.glob() would follow a link to a folder above for as long as the system permits
    deep = rest.index("**")
    starts = [""]
    if deep:
        starts = sorted(glob.glob(os.path.join(*rest[:deep]), root_dir=root / base))
    for start in starts:
        for name in _below(root, base / start, faults):
            if _fits(Path(name).relative_to(base / start).parts, rest[deep:]):
                yield name


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob pattern."""
    if not patterns:
        return not parts
    if patterns[0] == "**":
        # At the end it means all files, as for glob
        rest = patterns[1:] or ("*",)
        return any(_fits(parts[i:], rest) for i in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def _below(root: Path, folder: Path, faults: list[Fault]) -> Iterator[str]:
    """All that is no folder below a folder, without what is hidden. Each folder once, whatever
    links lead to it.
    """
    waiting, seen = [folder], set[str]()
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(root / here)
        if real in seen:
            continue
        seen.add(real)
        try:
            names = sorted(os.listdir(root / here))
        except OSError as error:
            fix = "change its permissions, or take it out"
            faults.append(Fault(str(here), f"cannot be listed ({error.strerror})", fix))
            continue
        folders = []
        for name in names:
            if name.startswith("."):
                continue
            if (root / here / name).is_dir():
                folders.append(here / name)
            else:
                yield str(here / name)
        waiting += reversed(folders)
