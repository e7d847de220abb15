import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from antimatter.llama.client import BackendError, Client


@contextmanager
def answering(status: int, content: bytes) -> Iterator[Client]:
    """A server that answers every request in the same way."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Client("it", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def request(client: Client, is_async: bool) -> Any:
    if is_async:
        return asyncio.run(client.request("/x", {}, timeout=5))
    return client.call("/x", {}, timeout=5)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (500, b'{"error": "no\\nroom"}', "it answered 500 to /x: no room"),
        (400, b'{"error": {"message": "too long"}}', "it answered 400 to /x: too long"),
        (404, b"<h1>nothing\n here</h1>", "it answered 404 to /x: <h1>nothing here</h1>"),
        (200, b"<h1>", "it did not answer in JSON: is another program listening there?"),
        (200, b"[" * 100_000, "it did not answer in JSON: is another program listening there?"),
    ],
)
def test_an_error_quotes_the_message_of_the_server_in_one_line(
    status: int, content: bytes, words: str, is_async: bool
) -> None:
    with answering(status, content) as client, pytest.raises(BackendError) as error:
        request(client, is_async)
    assert str(error.value) == words


@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_is_json(is_async: bool) -> None:
    with answering(200, json.dumps({"text": "é"}).encode()) as client:
        assert request(client, is_async) == {"text": "é"}


@pytest.mark.parametrize("is_async", [False, True])
def test_no_server_is_one_line(is_async: bool) -> None:
    words = r"^it does not answer to /x \([^\n]+\): is it running\?$"
    with pytest.raises(BackendError, match=words):
        request(Client("it", "http://127.0.0.1:9"), is_async)


def test_a_server_that_says_nothing_is_given_up_after_the_timeout() -> None:
    # It connects, by the kernel
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = Client("mute", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(BackendError, match=r"^mute does not answer to /x"):
            client.call("/x", timeout=0.1)
        with pytest.raises(BackendError, match=r"^mute does not answer to /x"):
            asyncio.run(client.request("/x", timeout=0.1))


def read_request(connection: socket.socket) -> None:
    """All of it: closed before, a connection would be reset."""
    text = b""
    while b"\r\n\r\n" not in text:
        text += connection.recv(65536)
    head, _, body = text.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 100"])
def test_an_answer_that_breaks_off_is_one_line(framing: bytes) -> None:
    def accept() -> None:
        for _ in range(3):
            connection, _ = dying.accept()
            with connection:
                read_request(connection)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\n{}\n{}\r\n")
                # It ends before the rest

    async def read_lines(client: Client) -> None:
        async for _ in client.lines("/x", {}, 5):
            pass

    with socket.create_server(("127.0.0.1", 0)) as dying:
        thread = threading.Thread(target=accept)
        thread.start()
        client = Client("it", f"http://127.0.0.1:{dying.getsockname()[1]}")
        words = r"^it broke off the answer: ask again$"
        for is_async in (False, True):
            with pytest.raises(BackendError, match=words):
                request(client, is_async)
        with pytest.raises(BackendError, match=words):
            asyncio.run(read_lines(client))
        thread.join()


@pytest.mark.parametrize("host", ["é", "a..b", "x y", "a" * 70])
def test_an_impossible_host_name_is_one_line(host: str) -> None:
    with pytest.raises(BackendError, match=r"^it does not answer to /x \([^\n]+\): is it"):
        Client("it", f"http://{host}:9").call("/x", timeout=5)


def test_a_cancelled_request_closes_its_connection() -> None:
    async def cancel(client: Client) -> None:
        request = asyncio.create_task(client.request("/x", {}, timeout=20))
        await asyncio.to_thread(connected.wait, 10)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    def accept() -> None:
        connection, _ = mute.accept()
        with connection:
            connection.settimeout(10)
            connection.recv(65536)
            connected.set()
            received.append(connection.recv(1))

    connected, received = threading.Event(), list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        thread = threading.Thread(target=accept)
        thread.start()
        asyncio.run(cancel(Client("mute", f"http://127.0.0.1:{mute.getsockname()[1]}")))
        thread.join()
    assert received == [b""]
