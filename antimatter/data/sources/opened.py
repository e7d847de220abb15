"""Files as streams of bytes: without their packing, members of archives too, in bounded memory."""

import bz2
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from antimatter.data.sources import kinds
from antimatter.data.sources.faults import Fault, Report
from antimatter.data.sources.kinds import Kind

# An archive that becomes more than this many times its size is one that was made to fill a disk
MAX_RATIO = 200
# ... if it becomes more than this many bytes
FREE = 100_000_000
# What a library raises for a file that is damaged, or that the system cannot read
ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    pa.ArrowException,
)


@dataclass(frozen=True)
class Source:
    """A file, or a member of a .zip file."""

    path: str  # for ids and errors
    kind: Kind
    size: int  # bytes on disk
    open: Callable[[], BinaryIO]  # without packing
    key: str  # where params.yaml names it
    located: Path | None  # where it is on the disk; None: within an archive
    encoding: str  # that params.yaml names; empty: found by itself


class _Bounded(io.RawIOBase):
    """A stream that fails when it has become too much larger than its packed form.

    Args:
        stream: without packing.
        file: that it reads, to be closed with it.
        packed: bytes of the packed form.
    """

    def __init__(self, stream: Any, file: Any, packed: int) -> None:
        self._stream, self._file, self._packed, self._read = stream, file, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        if self._read > max(FREE, MAX_RATIO * self._packed):
            raise OSError(f"it unpacks to more than {MAX_RATIO} times its size")
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()


def sources(
    path: str, located: Path, key: str, report: Report, encoding: str = ""
) -> Iterator[Source]:
    """A file, or the members of a .zip file that can be read, by their names.

    Args:
        encoding: of the text; empty: found by itself.

    Raises:
        Fault: the file has disappeared, or its archive cannot be read.
    """
    kind = kinds.kind_of(path)
    assert kind, path
    size = located.stat().st_size
    if kind.name != "zip":

        def open_file() -> BinaryIO:
            return unpacked(located.open("rb"), kind.packing, size)

        yield Source(path, kind, size, open_file, key, located, encoding)
        return
    try:
        archive = zipfile.ZipFile(located)
    # Places in it that do not exist
    except ValueError as error:
        raise zipfile.BadZipFile(str(error)) from None
    with archive:
        for member in sorted(archive.infolist(), key=lambda info: info.filename):
            yield from _member(archive, member, path, key, report, encoding)


def _member(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    path: str,
    key: str,
    report: Report,
    encoding: str,
) -> Iterator[Source]:
    name = member.filename
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    if member.is_dir() or is_hidden:
        return
    kind, inside, size = kinds.kind_of(name), f"{path}/{name}", member.compress_size
    if kind is None or kind.name == "zip":
        report.counts[f"other {kinds.ending(name)}"] += 1
        return
    kinds.require(kind.name, inside, key)
    if member.flag_bits & 1:
        fix = f"unpack it with its password, or take it out of {key}"
        report.skip(Fault(inside, "is encrypted", fix, size=size))
        return

    def open_member() -> BinaryIO:
        # The archive may have written that the member is smaller than it is
        stream = unpacked(archive.open(member), "", size)
        return unpacked(stream, kind.packing, size) if kind.packing else stream

    yield Source(inside, kind, size, open_member, key, None, encoding)


def unpacked(file: Any, packing: str, size: int) -> BinaryIO:
    """The bytes of an open file without its packing.

    Args:
        size: bytes of the packed file. Without packing it has no effect on a plain file.
    """
    stream: Any = file
    if packing in (".gz", ".zst"):
        name = "gzip" if packing == ".gz" else "zstd"
        stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), name)
    elif packing in (".bz2", ".xz"):
        open_packed: Any = bz2.open if packing == ".bz2" else lzma.open
        stream = open_packed(file)
    elif isinstance(file, io.BufferedReader):
        return file
    return io.BufferedReader(_Bounded(stream, file, size), 1 << 20)


def whole(source: Source, limit: int) -> bytes:
    """All bytes of a file that cannot be read in pieces.

    Raises:
        Fault: they are more than `limit`.
    """
    with source.open() as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        fix = f"cut it, or take it out of {source.key}"
        raise Fault(source.path, f"is larger than {limit >> 20} MB", fix, size=source.size)
    return data


def unreadable(source_path: str, error: BaseException, key: str, size: int) -> Fault:
    """The fault that an error of ERRORS means."""
    if isinstance(error, FileNotFoundError):
        return Fault(source_path, "has disappeared", f"restore it, or take it out of {key}")
    if isinstance(error, PermissionError):
        reason, fix = os.strerror(error.errno or 0), "change its permissions"
    elif isinstance(error, OSError) and error.errno:
        reason, fix = os.strerror(error.errno), "check its disk"
    else:
        lines = str(error).splitlines()
        reason, fix = lines[0] if lines else type(error).__name__, "fetch it again"
    fix += f", or take it out of {key}"
    return Fault(source_path, f"cannot be read ({reason})", fix, size=size)
