"""An npm package like that of wllama in miniature, and a host for the folder of a site."""

import base64
import functools
import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from antimatter.serve.site import wllama
from helpers.fake_release import Member, member, tar

# They do not compress, as the real ones hardly do
CONTENTS = {name: random.Random(name).randbytes(100_000) for name in wllama.MEMBERS}


def members() -> list[Member]:
    return [
        member("package/package.json", b"{}"),
        *(member(name, content) for name, content in CONTENTS.items()),
        member("package/src/index.ts", b"not needed"),
    ]


def archive(contents: list[Member] | None = None) -> bytes:
    return tar(members() if contents is None else contents, "w:gz")


def integrity(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


class _Handler(SimpleHTTPRequestHandler):
    """As `python -m http.server`, which sets no headers for isolation."""

    def log_message(self, *_: Any) -> None: ...


class _IsolatedHandler(_Handler):
    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@contextmanager
def hosting(folder: Path, isolated: bool = False) -> Iterator[str]:
    """The address of the page, on a host that serves the folder and nothing else."""
    handler = _IsolatedHandler if isolated else _Handler
    host = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    with host:
        thread = threading.Thread(target=host.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{host.server_port}/"
        finally:
            host.shutdown()
            thread.join()
