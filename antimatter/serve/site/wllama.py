"""llama.cpp for the browser: the npm package @wllama/wllama, of one version and one digest.

Nothing of it is in Git. It is downloaded when a page is built, kept in .state, and compared with
the digest of the registry each time it is used (docs/decisions/0040-site.md).
"""

import base64
import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from antimatter import files, text
from antimatter.errors import UserError
from antimatter.serve import download

VERSION = "2.3.7"
# `npm view @wllama/wllama@2.3.7 dist.integrity`: a subresource integrity, in base64
INTEGRITY = (
    "sha512-T273gBEqEZCHAoyNZDg+X6boQWktaq+efNF6bJo5aHToJr7jS1kCYImKXDdBi2/CccRuBUcMBHHLHiQN4+OfKQ"
    "=="
)
LLAMA_CPP = "b7179"  # the release of llama.cpp in it
URL = "https://registry.npmjs.org/@wllama/wllama/-/wllama-{version}.tgz"
CACHE = Path(".state/wllama")
SCRIPT, LICENCE = "wllama.js", "LICENCE.txt"
SINGLE, MULTI = "single-thread.wasm", "multi-thread.wasm"
# What the page needs, by the name in the package
MEMBERS: Mapping[str, str] = {
    "package/esm/index.min.js": SCRIPT,
    "package/esm/single-thread/wllama.wasm": SINGLE,
    "package/esm/multi-thread/wllama.wasm": MULTI,
    "package/LICENCE": LICENCE,
}
_LARGEST = 100_000_000  # bytes of a member; those of the pinned version have 2 MB
_OFFLINE = "run `npm pack @wllama/wllama@{version}` elsewhere and name its file with --package"


def package(given: Path | None, log: Callable[[str], None], cache: Path = CACHE) -> Path:
    """The verified archive of the pinned version: `given`, or else the one in `cache`, which is
    downloaded if it is missing. An interrupted download is resumed by the next call.

    Raises:
        Locked: another process is downloading.
        UserError: no network, a server that fails, or another archive than the pinned one.
    """
    if given is not None:
        return _given(given)
    path = cache / f"wllama-{VERSION}.tgz"
    if path.is_file():
        if _integrity(path) == INTEGRITY:
            return path
        log(f"{path} is damaged: downloading it again")
    cache.mkdir(parents=True, exist_ok=True)
    with files.lock(cache / ".lock", "a download of wllama"):
        _download(path, log)
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Writes the files of MEMBERS to `folder`, under their names there and nothing else, so no name
    or link in the archive decides where a file goes.

    Raises:
        UserError: the archive is damaged, or lacks a member.
        OSError: the disk is full, or `folder` cannot be written.
    """
    missing = dict(MEMBERS)
    try:
        with gzip.open(archive) as raw, tarfile.open(fileobj=raw, mode="r|") as tar:
            for member in tar:
                if member.name not in missing:
                    continue
                if not member.isfile() or member.size > _LARGEST:
                    raise UserError(
                        f"its member {member.name!r} is not a file of the expected kind"
                    )
                content = tar.extractfile(member)
                assert content is not None
                with (folder / missing.pop(member.name)).open("xb") as out:
                    shutil.copyfileobj(content, out, 1 << 20)
            # To the end, where a truncation or a flipped bit is detected
            while raw.read(1 << 20):
                pass
        if missing:
            raise UserError(f"it has no {', '.join(missing)}")
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        fix = f"delete it, or name another copy of wllama {VERSION} with --package"
        raise UserError(
            f"{archive} is not the package of wllama, or damaged ({error}): {fix}"
        ) from None


def _given(path: Path) -> Path:
    if not path.is_file():
        fix = f"it takes wllama-{VERSION}.tgz, as from `npm pack @wllama/wllama@{VERSION}`"
        raise UserError(f"--package {path} is not a file: {fix}")
    if (found := _integrity(path)) != INTEGRITY:
        expected = f"found {found:.19}…, expected {INTEGRITY:.19}…"
        fix = f"download it again, as with `npm pack @wllama/wllama@{VERSION}`"
        raise UserError(f"--package {path} is not wllama {VERSION} ({expected}): {fix}")
    return path


def _download(path: Path, log: Callable[[str], None]) -> None:
    """The name of the part has the digest, so that no other version continues it."""
    url = URL.format(version=VERSION)
    digest = hashlib.sha256(INTEGRITY.encode()).hexdigest()[:12]
    partial = path.with_name(f"{path.name}.{digest}.partial")
    size = partial.stat().st_size if partial.is_file() else 0
    log(f"downloading {url}" + (f", resuming after {text.size(size)}" if size else ""))

    def make_room(remaining: int) -> None:
        free = shutil.disk_usage(path.parent).free
        if free < remaining:
            needed = f"{text.size(remaining)} are needed, {text.size(free)} are free"
            raise UserError(f"{path.parent} has no space: {needed}; free some and run again")

    download.file(url, partial, log, make_room, _OFFLINE.format(version=VERSION))
    if (found := _integrity(partial)) != INTEGRITY:
        partial.unlink()
        expected = f"found {found:.19}…, expected {INTEGRITY:.19}…"
        raise UserError(
            f"{url} has the wrong digest ({expected}): it was deleted, nothing was written; "
            "run again, and if the error stays, name a good copy with --package"
        )
    os.replace(partial, path)


def _integrity(path: Path) -> str:
    """As in the metadata of an npm registry and in `integrity` of HTML."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"
