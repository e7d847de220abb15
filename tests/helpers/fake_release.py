"""A release of Ollama in miniature, and a server for it that can break off, stall, redirect, and forget what a Range is."""

import hashlib
import io
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow

NAME = "ollama-linux-amd64.tar.zst"
VERSION = "9.9.9"
OLLAMA = f'#!/bin/sh\necho "Warning: could not connect to a running Ollama instance"\necho "Warning: client version is {VERSION}"\n'.encode()
CPU = random.Random(1).randbytes(20_000)
GPU = random.Random(2).randbytes(600_000)  # does not compress, as the real ones hardly do


def member(
    name: str,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: int = 0o644,
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    return info, content


def members(prefix: str = "") -> list[tuple[tarfile.TarInfo, bytes]]:
    """In the layout of 0.32.9. `prefix`: `./`, as some releases have it."""
    return [
        member(f"{prefix}bin", kind=tarfile.DIRTYPE, mode=0o755),
        member(f"{prefix}bin/ollama", OLLAMA, mode=0o775),
        member(f"{prefix}lib", kind=tarfile.DIRTYPE, mode=0o755),
        member(f"{prefix}lib/ollama", kind=tarfile.DIRTYPE, mode=0o755),
        member(
            f"{prefix}lib/ollama/libggml-base.so", kind=tarfile.SYMTYPE, link="libggml-base.so.0"
        ),
        member(f"{prefix}lib/ollama/libggml-base.so.0", CPU),
        member(f"{prefix}lib/ollama/libggml-cpu-haswell.so", CPU, mode=0o755),
        member(f"{prefix}lib/ollama/llama-server", b"#!/bin/sh\n", mode=0o777),
        member(f"{prefix}lib/ollama/cuda_v12/libggml-cuda.so", GPU),
        member(
            f"{prefix}lib/ollama/cuda_v13/libggml-cuda.so",
            kind=tarfile.SYMTYPE,
            link="../cuda_v12/libggml-cuda.so",
        ),
        member(f"{prefix}lib/ollama/vulkan/libggml-vulkan.so", CPU),
    ]


def archive(contents: list[tuple[tarfile.TarInfo, bytes]], name: str = NAME) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz" if name.endswith("gz") else "w") as tar:
        for info, content in contents:
            tar.addfile(info, io.BytesIO(content))
    if name.endswith("gz"):
        return plain.getvalue()
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(plain.getvalue())
    return bytes(sink.getvalue())


def sums(**digests: str) -> bytes:
    return "".join(
        f"{digest}  ./{name.replace('_', '.')}\n" for name, digest in digests.items()
    ).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Behaviour:
    files: dict[str, bytes] = field(default_factory=dict)  # by path
    etag: str = '"one"'
    ranges: bool = True
    if_range: bool = True  # False: knows Range, but not If-Range
    # The n-th answer with a body of a file ends after so many bytes; negative: it stalls there
    cuts: list[int] = field(default_factory=list)
    pace: float = 0.0  # seconds between two pieces
    status: int = 0  # instead of everything else
    # The first answers: a status, and Retry-After
    refusals: list[tuple[int, str]] = field(default_factory=list)
    redirect: str = ""  # to this path, with a prefix before it
    requests: list[tuple[str, str]] = field(default_factory=list)  # path and Range
    released: threading.Event = field(default_factory=threading.Event)  # ends what stalls


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    behaviour: Behaviour


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        plan = self.server.behaviour
        asked = self.headers.get("Range", "")
        plan.requests.append((self.path, asked))
        if plan.status:
            return self._end(plan.status)
        if plan.refusals:
            status, wish = plan.refusals.pop(0)
            return self._end(status, {"Retry-After": wish} if wish else {})
        if plan.redirect and not self.path.startswith(plan.redirect):
            self.send_response(302)
            self.send_header("Location", plan.redirect + self.path)
            return self._end()
        content = plan.files.get(self.path.removeprefix(plan.redirect).partition("?")[0])
        if content is None:
            return self._end(404)
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and plan.ranges else 0
        if plan.if_range and self.headers.get("If-Range", plan.etag) != plan.etag:
            begin = 0
        if begin and begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self._end()
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if plan.etag:
            self.send_header("ETag", plan.etag)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self._send(plan, content[begin:])

    def _send(self, plan: Behaviour, content: bytes) -> None:
        cut = plan.cuts.pop(0) if plan.cuts and not self.path.endswith(".txt") else None
        end = len(content) if cut is None else abs(cut)
        try:
            for i in range(0, end, 16384):
                self.wfile.write(content[i : min(end, i + 16384)])
                self.wfile.flush()
                time.sleep(plan.pace)
            if cut is not None and cut < 0:
                plan.released.wait(30)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _end(self, status: int = 0, headers: dict[str, str] | None = None) -> None:
        if status:
            self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The address, without a slash at its end."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.behaviour = behaviour
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            behaviour.released.set()
            server.shutdown()
            thread.join()
