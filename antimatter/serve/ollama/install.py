"""Ollama's own release, in a folder that anybody can write to: no root, no HOME, no program but Python.

A release is `bin/ollama` and `lib/ollama/`, which must stay siblings. The version below is pinned with its checksums, so what runs is known.
Nothing here starts by itself: 1.4 GB are downloaded only when they are asked for (docs/decisions/0023-ollama-runtime.md).
"""

import contextlib
import errno
import gzip
import itertools
import os
import platform
import posixpath
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from antimatter import files
from antimatter.errors import UserError
from antimatter.serve.ollama import download
from antimatter.serve.ollama.download import megabytes

PREFIX = Path(".state/ollama")  # in the project, so no HOME is needed
VERSION = "0.32.9"
SHA256 = {  # of ollama-linux-<key>.tar.zst; see the decision record for where they come from
    "amd64": "5d747a43369f61e38f20b5a39fcc5c90647e562cdc61e2e56034f1c5b113d540",
    "arm64": "79617139521db251c716d6229505d7530171ff4d68e476d0c22dabc15726a237",
}
URL = "https://github.com/ollama/ollama/releases/download/v{version}/{name}"
SUMS = "sha256sum.txt"  # beside the archives of every release: `<sha256>  ./<name>`
# How folders of lib/ollama begin that a CPU has no use for
_GPU = ("cuda", "rocm", "vulkan", "mlx")
# Bytes on the disk for one of the archive, by cpu_only: 0.32.9 unpacks 1.42 GB to 2.25
_UNPACKED = {True: 0.3, False: 1.7}
_ANSWER = 20.0  # seconds for `--version`


def find(prefix: Path, environ: Mapping[str, str]) -> Path | None:
    """An Ollama that runs: the one on PATH, else the one in `prefix`."""
    on_path = shutil.which("ollama", path=environ.get("PATH", ""))
    candidates = [Path(on_path)] if on_path else []
    for path in (*candidates, prefix / "bin" / "ollama"):
        if version(path.absolute(), environ):
            return path.absolute()
    return None


def version(binary: Path, environ: Mapping[str, str]) -> str | None:
    """What `--version` says; None if it is no Ollama, or does not run here."""
    # It would ask a running server first, and nobody listens at port 0
    asked = {**environ, "OLLAMA_HOST": "127.0.0.1:0"}
    try:
        answer = subprocess.run(
            [binary, "--version"],
            env=asked,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    said = re.search(r"version is (\S+)", answer.stdout)
    return said[1] if said and answer.returncode == 0 else None


def install(
    prefix: Path,
    archive: str,
    cpu_only: bool,
    say: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """Unpacks a release into `prefix` and gives the path of its program. Interrupted, it leaves no half of an Ollama, and the next call goes on.

    Args:
        archive: a file or an http(s) address of another archive than the pinned one; it must be the pinned one in other clothes, or stand in a
            `sha256sum.txt` beside it. A file is never deleted.
        cpu_only: leave out the libraries for GPUs, nine tenths of the whole.
        say: is told what happens, in lines.

    Raises:
        BlockingIOError: another process is at it.
        ConnectionError: no network, or a server that breaks off.
        ValueError: no release for this machine; an archive with the wrong checksum, or with something in it that no release has.
        OSError: no room, or a place that cannot be written.
    """
    name = f"ollama-linux-{_architecture()}.tar.zst"
    url = (
        archive
        if re.match(r"https?://", archive)
        else ""
        if archive
        else URL.format(version=VERSION, name=name)
    )
    if not url:
        _check_file(Path(archive))
    with _written(prefix):
        prefix.mkdir(parents=True, exist_ok=True)
        with files.lock(prefix / ".install.lock", f"an installation of Ollama into {prefix}"):
            if url:
                local = _download(
                    url, prefix, _expected(url if archive else "", say), cpu_only, say
                )
            else:
                local = Path(archive)
                _check_room(prefix, local.stat().st_size * _UNPACKED[cpu_only])
            say(f"unpacking {local.name} into {prefix}")
            _unpack(local, prefix, cpu_only)
            if url:
                local.unlink()
    binary = (prefix / "bin" / "ollama").absolute()
    found = version(binary, environ)
    if not found:
        raise OSError(
            f"{binary} was installed, but does not run on this machine: `{binary} --version` shows why"
        )
    say(f"installed Ollama {found} in {prefix}{', for CPUs only' if cpu_only else ''}")
    return binary


def _architecture() -> str:
    known = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    if sys.platform != "linux" or platform.machine() not in known:
        machine = f"{platform.system()} {platform.machine()}"
        raise UserError(
            f"Ollama has no release that installs here ({machine}): put an `ollama` on the PATH, or use `--engine embedded`"
        )
    return known[platform.machine()]


def _expected(url: str, say: Callable[[str], None]) -> str:
    """The sha256 that the archive must have. Of another address than the pinned one it is what stands beside it, and else the pinned one too."""
    if url:
        sums = download.text(f"{url.rpartition('/')[0]}/{SUMS}", say)
        if sums is not None and (listed := _listed(sums, _name(url))):
            say(
                f"the checksum is taken from {SUMS} beside {url}, not from antimatter: it is as trustworthy as that server"
            )
            return listed
    return SHA256[_architecture()]


def _listed(sums: str, name: str) -> str | None:
    for line in sums.splitlines():
        words = line.split()
        if (
            len(words) == 2
            and words[1].removeprefix("*").removeprefix("./") == name
            and re.fullmatch(r"[0-9a-fA-F]{64}", words[0])
        ):
            return words[0].lower()
    return None


def _check_file(archive: Path) -> None:
    if not archive.is_file():
        raise FileNotFoundError(
            f"{archive} is no file: --archive wants a release of Ollama, such as ollama-linux-amd64.tar.zst, or its address"
        )
    digest, beside = files.sha256(archive), archive.with_name(SUMS)
    listed = (
        _listed(beside.read_text(encoding="utf-8", errors="replace"), archive.name)
        if beside.is_file()
        else None
    )
    if listed and digest != listed:
        raise UserError(
            f"{archive} has the wrong checksum (sha256 {digest}, {beside} says {listed}): fetch it again"
        )
    if not listed and digest not in SHA256.values():
        raise UserError(
            f"{archive} is not Ollama {VERSION} as released (sha256 {digest}): if it is another version, put the {SUMS} of its release beside it; "
            "if not, fetch it again"
        )


def _download(
    url: str, prefix: Path, expected: str, cpu_only: bool, say: Callable[[str], None]
) -> Path:
    """The archive, whole and checked. An unfinished one is named after its checksum too, so that no other release goes on with it."""
    name = _name(url)
    _kind(name)
    partial, whole = prefix / f"{name}.{expected[:12]}.partial", prefix / name
    have = partial.stat().st_size if partial.is_file() else 0
    say(f"downloading {url}" + (f", going on after {megabytes(have)}" if have else ""))

    def make_room(left: int) -> None:
        present = partial.stat().st_size
        _check_room(prefix, left + (present + left) * _UNPACKED[cpu_only])

    digest = download.file(url, partial, say, make_room)
    if digest != expected:
        partial.unlink()
        raise UserError(
            f"{url} has the wrong checksum (sha256 {digest}, expected {expected}): it was deleted, nothing was installed; run again"
        )
    os.replace(partial, whole)
    return whole


def _name(url: str) -> str:
    return posixpath.basename(urlsplit(url).path)


def _kind(name: str) -> str:
    for suffix in (".tar.zst", ".tgz", ".tar.gz"):
        if name.endswith(suffix):
            return suffix
    raise UserError(
        f"{name} is no archive of an Ollama release: they end in .tar.zst, older ones in .tgz"
    )


@contextlib.contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """Read as a stream: nothing of it needs to fit into memory, or onto the disk twice."""
    with contextlib.ExitStack() as stack:
        if _kind(archive.name) == ".tar.zst":
            import pyarrow  # has zstd, and is here anyway; Python has it from 3.14 on

            raw: Any = stack.enter_context(
                pyarrow.CompressedInputStream(
                    stack.enter_context(pyarrow.OSFile(str(archive))), "zstd"
                )
            )
        else:
            raw = stack.enter_context(gzip.open(archive))
        yield stack.enter_context(tarfile.open(fileobj=raw, mode="r|"))
        while raw.read(1 << 20):  # to the end of the last frame, where a cut or a flipped bit shows
            pass


def _unpack(archive: Path, prefix: Path, cpu_only: bool) -> None:
    """First lib/ollama takes its place, then bin/ollama, each by a rename: an Ollama that can be found is whole."""
    try:
        with (
            files.replacing(prefix / "bin" / "ollama") as binary,
            files.replacing(prefix / "lib" / "ollama") as library,
        ):
            library.mkdir()
            with _tar(archive) as tar:
                for member in tar:
                    _extract(tar, member, binary, library, cpu_only)
            if not binary.is_file():
                raise UserError("it holds no bin/ollama")
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise UserError(
            f"{archive} is no release of Ollama for Linux, or damaged ({error}): nothing was installed"
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise
        # pyarrow's own
        raise UserError(
            f"{archive} is no release of Ollama for Linux, or damaged ({error}): nothing was installed"
        ) from None


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, binary: Path, library: Path, cpu_only: bool
) -> None:
    """One member to its place, if it is part of the release.

    By tarfile's `data` filter's rules, and narrower: a file is only ever made new (O_EXCL), in real folders below `library`, so no link can lead a
    write elsewhere; a link's target lies inside, and goes up only at its beginning. Modes are 755 or 644.
    """
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise UserError(f"its member {member.name!r} lies outside of it")
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise UserError(f"its member {member.name!r} is neither file, folder nor link")
    if parts == ["bin", "ollama"] and member.isfile():
        return _write(tar, member, binary)
    if parts[:2] != ["lib", "ollama"] or len(parts) == 2:
        return None
    inside = parts[2:]
    if cpu_only and inside[0].startswith(_GPU):
        return None
    path = library.joinpath(*inside)
    for parent in path.relative_to(library).parents:
        if (library / parent).is_symlink():
            raise UserError(f"its member {member.name!r} lies behind a link")
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        raise UserError(f"its member {member.name!r} occurs twice")
    if member.isfile():
        return _write(tar, member, path)
    # A hard link's target counts from the archive's root
    base = "" if member.islnk() else "/".join(parts[:-1])
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
    content: IO[bytes] | None = tar.extractfile(member)
    assert content is not None
    with path.open("xb") as out:
        shutil.copyfileobj(content, out, 1 << 20)
    path.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)


def _check_room(prefix: Path, needed: float) -> None:
    free = shutil.disk_usage(prefix).free
    if free < needed:
        raise OSError(_no_room(prefix, free, f"about {megabytes(needed)}"))


def _no_room(prefix: Path, free: float, needed: str) -> str:
    return f"{prefix} has no room: the installation needs {needed}, {megabytes(free)} are free. Free some and run again, or choose another --prefix"


@contextlib.contextmanager
def _written(prefix: Path) -> Iterator[None]:
    """What the operating system says of a place that cannot be written to, in one line with a way out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(prefix).free
            raise OSError(_no_room(prefix, free, "more than that")) from None
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOENT,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ELOOP,
            errno.ENAMETOOLONG,
        ):
            raise OSError(
                f"{error.filename or prefix} cannot be written ({error.strerror}): choose another folder with --prefix"
            ) from None
        raise
