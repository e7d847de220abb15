"""An HTTP server with the page and the API of `antimatter serve`, whose answers a test writes as
bytes.
"""

import json
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from antimatter.serve.http import access

PAGE = Path("antimatter/serve/http/page.html")
MODEL = {
    "id": "antimatter",
    "object": "model",
    "created": 0,
    "owned_by": "antimatter",
    "engine": "embedded llama.cpp, models/gguf/antimatter-f16.gguf",
    "context_length": 256,
    "defaults": {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "repeat_penalty": 1.1,
        "max_tokens": 64,
    },
}
DONE = b"data: [DONE]\n\n"


@dataclass
class ErrorPlay:
    status: int
    message: str | None = None  # None: a body that is not JSON, as from a proxy
    headers: dict[str, str] = field(default_factory=dict)


Step = bytes | threading.Event  # bytes to send, or an event to wait for
Play = Iterable[Step] | ErrorPlay


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: dict[str, str], reason: str | None = None, **values: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return event({"object": "chat.completion.chunk", "choices": [choice], **values})


def piece(text: str) -> bytes:
    return chunk({"content": text})


def end(reason: str = "stop", tokens: int = 7, speed: float = 41.25, dropped: int = 0) -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": tokens + 5}
    own = {"tokens_per_second": speed, "dropped_turns": dropped}
    usage_chunk = event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
    return chunk({}, reason, usage=None, antimatter=own) + usage_chunk + DONE


def answer(*texts: str, **options: Any) -> list[Step]:
    """A whole answer in these pieces. `options` as in `end`."""
    return [chunk({"role": "assistant", "content": ""}), *map(piece, texts), end(**options)]


class FakeApi(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, prefix: str = "/") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prefix, self.token = prefix, ""
        # The answers to the next requests, in order. After them the answer is "Yes."
        self.plays: deque[Play] = deque()
        self.models: Play = [json.dumps({"object": "list", "data": [MODEL]}).encode()]
        self.content_type = "text/event-stream"
        self.requests: list[dict[str, Any]] = []  # bodies
        self.hung_up = threading.Event()  # during an answer
        self.events: list[threading.Event] = []
        # Before it opens, a request does not even get a status
        self.answers = self.gate()
        self.answers.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.prefix}"

    def gate(self) -> threading.Event:
        """An event for a play. It is set at the latest when the server closes."""
        self.events.append(threading.Event())
        return self.events[-1]

    def server_close(self) -> None:
        for gate in self.events:
            gate.set()
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == self.server.prefix:
            page = PAGE.read_text(encoding="utf-8")
            headers = {
                "Content-Type": "text/html; charset=utf-8",
                **access.security_headers(page),
            }
            return self._send(200, page.encode(), headers)
        if self.path == f"{self.server.prefix}favicon.ico":
            return self._send(204, b"", {})
        assert self.path == f"{self.server.prefix}v1/models", self.path
        if self._authorised():
            self._play(self.server.models, "application/json")

    def do_POST(self) -> None:
        assert self.path == f"{self.server.prefix}v1/chat/completions", self.path
        assert self.headers["Content-Type"] == "application/json"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.answers.wait()
        if self._authorised():
            self.server.requests.append(body)
            plays = self.server.plays
            play = plays.popleft() if plays else answer("Yes.")
            self._play(play, self.server.content_type)

    def _authorised(self) -> bool:
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        is_authorised = self.server.token in ("", token)
        if not is_authorised:
            self._play(ErrorPlay(401, "wrong token", {"WWW-Authenticate": "Bearer"}), "")
        return is_authorised

    def _play(self, play: Play, content_type: str) -> None:
        if isinstance(play, ErrorPlay):
            content = json.dumps({"error": {"message": play.message, "type": "x"}}).encode()
            if play.message is None:
                content = b"<h1>Bad gateway</h1>"
            return self._send(play.status, content, play.headers)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for step in play:
                if isinstance(step, threading.Event):
                    step.wait()
                elif step == b"":
                    # The connection breaks off
                    self.close_connection = True
                    return
                else:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(step), step))
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...
