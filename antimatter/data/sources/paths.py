"""The files that params.yaml names: patterns, and where they are found.

Kept apart from the readers, so that patterns are checked without importing pyarrow.
"""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from antimatter.errors import UserError

# The endings of the files that can be read: kind and packing
KIND = re.compile(r"\.(jsonl?|txt)(\.gz|\.zst)?$|\.(parquet)$")
STDIN = "-"  # a pattern: standard input
COMMAND_LINE = "the command line"  # a key: the arguments of a command


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    pattern: str  # glob
    text_column: str  # of JSON and parquet: the field that holds the text
    licence: str  # goes with each document


@dataclass(frozen=True)
class Part:
    """Files that are read one after the other: the unit of work."""

    config: FilesConfig
    paths: tuple[str, ...]  # as the pattern names them; located() says where they are
    bytes: int  # on disk
    key: str  # in params.yaml, for errors


def parts(sources: Sequence[FilesConfig], file_mb: float, key: str) -> list[Part]:
    """The files of all patterns in parts of at most `file_mb` megabytes on disk, or of one file.
    They depend on the files alone.

    Args:
        key: where params.yaml names them, for errors.

    Raises:
        UserError: a pattern matches no file, or a file is of an unknown kind.
    """
    result: list[Part] = []
    for config in sources:
        for path in required(config.pattern, key):
            kind_of(path, key)
            size = located(path).stat().st_size
            last = result[-1] if result else None
            if last and last.config == config and last.bytes + size <= file_mb * 1e6:
                result[-1] = Part(config, (*last.paths, path), last.bytes + size, key)
            else:
                result.append(Part(config, (path,), size, key))
    return result


def roots() -> list[Path]:
    """The folders in which a relative path is looked up: the current one, then the main repository.

    They differ in a queued experiment, which runs in a copy of what Git tracks: texts that Git does
    not track are missing there.
    """
    here, main = Path(), Path(os.environ.get("DVC_ROOT", "."))
    return [here] if main.resolve() == here.resolve() else [here, main]


def matches(pattern: str) -> list[str]:
    """The files that a glob pattern names in any of the roots, sorted: the same names whichever
    root has them.
    """
    names = {
        name
        for root in roots()
        for name in glob.glob(pattern, root_dir=root, recursive=True)
        if located(name).is_file()
    }
    return sorted(names)


def required(pattern: str, key: str) -> list[str]:
    """The files that a glob pattern names, at least one.

    Raises:
        UserError: the pattern is empty, or matches no file.
    """
    if not pattern:
        raise UserError(f"{key}: a pattern is empty: name a file, a folder or a glob pattern")
    if names := matches(pattern):
        return names
    searched = " or ".join(f"in {root.resolve()}" for root in roots())
    fix = "correct the pattern, or put the files there"
    raise UserError(f"{key}: {pattern} matches no file {searched}: {fix}")


def located(name: str) -> Path:
    """The path of a file or folder, in the first of the roots that has it."""
    return next((root / name for root in roots() if (root / name).exists()), Path(name))


def find(patterns: Sequence[str], key: str) -> list[tuple[str, bool]]:
    """The files, each once, and whether it was named itself.

    Args:
        patterns: glob patterns, files, folders (with their subfolders, without hidden files), or
            STDIN.

    Raises:
        UserError: a pattern is empty, or matches no file.
    """
    named: dict[str, bool] = {}
    for pattern in patterns:
        if pattern == STDIN or located(pattern).is_file():
            named[pattern] = True
            continue
        if pattern and located(pattern).is_dir():
            pattern = os.path.join(glob.escape(pattern), "**", "*")
        for name in required(pattern, key):
            named.setdefault(name, False)
    return list(named.items())


def column_setting(key: str) -> str:
    """What names the text column of the files that `key` names, for errors."""
    return "--text-column" if key == COMMAND_LINE else f"text_column of {key}"


def kind_of(path: str, key: str) -> tuple[str, str]:
    """What a file holds and how it is packed: ("jsonl", ".gz")."""
    if kind := KIND.search(path):
        return kind[1] or kind[3], kind[2] or ""
    known = ".jsonl, .json, .txt (each also .gz or .zst) and .parquet"
    raise UserError(f"{path} is of an unknown kind: {key} takes {known}")
