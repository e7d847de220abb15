"""An HTTP server with the three routes of Ollama that the chat uses."""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeOllama(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, models: list[str], info: dict[str, Any], events: Iterable[dict[str, Any]]
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models, self.info = models, info
        self.events = events  # of the answer to each request; an iterator may wait before one
        self.digest = ""  # of every model: the sha256 of its manifest
        self.show: Any = ...  # another answer to /api/show than `info`
        self.requests: list[dict[str, Any]] = []  # bodies of /api/generate
        self.hung_up = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeOllama
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == "/api/tags"
        facts = {"digest": self.server.digest, "size": 5, "modified_at": "2026-01-01T00:00:00Z"}
        self._answer({"models": [{"name": name} | facts for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/show":
            if self.server.show is not ...:
                return self._answer(self.server.show)
            return self._answer({"model_info": self.server.info if body["verbose"] else {}})
        self.server.requests.append(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in self.server.events:
                line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
                # Chunks that cut characters in two
                for i in range(0, len(line), 5):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line[i : i + 5]), line[i : i + 5]))
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()

    def _answer(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def running(
    models: list[str],
    info: dict[str, Any] | None = None,
    events: Iterable[dict[str, Any]] = (),
) -> Iterator[FakeOllama]:
    with FakeOllama(models, info or {}, events) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
