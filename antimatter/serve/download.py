"""Downloads over HTTP that resume after a broken connection: within this run, or in the next one.

Standard library only. The proxy comes from the environment (`https_proxy`, `no_proxy`).
"""

import contextlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from antimatter import retries, text
from antimatter.errors import UserError
from antimatter.progress import StatusLine

STALL = 30.0  # seconds without a byte, then the connection counts as broken
TRIES = 5  # failures in a row, then the download ends
PROGRESS = 1 << 16  # bytes; a try that brings fewer counts as a failure
BACKOFF = 1.0  # seconds before the second try; each pause is twice the one before
_PIECE = 1 << 20

Log = Callable[[str], None]
Response = http.client.HTTPResponse


class _Broken(Exception):
    """A failure that another try may not have.

    Args:
        asked: seconds that the server asks to wait.
        reached: the failure is an answer of the server.
    """

    def __init__(self, reason: object, asked: float = 0.0, *, reached: bool = False) -> None:
        super().__init__(reason)
        self.asked, self.reached = asked, reached


class _Absent(UserError):
    """404."""


class _Tries:
    """The tries of one request, with the pauses between them."""

    def __init__(self, url: str, log: Log, offline: str) -> None:
        self.reached = False  # the server has answered at least once
        self._url, self._log, self._offline = url, log, offline
        self._backoff = retries.Backoff(TRIES, BACKOFF)

    def wait(self, error: _Broken, size: int = 0, received: int = 0) -> None:
        """Sleeps until the next try.

        Args:
            size: bytes downloaded so far, in all tries.
            received: bytes of the try that failed.

        Raises:
            UserError: another try makes no sense.
        """
        self.reached = self.reached or error.reached
        if not self.reached:
            raise UserError(
                f"{urlsplit(self._url).netloc} cannot be reached ({error}): without a network, "
                f"{self._offline}"
            )
        try:
            pause = self._backoff.pause(error.asked, progressed=received >= PROGRESS)
        except retries.GaveUp as reason:
            raise UserError(
                f"{self._url}: {error}; {reason}, with {text.size(size)} downloaded: "
                "run again later to resume"
            ) from None
        if error.asked:
            self._log(
                f"{self._url}: {error}; waiting {retries.duration(pause)}, as the server asks"
            )
        time.sleep(pause)


def small_file(url: str, log: Log, offline: str) -> str | None:
    """The text of a file of at most 1 MB; None if the server has none (404).

    Args:
        offline: what to do without a network, for the message.

    Raises:
        UserError: the server cannot be reached, or refuses.
    """
    tries = _Tries(url, log, offline)
    while True:
        content = b""
        try:
            with _open(url) as response:
                tries.reached = True
                for piece in _pieces(response):
                    content += piece
                    if len(content) > _PIECE:
                        raise UserError(f"{url} has more than 1 MB: check the address")
            return content.decode("utf-8", errors="replace")
        except _Absent:
            return None
        except _Broken as error:
            tries.wait(error)


def file(url: str, path: Path, log: Log, make_room: Callable[[int], None], offline: str) -> None:
    """Downloads to `path`. The bytes that are there already are kept if the server can continue
    after them (Range, RFC 9110, 14.2); otherwise the download starts over.

    The caller must verify the checksum of the whole file, which also detects a file that changed on
    the server between two tries.

    Args:
        make_room: called with the bytes still to come, if the server says so; raises if they do not
            fit on the disk.
        offline: what to do without a network, for the message.

    Raises:
        UserError: the server cannot be reached, has no such file, or failed too often.
        OSError: the disk is full, or `path` cannot be written.
    """
    tries, name = _Tries(url, log, offline), urlsplit(url).path.rpartition("/")[2]
    with StatusLine(keep=True) as status, path.open("ab") as out:
        while True:
            start = out.seek(0, os.SEEK_END)
            try:
                with _open(url, start) as response:
                    tries.reached = True
                    if start and not _continues(response, start):
                        start = _empty(out)
                        # A part that begins elsewhere: request the whole
                        if response.status == 206:
                            continue
                    _receive(response, out, status, name, make_room)
                return
            except urllib.error.HTTPError as error:  # 416: nothing comes after the bytes here
                if error.headers.get("Content-Range") == f"bytes */{start}":
                    return
                _empty(out)
            except _Broken as error:
                status.close()
                tries.wait(error, out.tell(), out.tell() - start)


def _receive(
    response: Response,
    out: BinaryIO,
    status: StatusLine,
    name: str,
    make_room: Callable[[int], None],
) -> None:
    """Appends the body to `out`, and shows the progress."""
    start = size = out.tell()
    began = time.monotonic()
    total = start + response.length if response.length is not None else None
    if total is not None:
        make_room(total - start)
    for piece in _pieces(response):
        size += out.write(piece)
        rate = (size - start) / max(time.monotonic() - began, 1e-3)
        of = f" of {text.size(total)} ({size / total:.0%})" if total else ""
        status.show(f"{name}: {text.size(size)}{of}, {text.size(rate)}/s", force=size == total)


def _continues(response: Response, start: int) -> bool:
    content_range = response.headers.get("Content-Range", "")
    return response.status == 206 and content_range.startswith(f"bytes {start}-")


def _empty(out: BinaryIO) -> int:
    out.seek(0)
    return out.truncate()


@contextlib.contextmanager
def _open(url: str, start: int = 0) -> Iterator[Response]:
    """The response after all redirections.

    Raises:
        _Broken, UserError: another try makes sense, or does not.
        urllib.error.HTTPError: 416 only, if `start` is not 0.
    """
    # urllib sends the Range to the target of a redirection too
    headers = {"User-Agent": "antimatter"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), None, STALL)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:
            raise
        if error.code in (408, 425, 429) or error.code >= 500:
            asked = retries.retry_after(error.headers.get("Retry-After", ""), time.time())
            raise _Broken(f"{error.code} {error.reason}", asked, reached=True) from None
        kind = _Absent if error.code == 404 else UserError
        raise kind(f"{url}: {error.code} {error.reason}: check the address") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            raise UserError(
                f"{url}: the TLS connection or its certificate is invalid ({error.reason})"
            ) from None
        raise _Broken(error.reason) from None
    # The address itself, or one that it redirects to
    except (http.client.InvalidURL, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{url!r} is not a valid address ({reason}): check it") from None
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(error or type(error).__name__) from None
    with response:
        if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
            raise UserError(f"{url} redirects to {response.url}, which is not encrypted")
        yield response


def _pieces(response: Response) -> Iterator[bytes]:
    """The body, each piece as it arrives: read() would hold back a megabyte, and lose it with the
    connection.

    Raises:
        _Broken: the connection ends before the body does.
    """
    while True:
        try:
            piece = response.read1(_PIECE)
        except (http.client.HTTPException, OSError) as error:
            raise _Broken(error or type(error).__name__) from None
        if not piece:
            break
        yield piece
    if response.length:  # bytes still to come
        raise _Broken("the connection was closed early")
