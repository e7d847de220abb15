"""Unpacks the archive of an Ollama release, and trusts nothing in it.

By the rules of tarfile's `data` filter, which Python 3.11.0 to 3.11.3 do not have, and stricter:
only new files are written, in real folders below `lib/ollama`, so no link can redirect a write
(docs/decisions/0023-ollama-runtime.md).
"""

import contextlib
import gzip
import itertools
import os
import posixpath
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.errors import UserError

# Names of folders in lib/ollama that only GPUs need begin with one of these
_GPU = ("cuda", "rocm", "vulkan", "mlx")


def unpack(archive: Path, prefix: Path, cpu_only: bool) -> None:
    """Writes `bin/ollama` and `lib/ollama/` of the release to `prefix`. The library is renamed into
    place first and the program last, so an Ollama that can be found is complete.

    Raises:
        UserError: not an Ollama release, or damaged; nothing is installed.
        OSError: the disk is full, or `prefix` cannot be written.
    """
    try:
        with (
            files.replacing(prefix / "bin" / "ollama") as binary,
            files.replacing(prefix / "lib" / "ollama") as library,
        ):
            library.mkdir()
            with _open(archive) as tar:
                for member in tar:
                    _extract(tar, member, binary, library, cpu_only)
            if not binary.is_file():
                raise UserError("it has no bin/ollama")
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        # Those of pyarrow have no errno
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{archive} is not an Ollama release for Linux, or damaged ({error}): "
            "nothing was installed"
        ) from None


def check_name(name: str) -> None:
    """Raises UserError if an archive of this name cannot be unpacked."""
    if not name.endswith((".tar.zst", ".tgz", ".tar.gz")):
        raise UserError(
            f"{name} is not an archive of an Ollama release: they end in .tar.zst, older ones in "
            ".tgz"
        )


@contextlib.contextmanager
def _open(archive: Path) -> Iterator[tarfile.TarFile]:
    """Reads the archive as a stream, so it is neither held in memory nor decompressed on disk."""
    check_name(archive.name)
    with contextlib.ExitStack() as stack:
        if archive.suffix == ".zst":
            # A dependency that has zstd; the standard library has it from Python 3.14 on
            import pyarrow

            file = stack.enter_context(pyarrow.OSFile(str(archive)))
            raw: Any = stack.enter_context(pyarrow.CompressedInputStream(file, "zstd"))
        else:
            raw = stack.enter_context(gzip.open(archive))
        yield stack.enter_context(tarfile.open(fileobj=raw, mode="r|"))
        # To the end of the last frame, where a truncation or a flipped bit is detected
        while raw.read(1 << 20):
            pass


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, binary: Path, library: Path, cpu_only: bool
) -> None:
    """Writes one member, if it is part of the release. Modes are 755 or 644."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise UserError(f"its member {member.name!r} is outside of it")
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise UserError(f"its member {member.name!r} is neither a file, a folder nor a link")
    if parts == ["bin", "ollama"] and member.isfile():
        return _write(tar, member, binary)
    if parts[:2] != ["lib", "ollama"] or len(parts) == 2:
        return None
    if cpu_only and parts[2].startswith(_GPU):
        return None
    path = library.joinpath(*parts[2:])
    if any((library / parent).is_symlink() for parent in path.relative_to(library).parents):
        raise UserError(f"its member {member.name!r} is behind a link")
    if member.isdir():
        return path.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        raise UserError(f"its member {member.name!r} occurs twice")
    if member.isfile():
        return _write(tar, member, path)
    return _link(member, path, library)


def _link(member: tarfile.TarInfo, path: Path, library: Path) -> None:
    """A link whose target is inside `lib/ollama`, and which goes up only at its beginning: `a/..`
    would leave the folder that `a` is in, if `a` is a link too.
    """
    # The target of a hard link is relative to the root of the archive
    base = "" if member.islnk() else posixpath.dirname(posixpath.normpath(member.name))
    target = posixpath.normpath(posixpath.join(base, member.linkname))
    downwards = itertools.dropwhile(lambda part: part in ("..", "."), member.linkname.split("/"))
    if ".." in downwards or not target.startswith("lib/ollama/"):
        raise UserError(f"its link {member.name!r} leads outside, to {member.linkname!r}")
    source = library / target.removeprefix("lib/ollama/")
    if member.issym():
        path.symlink_to(member.linkname)
    elif source.is_symlink() or not source.is_file():
        raise UserError(f"its link {member.name!r} has no target {member.linkname!r}")
    else:
        os.link(source, path)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None
    with path.open("xb") as out:
        shutil.copyfileobj(content, out, 1 << 20)
    path.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)
