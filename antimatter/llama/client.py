"""JSON over HTTP, with the standard library: to llama.cpp, and to Ollama."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

CONNECT = 10.0  # seconds to reach a server that is on this machine, or near


class Hangup:
    """Ends calls from another thread, at once, also one that waits in the kernel for a byte: its socket is shut down under it. It stays in force."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False
        self._sockets: list[socket.socket] = []

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            for own in self._sockets:
                with contextlib.suppress(OSError):  # the other side was faster
                    own.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def watching(self, connected: socket.socket) -> Iterator[None]:
        """Raises ConnectionError if the call is given up already."""
        # http.client closes its number when it likes, and another takes it
        own = socket.fromfd(connected.fileno(), connected.family, connected.type)
        with own:
            with self._lock:
                if self._given_up:
                    raise ConnectionError("the call was given up")
                self._sockets.append(own)
            try:
                yield
            finally:
                with self._lock:
                    self._sockets.remove(own)


class Client:
    """One server. Every call opens its own connection, so an answer that is given up is over when its connection closes.

    Every failure is a ConnectionError of one line that names the server; it keeps the server's own words, if there are any.
    """

    def __init__(
        self,
        name: str,
        url: str,
        headers: dict[str, str] | None = None,
        hangup: Hangup | None = None,
    ) -> None:
        self.name = name  # as messages call it
        self.url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._hangup = hangup or Hangup()

    def until(self, hangup: Hangup) -> "Client":
        """The same server; these calls end as soon as somebody hangs up."""
        return Client(self.name, self.url, self._headers, hangup)

    def get(self, route: str, timeout: float) -> Any:
        with self._request("GET", route, None, timeout) as response:
            return self._parse(response.read())

    def post(self, route: str, body: dict[str, Any], timeout: float) -> Any:
        with self._request("POST", route, body, timeout) as response:
            return self._parse(response.read())

    def lines(self, route: str, body: dict[str, Any], timeout: float) -> Iterator[bytes]:
        """The lines of a streamed answer. Whole ones: a character is never cut by the border of a chunk. Closing the iterator hangs up.

        `timeout` is in seconds, and counts from one piece of the answer to the next.
        """
        with self._request("POST", route, body, timeout) as response:
            yield from response

    @contextmanager
    def _request(
        self, method: str, route: str, body: dict[str, Any] | None, timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=min(CONNECT, timeout))
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            with self._hangup.watching(connection.sock):
                connection.request(
                    method,
                    parts.path + route,
                    None if body is None else json.dumps(body),
                    self._headers,
                )
                with connection.getresponse() as response:
                    if response.status != 200:
                        raise ConnectionError(
                            f"{self.name} answered {response.status} to {route}: {_words(response.read())}"
                        )
                    yield response
        except (http.client.HTTPException, OSError) as error:
            if type(error) is ConnectionError:  # ours, from above
                raise
            raise ConnectionError(
                f"{self.name} does not answer to {route} ({error or type(error).__name__}): is it running?"
            ) from None
        finally:
            connection.close()

    def _parse(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except ValueError:
            raise ConnectionError(
                f"{self.name} did not answer in JSON: is another program listening there?"
            ) from None


def _words(body: bytes) -> str:
    """The message in {"error": "…"} (Ollama) or {"error": {"message": "…"}} (llama.cpp), or the text itself."""
    try:
        error = json.loads(body)["error"]
        words = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        words = body.decode("utf-8", errors="replace")
    return " ".join(str(words).split())[:300]
