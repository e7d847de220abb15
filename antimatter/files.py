"""Files that are whole or absent: atomic writes, JSON, CSV, digests, locks."""

import csv
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write a file or a folder to; it takes the place of `path` only if the block ends without an error.

    A reader sees the old content or the new, never half of it. The rename is atomic within one file system (POSIX rename).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        yield partial
        if partial.is_dir():
            remove(path)  # rename(2) replaces an empty folder only
        else:
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        os.replace(partial, path)
    finally:
        remove(partial)


def publish(folder: Path, path: Path) -> None:
    """Moves a finished folder to its place: a rename where both lie in one file system."""
    with replacing(path) as partial:
        shutil.move(folder, partial)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_metrics(path: Path, value: Any) -> None:
    """As write_json, with floats at 6 significant digits: enough for any metric here, and `dvc metrics show` stays readable."""
    write_json(path, _rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def read_json(path: Path) -> Any:
    """Raises FileNotFoundError or ValueError, each naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro` to make it, or `dvc pull` to fetch it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it and run `dvc repro`") from None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock on `path` at this moment."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def lock(path: Path, holder: str) -> Iterator[None]:
    """Holds an exclusive lock on `path` for the block. The kernel drops it with the process, so a SIGKILL leaves no stale lock.

    Raises:
        BlockingIOError: another process holds it; `holder` says what that process is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(f"{holder} is already running as process {file.read().strip()}: wait for it, or end it, then run again") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
