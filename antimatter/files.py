"""Files: atomic writes, JSON, CSV, digests and locks."""

import contextlib
import csv
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from antimatter.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path for a file or a folder, which replaces `path` if the block succeeds.

    A reader sees the old content or the new, never a part of either. Everything is flushed to the
    disk before the rename, so this holds after a power cut too. One exception: where the file
    system cannot exchange two folders, an existing folder is missing for a moment. Processes may
    write the same path at the same time: the last to finish wins.

    Files get the mode that the umask gives, because some libraries write through temporary files
    that only their owner can read.

    Raises:
        UserError: the path has no name of its own, or a file would replace a folder.
    """
    if path.name in ("", ".."):
        raise UserError(f"'{path}' is not the name of a file or folder to write: name one")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial = path.with_name(f".{path.name}.{_process()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        for part in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
            _settle(part)
        _put(partial, path)
        _sync(path.parent)
    finally:
        remove(partial)


def link(files: Mapping[str, Path], folder: Path) -> None:
    """Writes a folder of hard links to files, by name, or of copies where links are not possible.

    Neither side may be written in place afterwards; replacing() and remove() never do that.
    """
    with replacing(folder) as partial:
        partial.mkdir()
        for name, file in files.items():
            try:
                os.link(file, partial / name)
            # Another file system, or one without hard links
            except OSError:
                shutil.copy2(file, partial / name)


def _process() -> str:
    """A name of this process that is unique among all hosts."""
    return f"{platform.node()}-{os.getpid()}"


def _remove_abandoned(path: Path) -> None:
    """Deletes temporary files for `path` of processes of this machine that were killed."""
    name = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(platform.node())}-(\d+)-\w+\.partial")
    for other in path.parent.iterdir():
        if (match := name.fullmatch(other.name)) and not _is_alive(int(match[1])):
            # Another process may delete it at the same time
            with contextlib.suppress(FileNotFoundError):
                remove(other)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It belongs to another user
        pass
    return True


def _settle(path: Path) -> None:
    """Flushes a file or folder to the disk, and gives a file the mode that open() would give it."""
    if path.is_symlink():
        return
    if path.is_file() and not path.stat().st_mode & 0o077:
        umask = os.umask(0o077)
        os.umask(umask)
        path.chmod(path.stat().st_mode | (0o666 & ~umask))
    _sync(path)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        # Some network file systems cannot flush a folder; a full disk must be reported
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def _put(partial: Path, path: Path) -> None:
    """Renames `partial` to `path` and replaces whatever is there.

    rename(2) replaces only a file by a file, or an empty folder by a folder.
    """
    if path.is_dir() and not path.is_symlink():
        if partial.is_dir() and _exchange(partial, path):
            return
        if not partial.is_dir():
            # A user named a folder where a file was meant: its content must not be lost
            raise UserError(f"{path} is a folder: name a file to write")
        remove(path)
    elif partial.is_dir():
        remove(path)
    os.replace(partial, path)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names atomically: renameat2(2) on Linux, renamex_np(2) on macOS.

    Returns:
        Whether the system could do it.
    """
    # From linux/fcntl.h and linux/fs.h; RENAME_SWAP of macOS is the same number
    AT_FDCWD, EXCHANGE = -100, 2
    libc, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):
        return bool(libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE) == 0)
    return hasattr(libc, "renamex_np") and bool(libc.renamex_np(*names, EXCHANGE) == 0)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it exists."""
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
    """As write_json(), with floats rounded to 6 significant digits, as `dvc metrics show` prints
    them in full.
    """
    write_json(path, _rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return value


class _Object(dict[str, Any]):
    """A JSON object that names its file if a key is missing."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path} has no key {key}: it is damaged, or of another version")


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file.

    Args:
        kind: what it must be at the top.

    Raises:
        UserError: it is missing, not JSON, or something else at the top. A key that is looked up in
            one of its objects and missing is a UserError too.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run `dvc repro` to write it, or `dvc pull` to fetch it"
        )
    fix = "restore it, or delete it if `dvc repro` writes it"
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_hook=lambda values: _Object(values, path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): {fix}") from None
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list"
        raise UserError(f"{path} must be {expected}, got {value!s:.40}: {fix}")
    return value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path, pattern: str) -> dict[str, str]:
    """The sha256 of the files of a folder, by name."""
    return {path.name: sha256(path) for path in sorted(folder.glob(pattern))}


def digest(fingerprints: Mapping[str, str]) -> str:
    """One sha256 over all of them."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()


class Locked(UserError):
    """Another process holds a lock."""


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock on `path` at this moment."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def lock(path: Path, holder: str, wait: float = 0.0) -> Iterator[None]:
    """Holds an exclusive lock on `path` for the block.

    The kernel releases it when the process ends, so even SIGKILL leaves no stale lock. The block
    may delete or rename the file, or its folder.

    Args:
        holder: what holds the lock, for the message of the error.
        wait: seconds to wait for another process.

    Raises:
        Locked: another process holds it.
        UserError: the file system has no locks.
    """
    deadline = time.monotonic() + wait
    with _locked(path, holder, deadline) as file:
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield


def _locked(path: Path, holder: str, deadline: float) -> TextIO:
    """Opens and locks the file.

    Between the two its last holder may delete it, and a lock on a deleted file excludes nobody. So
    the name must still be that of the open file afterwards; otherwise this tries again.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        # The folder was deleted between these two lines
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            process = file.read().strip()
            file.close()
            if time.monotonic() < deadline:
                time.sleep(1)
                continue
            fix = "wait for it or end it, then run again"
            raise Locked(f"{holder} is already running as process {process}: {fix}") from None
        except OSError as error:
            file.close()
            # As Lustre is, if it is mounted without the option `flock`
            fix = "mount it with locks, or move the checkout to another one"
            raise UserError(f"{path}: its file system has no locks ({error}): {fix}") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
