"""Ten thousand bad requests to a real `antimatter serve`: no crash, no 5xx except for a full queue
and for routes that are not supported, no leak, no file disclosed.

    python benchmarks/serve_fuzz.py [--requests 10000] [--seed 0] [--model models/gguf]

Every request follows from the seed and its number, so one that breaks something can be sent again
with --only NUMBER.
"""

import argparse
import contextlib
import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import serve_process
from serve_process import Usage

CHATS = ["/v1/chat/completions", "/api/chat"]
POSTS = [*CHATS, *CHATS, "/v1/completions", "/api/generate", "/api/show"]
PATHS = """
/ /health /favicon.ico /v1/models /v1/models/antimatter /api/tags /api/ps /api/version /api/pull
/api/embed /api/blobs/sha256:0
""".split()
PATHS += POSTS
TRICKS = """
.. %2e%2e . %00 etc/passwd params.yaml antimatter/serve/http/page.html page.html proc/self/environ
%2f \\ // é # ;x % %zz * http://evil.com/ v1 models chat completions %c0%ae%c0%ae ~root
""".split()
TRICKS += ["", "\0", "\x7f", "a" * 9000, "?a=" + "b" * 500]
HOSTS = """
localhost 127.0.0.1:8000 [::1] evil.com localhost.evil.com localhost:99999 a@localhost
localhost,evil.com
""".split()
HOSTS += ["", "\x80\xff", "x" * 300]
ORIGINS = """
null http://localhost http://evil.com file:// http://127.0.0.1 https://localhost:1 http://[
""".split()
ORIGINS += ["", "\xff"]
METHODS = "GET POST HEAD OPTIONS PUT DELETE PATCH TRACE CONNECT PRI get BREW M-SEARCH".split()
METHODS += ["", "G\0T"]
TYPES = [
    "application/json",
    "application/json; charset=utf-8",
    "application/json; charset=utf-7",
    *("text/plain", "application/x-www-form-urlencoded", "*/*", "", "\0"),
]
HEADERS = [
    "Content-Encoding: gzip",
    "Expect: 100-continue",
    "Expect: tea",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: h2c",
    "Range: bytes=0-5",
    "X: " + "y" * 9000,
    "Authorization: Bearer x",
    "Accept: text/html",
    "If-None-Match: *",
    "Transfer-Encoding: gzip, chunked",
    "Cookie: a=\xff",
    "Bad Name: x",
    ": x",
    "X-Forwarded-Host: evil.com",
]
LENGTHS = [
    b"Content-Length: 2\r\n\r\n{}",
    b"Content-Length: 5\r\n\r\n{}",
    b"\r\n",
    b"\r\n",
    b"Content-Length: -5\r\n\r\n",
]
KEYS = """
messages prompt model stream temperature top_p top_k repeat_penalty max_tokens
max_completion_tokens stop seed stream_options n tools logprobs logit_bias user response_format
presence_penalty é __proto__ best_of min_p typical_p repeat_last_n reasoning_effort options
keep_alive format think images system template context raw suffix verbose truncate num_predict
""".split()
OPTIONS = """
temperature top_p top_k min_p typical_p repeat_penalty repeat_last_n presence_penalty
frequency_penalty num_ctx num_predict seed stop mirostat num_gpu tfs_z é
""".split()
KEYS += ["", "\0", "k" * 400]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**300, 0.5, 1e308, -0.0, 1e-320),
    *("", "x", "\0", "\ud800", "é🙂", "[EOS]", "x" * 3000, "antimatter", "\n"),
    *([], {}, [[]], {"a": {}}, ["a"], [None], [1, "x"]),
    *({"role": "user", "content": "x"}, {"include_usage": True}, [{"type": "text", "text": "x"}]),
    *(["x", "é"], {"num_ctx": 2}, {"num_predict": -1}, {"temperature": "x"}, "5m", 2, 3, 128),
]
LITERALS = "NaN Infinity -Infinity 1e999 1. 01 'x' undefined \\u00 \"\\ud800\" /*x*/1 [1,]".split()
LITERALS += ["0x10", '"\x01"', "9" * 5000]
NOT_UTF8 = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\xf8\x88\x80\x80\x80"]
VERSIONS = ["HTTP/1.1"] * 20 + "HTTP/1.0 HTTP/0.9 HTTP/2.0 HTTP/1.1.1 http/1.1".split() + [""]
# Of files, and of the inside of the server
SECRETS = [b"root:x:", b"GGUF", b"repeat_penalty: ", b"Traceback", b"PATH=", b".py"]


def request(seed: int, number: int) -> bytes:
    random = Random(f"{seed}/{number}")
    kinds = [
        *(_valid, _valid, _values, _values, _values, _json, _json, _path, _path),
        *(_headers, _headers, _nested, _huge, _bytes, _chunked, _pipelined),
    ]
    data = random.choice(kinds)(random)
    if random.random() < 0.1:
        data = data[: random.randrange(len(data) + 1)]
    if random.random() < 0.05 and data:
        changed = bytearray(data)
        for _ in range(random.randint(1, 5)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        data = bytes(changed)
    return data


def _valid(random: Random) -> bytes:
    path, body = _question(random)
    return _post(random, json.dumps(body).encode(), path)


def _question(random: Random) -> tuple[str, dict[str, Any]]:
    """A path and a body that it takes."""
    words = ["The", "function", "returns", "é", "[EOS]", "\n", "🙂", "x" * 50]

    def text() -> str:
        return " ".join(random.choices(words, k=random.randint(0, 12)))

    path, length = random.choice(POSTS), random.randint(1, 3)
    body: dict[str, Any] = {"model": "antimatter", "stream": random.random() < 0.5}
    if path in CHATS:
        roles = ["system", "user", "assistant"]
        turns = range(random.randint(1, 5))
        body["messages"] = [{"role": random.choice(roles), "content": text()} for _ in turns]
    else:
        body["prompt"] = text()
    if path.startswith("/api/"):
        return path, body | {"options": {"num_predict": length}}
    return path, body | {"max_tokens": length}


def _values(random: Random) -> bytes:
    path, body = _question(random)
    for _ in range(random.randint(1, 3)):
        body[random.choice(KEYS)] = random.choice(VALUES)
    if isinstance(body.get("options"), dict) and random.random() < 0.7:
        body["options"] = body["options"] | {random.choice(OPTIONS): random.choice(VALUES)}
    messages = body.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[0], dict):
        key = random.choice(["role", "content", "content", "name", "tool_calls", "images", ""])
        if random.random() < 0.3:
            body["messages"] = [messages[0] | {key: random.choice(VALUES)}, *messages[1:]]
    return _post(random, json.dumps(body).encode(), path)


def _json(random: Random) -> bytes:
    path, value = _question(random)
    text = json.dumps(value)
    for _ in range(random.randint(1, 4)):
        i = random.randrange(len(text) + 1)
        changes = [
            text[:i] + random.choice(LITERALS) + text[i:],
            text[:i] + text[i + 1 :],
            text[:i] + random.choice('{}[]",:\\') + text[i:],
            text[:i],
        ]
        text = random.choice(changes)
    body = text.encode("utf-8", "replace")
    if random.random() < 0.3:
        i = random.randrange(len(body) + 1)
        body = body[:i] + random.choice(NOT_UTF8) + body[i:]
    return _post(random, body, path)


def _nested(random: Random) -> bytes:
    depth = random.choice([10, 900, 1100, 50_000])
    opening, closing = random.choice([("[", "]"), ('{"a":', "}"), ('{"messages":[', "]}")])
    return _post(random, (opening * depth + random.choice(["", "1", closing * depth])).encode())


def _huge(random: Random) -> bytes:
    size = random.choice([999_999, 1_000_000, 1_000_001, 3_000_000])
    body = b'{"prompt": "' + random.choice([b"x", b" ", b"\\u0000", "é".encode()]) * size
    return _post(random, body[: size - 2] + b'"}')


def _path(random: Random) -> bytes:
    path = random.choice(["/", ""]) + "/".join(random.choices(TRICKS, k=random.randint(1, 5)))
    return _head(random, random.choice(METHODS[:4]), path) + b"\r\n"


def _headers(random: Random) -> bytes:
    head = _head(random, random.choice(METHODS), random.choice(PATHS), random.choice(HOSTS))
    for _ in range(random.randint(0, 3)):
        choices = [
            *HEADERS,
            f"Origin: {random.choice(ORIGINS)}",
            f"Host: {random.choice(HOSTS)}",
            f"Content-Type: {random.choice(TYPES)}",
        ]
        head += random.choice(choices).encode("latin-1") + b"\r\n"
    return head + random.choice(LENGTHS)


def _bytes(random: Random) -> bytes:
    starts = [b"", b"\x16\x03\x01", b"GET ", b"\r\n" * 50, b"POST / HTTP/1.1\r\n"]
    return random.choice(starts) + random.randbytes(random.randint(1, 2000))


def _chunked(random: Random) -> bytes:
    data = _head(random, "POST", random.choice(POSTS))
    data += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(random.randint(1, 4)):
        piece = random.randbytes(random.randint(0, 300))
        size = len(piece)
        sizes = [b"%x" % size, b"%x;ext=1" % size, b"%X" % (size + 3)]
        sizes += [b"-1", b"zz", b"ffffffffffffffff"]
        data += random.choice(sizes) + b"\r\n" + piece + b"\r\n"
    return data + random.choice([b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b""])


def _pipelined(random: Random) -> bytes:
    health = _head(random, "GET", "/health") + b"\r\n"
    pieces = [_valid(random), health, _values(random), _path(random)]
    data = b"".join(random.choices(pieces, k=random.randint(2, 5)))
    return data.replace(b"Connection: close\r\n", b"")


def _post(random: Random, body: bytes, fitting: str | None = None) -> bytes:
    kind = random.choice(TYPES) if random.random() < 0.1 else TYPES[0]
    length = random.choice([len(body)] * 12 + [len(body) + 10, max(len(body) - 10, 0), 10**15])
    path = (fitting or random.choice(POSTS)) if random.random() < 0.9 else random.choice(PATHS)
    headers = f"Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return _head(random, "POST", path) + headers.encode() + body


def _head(random: Random, method: str, path: str, host: str = "localhost") -> bytes:
    line = f"{method} {path} {random.choice(VERSIONS)}"
    return f"{line}\r\nHost: {host}\r\nConnection: close\r\n".encode()


def send(port: int, data: bytes, silence: float = 0.5) -> bytes:
    """All that comes back before `silence` seconds without a byte. A request that is not complete
    gets no answer before the server's time limit.
    """
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        # The server may close the connection in the middle of nonsense
        with contextlib.suppress(OSError):
            connection.sendall(data)
        connection.settimeout(silence)
        with contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                answer += piece
    return answer


def attack(model: Path, count: int, seed: int) -> tuple[Counter[str], Usage, Usage]:
    """Sends the requests, sixteen at a time. Returns the number of each status, and the usage of
    the server before and after.

    Raises:
        AssertionError: a response is wrong, or the server leaks.
    """
    with serve_process.serving(model) as server, ThreadPoolExecutor(16) as pool:

        def one(number: int) -> str:
            answer = send(server.port, request(seed, number))
            status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/") else "none"
            is_busy = status == "503" and b"clients are waiting already" in answer
            is_expected = is_busy or status == "501" or not status.startswith("5")
            assert is_expected, (number, answer)
            # The vocabulary, if all of the model is asked for, has some of them as tokens
            if b'"tokenizer.ggml.tokens":[' not in answer:
                assert not any(secret in answer for secret in SECRETS), (number, answer)
            return status

        # What is built on first use is no leak
        list(pool.map(one, range(count, count + count // 20)))
        before = server.usage()
        statuses = Counter(pool.map(one, range(count)))
        after = server.usage()
        check_alive(server.port)
        assert after.memory < before.memory + 60, (before, after)
        assert after.files <= before.files + 2, (before, after)
        assert after.threads <= before.threads + 8, (before, after)
        assert sorted(path.name for path in server.folder.iterdir()) == ["params.yaml"]
    return statuses, before, after


def check_alive(port: int) -> None:
    head = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    for path in (b"GET /health", b"GET /v1/models", b"GET /api/tags", b"GET /"):
        assert send(port, path + head + b"\r\n", 30).startswith(b"HTTP/1.1 200"), path
    body = b'{"prompt": "x", "max_tokens": 2}'
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = send(port, b"POST /v1/completions" + head + body, 30)
    assert answer.startswith(b"HTTP/1.1 200"), answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=Path("models/gguf"))
    parser.add_argument("--only", type=int, help="show this request and its answer")
    arguments = parser.parse_args()
    if arguments.only is not None:
        data = request(arguments.seed, arguments.only)
        with serve_process.serving(arguments.model) as server:
            print(data[:2000], send(server.port, data)[:2000], sep="\n")
        return
    began = time.monotonic()
    statuses, before, after = attack(arguments.model, arguments.requests, arguments.seed)
    print(f"{arguments.requests} requests in {time.monotonic() - began:.0f} s; by status:")
    for status, number in sorted(statuses.items()):
        print(f"  {status:4} {number:6}")
    serve_process.report(before, after)


if __name__ == "__main__":
    main()
