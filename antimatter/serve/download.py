"""One large file over HTTP. A connection that breaks costs what was under way, not what has arrived: this run goes on from there, or the next one.

Standard library alone. A proxy is taken from the environment (`https_proxy`, `no_proxy`).
"""

import contextlib
import hashlib
import http.client
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

STALL = 30.0  # seconds without a byte: the connection counts as broken
TRIES = 5  # in a row that brought no byte
BACKOFF = 1.0  # seconds before the second try; doubles with each
_PIECE = 1 << 20


class _Broken(Exception):
    """What may do better at the next try."""


class _Absent(FileNotFoundError):
    """404."""


def text(url: str) -> str | None:
    """A small file; None if the server has none. Raises ConnectionError, or OSError for a refusal."""
    try:
        with _open(url, {}) as response:
            return bytes(response.read(_PIECE)).decode("utf-8", errors="replace")
    except _Absent:
        return None
    except (_Broken, http.client.HTTPException, OSError) as error:
        raise _in_one_line(url, error) from None


def file(url: str, path: Path, say: Callable[[str], None], make_room: Callable[[int], None]) -> str:
    """Downloads to `path`, and gives the sha256 of the whole.

    What `path` holds already is gone on with if the server can (Range) and its file is still the same one (ETag, kept in `<path>.etag`); else it is
    fetched anew.

    Args:
        make_room: is told the bytes that are left to come, if the server says; raises OSError if there is no room for them.

    Raises:
        ConnectionError: the server cannot be reached, or broke off too often.
        OSError: it has no such file, or the disk is full.
    """
    tag = path.with_name(f"{path.name}.etag")
    progress = _Progress(urlsplit(url).path.rpartition("/")[2], say)
    digest, size, answered, failures = hashlib.sha256(), 0, False, 0
    with path.open("a+b") as out:
        out.seek(0)
        for piece in iter(lambda: out.read(_PIECE), b""):
            digest.update(piece)
            size += len(piece)
        while True:
            before = size
            try:
                with _open(url, _range(size, tag)) as response:
                    answered = True
                    if size and not _continues(response, size, tag):
                        before = size = _empty(out)
                        digest = hashlib.sha256()
                        if response.status == 206:  # a part of something else: ask again, for the whole
                            continue
                    if not size:
                        _keep_tag(response, tag)
                    total = _total(response, size)
                    if total is not None:
                        make_room(total - size)
                    for piece in _pieces(response):
                        out.write(piece)
                        digest.update(piece)
                        size += len(piece)
                        progress.show(size, total)
                if total is not None and size < total:
                    raise _Broken("the connection was closed early")
                out.flush()
                progress.end()
                tag.unlink(missing_ok=True)
                return digest.hexdigest()
            except urllib.error.HTTPError as error:  # 416: nothing comes after what is here
                if error.headers.get("Content-Range") == f"bytes */{size}":
                    tag.unlink(missing_ok=True)
                    return digest.hexdigest()
                size, digest = _empty(out), hashlib.sha256()
            except _Broken as error:
                failures = 0 if size > before else failures + 1
                if not answered:
                    raise _in_one_line(url, error) from None
                if failures == TRIES:
                    progress.end()
                    raise ConnectionError(f"{url} broke off {TRIES} times in a row at {megabytes(size)} ({error}): run again to go on") from None
                time.sleep(BACKOFF * 2 ** (failures - 1) if failures else 0)


def megabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _range(size: int, tag: Path) -> dict[str, str]:
    if not size:
        return {}
    known = tag.read_text(encoding="utf-8") if tag.is_file() else ""
    return {"Range": f"bytes={size}-"} | ({"If-Range": known} if known else {})


def _continues(response: Any, size: int, tag: Path) -> bool:
    """Whether the answer begins where the file here ends, and is of the same file: there are servers that know Range, but not If-Range."""
    known = tag.read_text(encoding="utf-8") if tag.is_file() else ""
    same = not known or response.headers.get("ETag", known) == known
    return bool(response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {size}-") and same)


def _keep_tag(response: Any, tag: Path) -> None:
    value = response.headers.get("ETag", "")
    if value and not value.startswith("W/"):  # a weak one does not promise the same bytes
        tag.write_text(value, encoding="utf-8")
    else:
        tag.unlink(missing_ok=True)


def _total(response: Any, size: int) -> int | None:
    """Bytes of the whole file, None if the server does not say."""
    length = response.headers.get("Content-Length")
    return size + int(length) if length and length.isdecimal() else None


def _empty(out: BinaryIO) -> int:
    out.truncate(0)  # it is open for appending: writes go to the end
    return 0


@contextlib.contextmanager
def _open(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """The answer, after all redirections. Raises _Broken, _Absent, ConnectionError, or HTTPError 416."""
    request = urllib.request.Request(url, headers={"User-Agent": "antimatter", **headers})  # urllib passes the Range on to where it is redirected
    try:
        response = urllib.request.urlopen(request, timeout=STALL)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            raise
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Broken(f"{error.code} {error.reason}") from None
        kind = _Absent if error.code == 404 else ConnectionError
        raise kind(f"{url}: {error.code} {error.reason}: is the address right?") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise ConnectionError(f"{url}: the server's certificate or its TLS is no good ({error.reason})") from None
        raise _Broken(error.reason) from None
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(error or type(error).__name__) from None
    with response:
        if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
            raise ConnectionError(f"{url} leads to {response.url}, which is not encrypted: it is not followed")
        yield response


def _pieces(response: Any) -> Iterator[bytes]:
    """Each as it arrives: read() would hold a megabyte back, and lose it with the connection."""
    while True:
        try:
            piece = response.read1(_PIECE)
        except (http.client.HTTPException, OSError) as error:
            raise _Broken(error or type(error).__name__) from None
        if not piece:
            return
        yield piece


def _in_one_line(url: str, error: Exception) -> OSError:
    if isinstance(error, OSError) and not isinstance(error, urllib.error.URLError):
        return error
    return ConnectionError(f"{urlsplit(url).netloc} cannot be reached ({error}): without a network, give the archive as a file with --archive")


class _Progress:
    """On a terminal one line that is rewritten, elsewhere a line every tenth."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say, self._terminal = name, say, sys.stderr.isatty()
        self._began, self._shown, self._first, self._tenth = time.monotonic(), 0.0, -1, 0

    def show(self, size: int, total: int | None) -> None:
        now = time.monotonic()
        if self._first < 0:
            self._first, self._tenth = size, size * 10 // total if total else 0
        share = f" of {megabytes(total)} ({size / total:.0%})" if total else ""
        rate = f", {megabytes((size - self._first) / max(now - self._began, 1e-3))}/s"
        line = f"{self._name}: {megabytes(size)}{share}{rate}"
        if self._terminal:
            if now - self._shown > 0.2 or size == total:
                self._shown = now
                sys.stderr.write(f"\r\033[K{line}")
                sys.stderr.flush()
        elif total and size * 10 // total > self._tenth:
            self._tenth = size * 10 // total
            self._say(line)

    def end(self) -> None:
        if self._terminal and self._shown:
            sys.stderr.write("\n")
