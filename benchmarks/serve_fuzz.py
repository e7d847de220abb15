"""Ten thousand bad requests against a real `antimatter serve`: no crash, no 5xx that is not meant, no leak, no file shown.

    python benchmarks/serve_fuzz.py [--requests 10000] [--seed 0] [--model models/gguf]

Every request follows from the seed and its number, so one that breaks something can be sent again with --only NUMBER.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATHS = ["/", "/health", "/favicon.ico", "/v1/models", "/v1/chat/completions", "/v1/completions"]
TRICKS = [
    "..",
    "%2e%2e",
    ".",
    "",
    "%00",
    "\0",
    "etc/passwd",
    "params.yaml",
    "antimatter/serve/http/page.html",
    "page.html",
    "proc/self/environ",
    "%2f",
    "\\",
    "//",
    "é",
]
TRICKS += [
    "?a=" + "b" * 500,
    "#",
    ";x",
    "%",
    "%zz",
    "*",
    "http://evil.com/",
    "a" * 9000,
    "\x7f",
    "v1",
    "models",
    "chat",
    "completions",
    "%c0%ae%c0%ae",
    "~root",
]
HOSTS = [
    "localhost",
    "127.0.0.1:8000",
    "[::1]",
    "evil.com",
    "localhost.evil.com",
    "",
    "localhost:99999",
    "a@localhost",
    "localhost,evil.com",
    "\x80\xff",
    "x" * 300,
]
ORIGINS = [
    "null",
    "http://localhost",
    "http://evil.com",
    "file://",
    "",
    "http://127.0.0.1",
    "https://localhost:1",
    "http://[",
    "\xff",
]
METHODS = [
    "GET",
    "POST",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "PATCH",
    "TRACE",
    "CONNECT",
    "PRI",
    "get",
    "BREW",
    "G\0T",
    "M-SEARCH",
    "",
]
TYPES = [
    "application/json",
    "application/json; charset=utf-8",
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-7",
    "",
    "*/*",
    "\0",
]
HEADERS = [
    "Content-Encoding: gzip",
    "Expect: 100-continue",
    "Expect: tea",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: h2c",
    "Range: bytes=0-5",
    "X: " + "y" * 9000,
]
HEADERS += [
    "Authorization: Bearer x",
    "Accept: text/html",
    "If-None-Match: *",
    "Transfer-Encoding: gzip, chunked",
    "Cookie: a=\xff",
    "Bad Name: x",
    ": x",
    "X-Forwarded-Host: evil.com",
]
KEYS = [
    "messages",
    "prompt",
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "repeat_penalty",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "stream_options",
    "n",
]
KEYS += [
    "tools",
    "logprobs",
    "logit_bias",
    "user",
    "response_format",
    "presence_penalty",
    "",
    "\0",
    "é",
    "__proto__",
    "k" * 400,
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    10**300,
    0.5,
    1e308,
    -0.0,
    1e-320,
    "",
    "x",
    "\0",
    "\ud800",
    "é🙂",
    "[EOS]",
    "x" * 3000,
]
VALUES += [
    [],
    {},
    [[]],
    {"a": {}},
    ["a"],
    [None],
    [1, "x"],
    {"role": "user", "content": "x"},
    {"include_usage": True},
    "antimatter",
    "\n",
]
LITERALS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "1.",
    "01",
    "'x'",
    "undefined",
    "\\u00",
    '"\\ud800"',
    '"\x01"',
    "/*x*/1",
    "[1,]",
    "0x10",
]
# Of files, and of what runs inside
SECRETS = [b"root:x:", b"GGUF", b"repeat_penalty: ", b"Traceback", b"PATH=", b"aiohttp", b".py"]


def request(seed: int, number: int) -> bytes:
    random = Random(f"{seed}/{number}")
    makers = [
        _valid,
        _valid,
        _values,
        _values,
        _values,
        _json,
        _json,
        _path,
        _path,
        _headers,
        _headers,
        _nested,
        _huge,
        _bytes,
        _chunked,
        _pipelined,
    ]
    data = random.choice(makers)(random)
    if random.random() < 0.1:
        data = data[: random.randrange(len(data) + 1)]
    if random.random() < 0.05 and data:
        changed = bytearray(data)
        for _ in range(random.randint(1, 5)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        data = bytes(changed)
    return data


def _valid(random: Random) -> bytes:
    return _post(random, json.dumps(_question(random)).encode())


def _question(random: Random) -> dict[str, Any]:
    text = " ".join(
        random.choices(
            ["The", "function", "returns", "é", "[EOS]", "\n", "🙂", "x" * 50],
            k=random.randint(0, 12),
        )
    )
    body: dict[str, Any] = {
        "messages": [
            {"role": random.choice(["system", "user", "assistant"]), "content": text}
            for _ in range(random.randint(1, 5))
        ]
    }
    return body | {"max_tokens": random.randint(1, 3), "stream": random.random() < 0.5}


def _values(random: Random) -> bytes:
    body = _question(random)
    for _ in range(random.randint(1, 3)):
        body[random.choice(KEYS)] = random.choice(VALUES)
    if (
        random.random() < 0.3
        and isinstance(body.get("messages"), list)
        and body["messages"]
        and isinstance(body["messages"][0], dict)
    ):
        body["messages"][0][random.choice(["role", "content", "name", "tool_calls", ""])] = (
            random.choice(VALUES)
        )
    return _post(random, json.dumps(body).encode())


def _json(random: Random) -> bytes:
    text = json.dumps(_question(random))
    for _ in range(random.randint(1, 4)):
        i = random.randrange(len(text) + 1)
        text = random.choice(
            [
                text[:i] + random.choice(LITERALS) + text[i:],
                text[:i] + text[i + 1 :],
                text[:i] + random.choice('{}[]",:\\') + text[i:],
                text[:i],
            ]
        )
    body = text.encode("utf-8", "replace")
    if random.random() < 0.3:
        i = random.randrange(len(body) + 1)
        body = (
            body[:i]
            + random.choice(
                [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\xf8\x88\x80\x80\x80"]
            )
            + body[i:]
        )
    return _post(random, body)


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
        head += (
            random.choice(
                [
                    *HEADERS,
                    f"Origin: {random.choice(ORIGINS)}",
                    f"Host: {random.choice(HOSTS)}",
                    f"Content-Type: {random.choice(TYPES)}",
                ]
            ).encode("latin-1")
            + b"\r\n"
        )
    return head + random.choice(
        [
            b"Content-Length: 2\r\n\r\n{}",
            b"Content-Length: 5\r\n\r\n{}",
            b"\r\n",
            b"\r\n",
            b"Content-Length: -5\r\n\r\n",
        ]
    )


def _bytes(random: Random) -> bytes:
    return random.choice(
        [b"", b"\x16\x03\x01", b"GET ", b"\r\n" * 50, b"POST / HTTP/1.1\r\n"]
    ) + random.randbytes(random.randint(1, 2000))


def _chunked(random: Random) -> bytes:
    data = (
        _head(random, "POST", random.choice(PATHS[-2:]))
        + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(random.randint(1, 4)):
        piece = random.randbytes(random.randint(0, 300))
        data += (
            random.choice(
                [
                    b"%x" % len(piece),
                    b"%x;ext=1" % len(piece),
                    b"-1",
                    b"zz",
                    b"ffffffffffffffff",
                    b"%X" % (len(piece) + 3),
                ]
            )
            + b"\r\n"
            + piece
            + b"\r\n"
        )
    return data + random.choice([b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b""])


def _pipelined(random: Random) -> bytes:
    pieces = [
        _valid(random),
        _head(random, "GET", "/health") + b"\r\n",
        _values(random),
        _path(random),
    ]
    return b"".join(random.choices(pieces, k=random.randint(2, 5))).replace(
        b"Connection: close\r\n", b""
    )


def _post(random: Random, body: bytes) -> bytes:
    kind = random.choice(TYPES) if random.random() < 0.1 else TYPES[0]
    length = random.choice([len(body)] * 12 + [len(body) + 10, max(len(body) - 10, 0), 10**15])
    head = _head(
        random, "POST", random.choice(PATHS[-2:]) if random.random() < 0.9 else random.choice(PATHS)
    )
    return head + f"Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode() + body


def _head(random: Random, method: str, path: str, host: str = "localhost") -> bytes:
    version = random.choice(
        ["HTTP/1.1"] * 20 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1.1", "http/1.1", ""]
    )
    return f"{method} {path} {version}\r\nHost: {host}\r\nConnection: close\r\n".encode()


def send(port: int, data: bytes, patience: float = 0.5) -> bytes:
    """What came back before `patience` seconds of silence: a request that is not whole gets nothing before the server's time limit."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with contextlib.suppress(OSError):  # the server may hang up in the middle of nonsense
            connection.sendall(data)
        connection.settimeout(patience)
        with contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                answer += piece
    return answer


@dataclass(frozen=True)
class Process:
    """The server: its memory in MB, its open files and its threads, and those of llama.cpp below it."""

    pid: int

    def memory(self) -> float:
        return sum(
            int(line.split()[1]) / 1024
            for pid in (self.pid, *self.children())
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )

    def files(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.pid, *self.children()))

    def threads(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in (self.pid, *self.children()))

    def children(self) -> list[int]:
        return [
            int(pid)
            for task in Path(f"/proc/{self.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]


@contextmanager
def serving(model: Path, *arguments: str) -> Iterator[tuple[int, Process, Path]]:
    """A server of its own in a folder of its own: its port, the process, the folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(ROOT / "params.yaml", folder)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "antimatter.cli",
                "serve",
                "--port",
                "0",
                "--model",
                str(model.absolute()),
                *arguments,
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("serving "), line
            yield int(line.rsplit(":", 1)[1].split("/")[0]), Process(process.pid), folder
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, process.returncode
        finally:
            process.kill()
            process.communicate()


def attack(model: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Sends the requests, sixteen at a time; how often each status came, and the measurements of the server before and after.

    Raises:
        AssertionError: what must not happen happened.
    """
    with serving(model) as (port, process, folder):

        def one(number: int) -> str:
            answer = send(port, request(seed, number))
            status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/") else "none"
            assert not status.startswith("5") or (
                status == "503" and b"clients are waiting already" in answer
            ), (number, answer)
            assert not any(secret in answer for secret in SECRETS), (number, answer)
            return status

        with ThreadPoolExecutor(16) as pool:
            # What is built on first use is no leak
            list(pool.map(one, range(count, count + count // 20)))
            quiet(process)
            before = (process.memory(), process.files(), process.threads())
            statuses = Counter(pool.map(one, range(count)))
        quiet(process)
        after = (process.memory(), process.files(), process.threads())
        for kind in (b"GET /health", b"GET /v1/models", b"GET /"):
            assert send(
                port, kind + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 30
            ).startswith(b"HTTP/1.1 200"), kind
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 32\r\n\r\n"
        assert send(port, head + b'{"prompt": "x", "max_tokens": 2}', 30).startswith(
            b"HTTP/1.1 200"
        )
        assert (
            after[0] < before[0] + 60 and after[1] <= before[1] + 2 and after[2] <= before[2] + 8
        ), (before, after)
        assert sorted(path.name for path in folder.iterdir()) == ["params.yaml"]
    return statuses, [
        f"{name}: {old:.0f} before, {new:.0f} after"
        for name, old, new in zip(("MB", "open files", "threads"), before, after, strict=True)
    ]


def quiet(process: Process) -> None:
    """Waits until no connection is left of those that the clients closed."""
    end, seen = time.monotonic() + 10, -1
    while (now := process.files()) != seen and time.monotonic() < end:
        seen = now
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=Path("models/gguf"))
    parser.add_argument("--only", type=int, help="show this request and its answer")
    given = parser.parse_args()
    if given.only is not None:
        data = request(given.seed, given.only)
        with serving(given.model) as (port, _, _):
            print(data[:2000], send(port, data)[:2000], sep="\n")
        return
    begin = time.monotonic()
    statuses, lines = attack(given.model, given.requests, given.seed)
    print(f"{given.requests} requests in {time.monotonic() - begin:.0f} s; by status:")
    for status, number in sorted(statuses.items()):
        print(f"  {status:4} {number:6}")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
