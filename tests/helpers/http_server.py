"""`antimatter serve`'s HTTP server in a thread, with a client that sends what a test asks for."""

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from antimatter.export.ollama import OllamaConfig
from antimatter.serve.backend import Backend
from antimatter.serve.http import runner
from antimatter.serve.http.answers import Limits
from antimatter.serve.http.server import Server, ServerConfig
from helpers.backends import CONFIG

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
JSON = {"Content-Type": "application/json"}
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)


@dataclass
class Served:
    """The client of one server."""

    port: int
    log: list[str]
    stop: Callable[[], None] = lambda: None

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        content = body if isinstance(body, bytes | None) else json.dumps(body)
        with contextlib.closing(self._connection()) as connection:
            connection.request(method, path, content, JSON | (headers or {}))
            with connection.getresponse() as response:
                return response.status, response.headers, response.read()

    def post(self, body: Any, path: str = CHAT) -> tuple[int, Any]:
        status, _, answer = self.request("POST", path, body)
        return status, json.loads(answer)

    def error(self, body: Any, path: str = CHAT) -> tuple[int, str]:
        """The status and the message of a response that must be an error."""
        status, answer = self.post(body, path)
        assert answer.keys() == {"error"}
        assert answer["error"].keys() == {"message", "type", "param", "code"}
        message = answer["error"]["message"]
        assert "\n" not in message and len(message) < 400
        return status, message

    def raw(self, data: bytes, seconds: float = 20) -> bytes:
        """Everything that comes back until the server closes or is silent for `seconds`."""
        answer = b""
        with self.connect() as connection, contextlib.suppress(OSError):
            connection.settimeout(seconds)
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        return answer

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def is_healthy(self) -> bool:
        return self.request("GET", "/health")[0] == 200

    @contextmanager
    def stream(self, body: Any, path: str = CHAT) -> Iterator[Iterator[str]]:
        """The lines of a streamed answer. Leaving the block disconnects."""
        with contextlib.closing(self._connection()) as connection:
            connection.request("POST", path, json.dumps(body | {"stream": True}), JSON)
            with connection.getresponse() as response:
                assert response.status == 200, response.read()
                yield (line.decode() for line in response)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)


@contextmanager
def serving(
    backend: Backend,
    parallel: int = 2,
    token: str | None = None,
    names: frozenset[str] = frozenset(),
    defaults: OllamaConfig = CONFIG,
    **limits: Any,
) -> Iterator[Served]:
    config = ServerConfig(
        parallel=parallel, token=token, allowed_hosts=names, limits=Limits(**limits)
    )
    log: list[str] = []
    started: Future[Callable[[], None]] = Future()

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        server = Server(backend, defaults, config, log.append)
        await server.start(listening)
        started.set_result(lambda: loop.call_soon_threadsafe(stop.set) and None)
        await stop.wait()
        await server.stop()

    with runner.bind("127.0.0.1", 0) as listening, ThreadPoolExecutor(1) as pool:
        finished = pool.submit(asyncio.run, serve())
        request_stop = started.result(10)
        try:
            yield Served(listening.getsockname()[1], log, request_stop)
        finally:
            with contextlib.suppress(RuntimeError):  # it has stopped already
                request_stop()
            finished.result(20)


def eventually(condition: Callable[[], Any], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def question(text: str = "The function returns", **options: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **options}


def events(lines: Iterable[str]) -> tuple[list[Any], list[str]]:
    """The events and the comments of a stream, each a line and then an empty one."""
    found, comments, lines = list[Any](), list[str](), list(lines)
    assert len(lines) % 2 == 0 and all(line == "\n" for line in lines[1::2])
    for line in lines[::2]:
        assert line.endswith("\n") and line.startswith(("data: ", ": "))
        if line.startswith(": "):
            comments.append(line[2:-1])
        else:
            found.append(line[6:-1] if line[6:-1] == "[DONE]" else json.loads(line[6:]))
    return found, comments


def text_of(found: list[Any]) -> str:
    """The answer in the events of a chat completion."""
    chunks = [event for event in found if event != "[DONE]" and "error" not in event]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)
