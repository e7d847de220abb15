"""JSON over HTTP to an inference server: llama.cpp, or Ollama.

The streaming calls are asynchronous, so cancelling a task, or closing the iterator of lines, closes
the connection, and with it ends the generation. `call` is for code without an event loop.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from antimatter.errors import UserError

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 10.0  # to a server on this machine, or near
_MAX_LINE = 1 << 22  # bytes: the last event of llama.cpp repeats the prompt

# The proxies of the environment are not for a server on this machine
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class BackendError(UserError):
    """The inference server is unreachable, refuses the request, or ends an answer early."""


@dataclass(frozen=True)
class Client:
    """One server. Every failure is a BackendError of one line that names it and quotes its message.

    Timeouts are in seconds, from one piece of an answer to the next.
    """

    name: str  # in messages
    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, route: str, body: dict[str, Any] | None = None, *, timeout: float) -> Any:
        """The JSON answer to a GET, or with a body to a POST."""
        content = None if body is None else json.dumps(body).encode()
        headers = self.headers | {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + route, content, headers)
        try:
            with _opener.open(request, timeout=timeout) as response:
                return self._parse(response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(route, error.code, error.read()) from None
        except http.client.IncompleteRead:
            raise self._broken_off() from None
        # UnicodeError: no such host name can be encoded
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._unreachable(route, getattr(error, "reason", error)) from None

    async def request(
        self, route: str, body: dict[str, Any] | None = None, *, timeout: float
    ) -> Any:
        """The same as `call`, without blocking the event loop."""
        async with self._open(route, body, timeout) as response:
            return self._parse(await response.read())

    async def lines(
        self, route: str, body: dict[str, Any], timeout: float
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer, never cut at the borders of chunks."""
        async with self._open(route, body, timeout) as response:
            async for line in response.content:
                yield line

    @asynccontextmanager
    async def _open(
        self, route: str, body: dict[str, Any] | None, timeout: float
    ) -> "AsyncIterator[aiohttp.ClientResponse]":
        # Takes a tenth of a second, which the start of a chat need not wait for
        import aiohttp

        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=timeout)
        # Compressed, the pieces of an answer would wait for each other
        headers = self.headers | {"Accept-Encoding": "identity"}
        method = "GET" if body is None else "POST"
        try:
            # A session for each call: a connection that is closed ends its generation, so none is
            # ever used again, and no session is bound to an event loop or left open
            async with (
                aiohttp.ClientSession(
                    headers=headers, timeout=limits, read_bufsize=_MAX_LINE // 2
                ) as session,
                session.request(method, self.url + route, json=body) as response,
            ):
                if response.status != 200:
                    raise self._refused(route, response.status, await response.read())
                yield response
        except aiohttp.ClientPayloadError:
            raise self._broken_off() from None
        # A TimeoutError is an OSError; a line that is too long is an HttpProcessingError
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError) as error:
            raise self._unreachable(route, error) from None

    def _parse(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise BackendError(
                f"{self.name} did not answer in JSON: is another program listening there?"
            ) from None

    def _refused(self, route: str, status: int, content: bytes) -> BackendError:
        return BackendError(f"{self.name} answered {status} to {route}: {_message(content)}")

    def _broken_off(self) -> BackendError:
        return BackendError(f"{self.name} broke off the answer: ask again")

    def _unreachable(self, route: str, error: object) -> BackendError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return BackendError(f"{self.name} does not answer to {route} ({reason}): is it running?")


def _message(content: bytes) -> str:
    """The text of {"error": "…"} (Ollama) or {"error": {"message": "…"}} (llama.cpp), else all."""
    try:
        error = json.loads(content)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        message = content.decode("utf-8", errors="replace")
    return " ".join(str(message).split())[:300]
