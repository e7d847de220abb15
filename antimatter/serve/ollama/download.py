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

from antimatter import retries

STALL = 30.0  # seconds without a byte: the connection counts as broken
TRIES = 5  # in a row that brought less than PROGRESS
PROGRESS = 1 << 16  # bytes
BACKOFF = 1.0  # seconds before the second try; doubles with each
_PIECE = 1 << 20


class _Broken(Exception):
    """What may do better at the next try."""


class _Busy(_Broken):
    """A status that says so. `wish`: the seconds that the server asks to wait."""

    def __init__(self, words: str, wish: float) -> None:
        super().__init__(words)
        self.wish = wish


class _Absent(FileNotFoundError):
    """404."""


class _Tries:
    """The tries of one request: how many were in vain, and the pauses between them."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self.reached = False  # the server has answered, whatever it was
        self._url, self._say, self._vain = url, say, 0

    def failed(self, error: _Broken, brought: int = 0, size: int = 0) -> None:
        """Waits for the next try.

        Args:
            brought: bytes that this try brought, of the `size` that are here.

        Raises:
            ConnectionError: no further try is worth it.
        """
        wish = error.wish if isinstance(error, _Busy) else 0.0
        self.reached = self.reached or isinstance(error, _Busy)
        if not self.reached:
            fix = "without a network, give the archive as a file with --archive"
            raise ConnectionError(
                f"{urlsplit(self._url).netloc} cannot be reached ({error}): {fix}"
            )
        if wish > retries.LONGEST:
            asked = f"the server asks to wait {retries.span(wish)}"
            raise ConnectionError(f"{self._url}: {error}; {asked}: run again after that to go on")
        self._vain = 0 if brought >= PROGRESS else self._vain + 1
        if self._vain == TRIES:
            vain = f"{TRIES} times in a row at {megabytes(size)}"
            if isinstance(error, _Busy):
                raise ConnectionError(f"{self._url}: {error}, {vain}: run again later to go on")
            raise ConnectionError(f"{self._url} broke off {vain} ({error}): run again to go on")
        if wish:
            self._say(f"{self._url}: {error}; waiting {retries.span(wish)}, as the server asks")
        time.sleep(max(wish, BACKOFF * 2 ** max(self._vain - 1, 0)))


def text(url: str, say: Callable[[str], None]) -> str | None:
    """A small file; None if the server has none. Raises ConnectionError, or OSError for a refusal."""
    tries = _Tries(url, say)
    while True:
        content = b""
        try:
            with _open(url, {}) as response:
                tries.reached, total = True, _total(response, 0)
                for piece in _pieces(response):
                    content += piece
                    if len(content) > _PIECE:
                        raise ConnectionError(f"{url} has more than 1 MB: is the address right?")
            if total is not None and len(content) < total:
                raise _Broken("the connection was closed early")
            return content.decode("utf-8", errors="replace")
        except _Absent:
            return None
        except _Broken as error:
            tries.failed(error)


def file(url: str, path: Path, say: Callable[[str], None], make_room: Callable[[int], None]) -> str:
    """Downloads to `path`, and gives the sha256 of the whole.

    What `path` holds already is gone on with if the server can (Range) and its file is still the same one (ETag, kept in `<path>.etag`); else it is
    fetched anew.

    Args:
        make_room: is told the bytes that are left to come, if the server says; raises OSError if there is no room for them.

    Raises:
        ConnectionError: the server cannot be reached, or broke off or was busy too often.
        OSError: it has no such file, or the disk is full.
    """
    tag = path.with_name(f"{path.name}.etag")
    progress = _Progress(urlsplit(url).path.rpartition("/")[2], say)
    digest, size, tries = hashlib.sha256(), 0, _Tries(url, say)
    with contextlib.closing(progress), path.open("a+b") as out:
        out.seek(0)
        for piece in iter(lambda: out.read(_PIECE), b""):
            digest.update(piece)
            size += len(piece)
        while True:
            before = size
            try:
                with _open(url, _range(size, tag)) as response:
                    tries.reached = True
                    if size and not _continues(response, size, tag):
                        before = size = _empty(out)
                        digest = hashlib.sha256()
                        # A part of something else: ask again, for the whole
                        if response.status == 206:
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
                tag.unlink(missing_ok=True)
                return digest.hexdigest()
            except urllib.error.HTTPError as error:  # 416: nothing comes after what is here
                if error.headers.get("Content-Range") == f"bytes */{size}":
                    tag.unlink(missing_ok=True)
                    return digest.hexdigest()
                size, digest = _empty(out), hashlib.sha256()
            except _Broken as error:
                tries.failed(error, size - before, size)


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
    return bool(
        response.status == 206
        and response.headers.get("Content-Range", "").startswith(f"bytes {size}-")
        and same
    )


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
    # urllib passes the Range on to where it is redirected
    request = urllib.request.Request(url, headers={"User-Agent": "antimatter", **headers})
    try:
        response = urllib.request.urlopen(request, timeout=STALL)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            raise
        if error.code in (408, 425, 429) or error.code >= 500:
            wish = retries.asked(error.headers.get("Retry-After", ""), time.time())
            raise _Busy(f"{error.code} {error.reason}", wish) from None
        kind = _Absent if error.code == 404 else ConnectionError
        raise kind(f"{url}: {error.code} {error.reason}: is the address right?") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise ConnectionError(
                f"{url}: the server's certificate or its TLS is no good ({error.reason})"
            ) from None
        raise _Broken(error.reason) from None
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(error or type(error).__name__) from None
    with response:
        if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
            raise ConnectionError(
                f"{url} leads to {response.url}, which is not encrypted: it is not followed"
            )
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

    def close(self) -> None:
        if self._terminal and self._shown:
            sys.stderr.write("\n")
