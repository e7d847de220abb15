"""A release of Ollama in miniature, and a server for it that misbehaves as its Behaviour says."""

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
OLLAMA = (
    "#!/bin/sh\n"
    'echo "Warning: could not connect to a running Ollama instance"\n'
    f'echo "Warning: client version is {VERSION}"\n'
).encode()
CPU = random.Random(1).randbytes(20_000)
GPU = random.Random(2).randbytes(600_000)  # does not compress, as the real ones hardly do

Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: int = 0o644,
) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    return info, content


def folder(name: str) -> Member:
    return member(name, kind=tarfile.DIRTYPE, mode=0o755)


def symlink(name: str, target: str) -> Member:
    return member(name, kind=tarfile.SYMTYPE, link=target)


def members(prefix: str = "") -> list[Member]:
    """In the layout of 0.32.9. `prefix`: `./`, as some releases have it."""
    library = f"{prefix}lib/ollama"
    return [
        *(folder(f"{prefix}bin"), member(f"{prefix}bin/ollama", OLLAMA, mode=0o775)),
        *(folder(f"{prefix}lib"), folder(library)),
        symlink(f"{library}/libggml-base.so", "libggml-base.so.0"),
        member(f"{library}/libggml-base.so.0", CPU),
        member(f"{library}/libggml-cpu-haswell.so", CPU, mode=0o755),
        member(f"{library}/llama-server", b"#!/bin/sh\n", mode=0o777),
        member(f"{library}/cuda_v12/libggml-cuda.so", GPU),
        symlink(f"{library}/cuda_v13/libggml-cuda.so", "../cuda_v12/libggml-cuda.so"),
        member(f"{library}/vulkan/libggml-vulkan.so", CPU),
    ]


def tar(contents: list[Member], mode: str = "w") -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode=mode) as file:  # type: ignore[call-overload]
        for info, content in contents:
            file.addfile(info, io.BytesIO(content))
    return plain.getvalue()


def archive(contents: list[Member], name: str = NAME) -> bytes:
    if name.endswith("gz"):
        return tar(contents, "w:gz")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(tar(contents))
    return bytes(sink.getvalue())


def sums(name: str, content: bytes) -> bytes:
    """The sha256sum.txt of a release that has this archive and another one."""
    return f"{'0' * 64}  ./other.tgz\n{sha256(content)}  ./{name}\n".encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Behaviour:
    files: dict[str, bytes] = field(default_factory=dict)  # by path
    ranges: bool = True
    # Content-Range of a partial answer; empty: the right one
    content_range: str = ""
    # The n-th answer that has a body ends after this many bytes; negative: it stalls there
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
        wanted = self.headers.get("Range", "")
        plan.requests.append((self.path, wanted))
        if plan.status:
            return self._end(plan.status)
        if plan.refusals:
            status, retry_after = plan.refusals.pop(0)
            return self._end(status, {"Retry-After": retry_after} if retry_after else {})
        if plan.redirect and not self.path.startswith(plan.redirect):
            return self._end(302, {"Location": plan.redirect + self.path})
        content = plan.files.get(self.path.removeprefix(plan.redirect).partition("?")[0])
        if content is None:
            return self._end(404)
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and plan.ranges else 0
        if begin and begin >= len(content):
            return self._end(416, {"Content-Range": f"bytes */{len(content)}"})
        self.send_response(206 if begin else 200)
        if begin:
            right = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", plan.content_range or right)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self._send(plan, content[begin:])

    def _send(self, plan: Behaviour, content: bytes) -> None:
        cut = plan.cuts.pop(0) if plan.cuts else None
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

    def _end(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(behaviour: Behaviour, port: int = 0) -> Iterator[str]:
    """The address, without a slash at its end."""
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.behaviour = behaviour
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            behaviour.released.set()
            server.shutdown()
            thread.join()
