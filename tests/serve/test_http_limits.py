"""Requests that are malformed, too slow or too large; and too many connections."""

import contextlib
import json
import re
import time
from collections.abc import Iterator

import pytest
from helpers.backends import ScriptedBackend
from helpers.http_server import CHAT, POST, Served, eventually, question, serving


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(ScriptedBackend(repeats=2)) as served:
        yield served
        assert served.log == []


@pytest.mark.parametrize(
    "data",
    [
        # TLS
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["TLS", "long header", "bad chunk"],
)
def test_the_server_survives_malformed_http(
    served: Served, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = served.raw(data, 3)
    assert re.match(rb"HTTP/1\.[01] 400 ", answer) and b"Traceback" not in answer
    assert served.is_healthy()
    assert capsys.readouterr().err == ""


def test_requests_in_one_packet_are_answered_in_order(served: Served) -> None:
    body = json.dumps(question(max_tokens=2)).encode()
    post = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    answer = served.raw(post + get + b"\r\n" + post + get + b"Connection: close\r\n\r\n")
    expected = [b'"object":"chat.completion"', b'"status":"ok"'] * 2
    assert re.findall(b"|".join(expected[:2]), answer) == expected


def test_a_request_that_does_not_arrive_in_time_is_dropped() -> None:
    with serving(ScriptedBackend(), request_seconds=0.5) as served:
        for half in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "):
            assert served.raw(half, 10) == b""
        # A byte now and then does not keep it open
        with served.connect() as slow:
            end = time.monotonic() + 10
            with pytest.raises(OSError):
                slow.sendall(b"GET / HTTP/1.1\r\n")
                while time.monotonic() < end:
                    slow.sendall(b"a")
                    time.sleep(0.1)
        answer = served.raw(POST + b"Content-Length: 100\r\n\r\n{", 10)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"within 0.5 seconds" in answer
        assert served.is_healthy()


def test_a_huge_body_is_refused_before_it_has_arrived(served: Served) -> None:
    head = POST + b"Content-Length: 1000000000000\r\n\r\n"
    assert served.raw(head, 5).startswith(b"HTTP/1.1 413 ")
    with served.connect() as connection:
        connection.settimeout(10)
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk, end = b"10000\r\n" + b" " * 65536 + b"\r\n", time.monotonic() + 30
        # The server closes the connection soon after its answer
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                connection.sendall(chunk)
    status, _, body = served.request("POST", CHAT, b" " * 1_000_001)
    assert status == 413 and b"more than 1,000,000 bytes" in body
    # A body of exactly the limit is read
    assert served.error(b" " * 1_000_000)[0] == 400


def test_a_client_that_waits_for_100_continue_gets_it(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    head = POST + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
    assert b"HTTP/1.1 413 " in served.raw(head, 5)


def test_another_expectation_is_refused_in_json(served: Served) -> None:
    for path, form in (("/v1/models", {"message", "type", "param", "code"}), ("/api/tags", None)):
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: tea\r\n\r\n"
        answer = served.raw(head.encode())
        assert answer.startswith(b"HTTP/1.1 417 ") and b"\r\nX-Frame-Options: DENY" in answer
        error = json.loads(answer.split(b"\r\n\r\n")[1])["error"]
        assert error.keys() == form if form else "Expect" in error
    # The rules for access come first, and HTTP/1.0 has no expectations
    foreign = (
        b"GET /v1/models HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\nExpect: tea\r\n\r\n"
    )
    assert served.raw(foreign).startswith(b"HTTP/1.1 403 ")
    old = b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\nExpect: tea\r\n\r\n"
    assert b" 200 " in served.raw(old)[:20]


def test_a_body_that_is_shorter_than_announced_does_no_harm(served: Served) -> None:
    for _ in range(5):
        with served.connect() as connection:
            connection.sendall(POST + b"Content-Length: 100\r\n\r\n{}")
    assert served.is_healthy()


def test_connections_beyond_the_limit_are_refused() -> None:
    with serving(ScriptedBackend(), connections=5) as served, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(served.connect())
        time.sleep(0.1)
        # The server may close the connection before the client has read the answer
        assert re.match(rb"HTTP/1\.1 503 |$", served.raw(b"GET / HTTP/1.1\r\n\r\n", 5))
        stack.close()
        eventually(served.is_healthy)
