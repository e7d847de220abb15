"""Installs Ollama's own release into any writable folder: no root, no HOME, no program but Python.

A release is `bin/ollama` and `lib/ollama/`, which must stay siblings. The version is pinned with
its checksums. Nothing is downloaded unless the user asks for it, because a release has 1.4 GB
(docs/decisions/0023-ollama-runtime.md).
"""

import contextlib
import errno
import os
import platform
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from antimatter import files, text
from antimatter.errors import UserError
from antimatter.serve import download
from antimatter.serve.ollama import release

PREFIX = Path(".state/ollama")  # in the project, so no HOME is needed
VERSION = "0.32.9"
# Of ollama-linux-<key>.tar.zst; the decision record has their sources
SHA256 = {
    "amd64": "5d747a43369f61e38f20b5a39fcc5c90647e562cdc61e2e56034f1c5b113d540",
    "arm64": "79617139521db251c716d6229505d7530171ff4d68e476d0c22dabc15726a237",
}
URL = "https://github.com/ollama/ollama/releases/download/v{version}/{name}"
SUMS = "sha256sum.txt"  # beside the archives of every release: `<sha256>  ./<name>`
# Bytes on the disk per byte of the archive, by cpu_only: 0.32.9 unpacks 1.42 GB to 2.25
_UNPACKED = {True: 0.3, False: 1.7}
_OFFLINE = "give the archive as a file with --archive"
_VERSION_TIMEOUT = 20.0  # seconds for `--version`
_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT),
    *(errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG),
}
_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def find(prefix: Path, environ: Mapping[str, str]) -> Path | None:
    """An Ollama that runs: the one on PATH, else the one in `prefix`."""
    on_path = shutil.which("ollama", path=environ.get("PATH", ""))
    candidates = [Path(on_path)] if on_path else []
    for path in (*candidates, prefix / "bin" / "ollama"):
        if version(path.absolute(), environ):
            return path.absolute()
    return None


def version(binary: Path, environ: Mapping[str, str]) -> str | None:
    """The version of an Ollama; None if it is another program, or does not run here."""
    try:
        output = subprocess.run(
            [binary, "--version"],
            # It would ask a running server first, and nothing listens at port 0
            env={**environ, "OLLAMA_HOST": "127.0.0.1:0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
            check=True,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    match = re.search(r"version is (\S+)", output)
    return match[1] if match else None


def install(
    prefix: Path,
    archive: str,
    cpu_only: bool,
    log: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """Installs a release into `prefix` and returns the path of its program. An interrupted
    installation leaves no incomplete Ollama, and the next call resumes it.

    Args:
        archive: the path or the http(s) address of an archive, "" for the pinned release. It must
            be the pinned release, or be listed in a `sha256sum.txt` beside it. A file is never
            deleted.
        cpu_only: omit the libraries for GPUs, nine tenths of the whole.
        log: called with lines about the progress.

    Raises:
        Locked: another process is installing.
        UserError: no network, or a server that fails; no release for this machine; an archive with
            a wrong checksum or with a member that no release has; no space; `prefix` cannot be
            written.
    """
    architecture = _architecture()
    is_file = bool(archive) and not re.match(r"https?://", archive)
    if is_file:
        _check_file(Path(archive))
    with _naming(prefix):
        prefix.mkdir(parents=True, exist_ok=True)
        with files.lock(prefix / ".install.lock", f"an installation of Ollama into {prefix}"):
            if is_file:
                path = Path(archive)
                _check_space(prefix, path.stat().st_size * _UNPACKED[cpu_only])
            else:
                path = _download(archive, architecture, prefix, cpu_only, log)
            log(f"unpacking {path.name} into {prefix}")
            release.unpack(path, prefix, cpu_only)
            if not is_file:
                path.unlink()
    binary = (prefix / "bin" / "ollama").absolute()
    installed = version(binary, environ)
    if not installed:
        raise UserError(
            f"{binary} was installed, but does not run on this machine: "
            f"`{binary} --version` shows why"
        )
    log(f"installed Ollama {installed} in {prefix}{', for CPUs only' if cpu_only else ''}")
    return binary


def _architecture() -> str:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        raise UserError(
            f"Ollama has no release that installs here ({platform.system()} {machine}): "
            "put an `ollama` on the PATH, or use `--engine embedded`"
        )
    return _ARCHITECTURES[machine]


def _check_file(archive: Path) -> None:
    """Raises UserError unless its checksum is that of sha256sum.txt beside it, or without that of
    the pinned release.
    """
    if not archive.is_file():
        raise UserError(
            f"{archive} is not a file: --archive takes a release of Ollama, such as "
            "ollama-linux-amd64.tar.zst, or its address"
        )
    digest, sums = files.sha256(archive), archive.with_name(SUMS)
    listed = None
    if sums.is_file():
        listed = _listed(sums.read_text(encoding="utf-8", errors="replace"), archive.name)
    if listed and digest != listed:
        raise UserError(
            f"{archive} has the wrong checksum (sha256 {digest}, {sums} has {listed}): "
            "download it again"
        )
    if not listed and digest not in SHA256.values():
        raise UserError(
            f"{archive} is not the release {VERSION} of Ollama (sha256 {digest}): if it is another "
            f"version, put the {SUMS} of its release beside it; if not, download it again"
        )


def _download(
    address: str, architecture: str, prefix: Path, cpu_only: bool, log: Callable[[str], None]
) -> Path:
    """The archive, complete and verified.

    The name of an incomplete one has its checksum, so no other release can continue it.
    """
    url = address or URL.format(version=VERSION, name=f"ollama-linux-{architecture}.tar.zst")
    try:
        name = posixpath.basename(urlsplit(url).path)
    except ValueError:
        name = ""
    if not name:
        fix = f"must be a file, or an address that ends in the name of one, got {url!r}"
        raise UserError(f"--archive {fix}")
    release.check_name(name)
    expected = (_listed_beside(url, name, log) if address else None) or SHA256[architecture]
    partial, complete = prefix / f"{name}.{expected[:12]}.partial", prefix / name
    size = partial.stat().st_size if partial.is_file() else 0
    log(f"downloading {url}" + (f", resuming after {text.size(size)}" if size else ""))

    def make_room(remaining: int) -> None:
        total = partial.stat().st_size + remaining
        _check_space(prefix, remaining + total * _UNPACKED[cpu_only])

    download.file(url, partial, log, make_room, _OFFLINE)
    digest = files.sha256(partial)
    if digest != expected:
        partial.unlink()
        raise UserError(
            f"{url} has the wrong checksum (sha256 {digest}, expected {expected}): it was deleted, "
            "nothing was installed; run again"
        )
    os.replace(partial, complete)
    return complete


def _listed_beside(url: str, name: str, log: Callable[[str], None]) -> str | None:
    """The sha256 that the server lists for its archive, if it does."""
    sums = download.small_file(f"{url.rpartition('/')[0]}/{SUMS}", log, _OFFLINE)
    listed = _listed(sums or "", name)
    if listed:
        log(
            f"the checksum is from {SUMS} beside {url}, not from antimatter: "
            "it is as trustworthy as that server"
        )
    return listed


def _listed(sums: str, name: str) -> str | None:
    """The sha256 of a file in the text of a sha256sum.txt."""
    pattern = rf"^([0-9a-fA-F]{{64}})[ \t]+\*?(?:\./)?{re.escape(name)}[ \t\r]*$"
    match = re.search(pattern, sums, re.MULTILINE)
    return match[1].lower() if match else None


def _check_space(prefix: Path, needed: float) -> None:
    free = shutil.disk_usage(prefix).free
    if free < needed:
        raise _no_space(prefix, free, f"about {text.size(needed)}")


def _no_space(prefix: Path, free: float, needed: str) -> UserError:
    return UserError(
        f"{prefix} has no space: the installation needs {needed}, {text.size(free)} are free. "
        "Free some and run again, or choose another --prefix"
    )


@contextlib.contextmanager
def _naming(prefix: Path) -> Iterator[None]:
    """Explains the errors of the operating system about a folder that cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(prefix, shutil.disk_usage(prefix).free, "more") from None
        if error.errno in _UNWRITABLE:
            raise UserError(
                f"{error.filename or prefix} cannot be written ({error.strerror}): "
                "choose another folder with --prefix"
            ) from None
        raise
