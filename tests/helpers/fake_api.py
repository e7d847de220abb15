"""A real HTTP server with the page and the API of `antimatter serve`, whose answers a test writes down beforehand, byte by byte if it likes."""

import base64
import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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
class Refusal:
    status: int
    message: str | None = None  # None: a body that is no JSON, as from a proxy
    headers: dict[str, str] = field(default_factory=dict)


Step = bytes | threading.Event  # what is sent; or what is waited for before the rest is
Play = Iterable[Step] | Refusal


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str) -> bytes:
    return event(
        {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        }
    )


def end(reason: str = "stop", tokens: int = 7, speed: float = 41.25, dropped: int = 0) -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": tokens + 5}
    return (
        event(
            {
                "choices": [choice],
                "usage": usage,
                "antimatter": {"tokens_per_second": speed, "dropped_turns": dropped},
            }
        )
        + DONE
    )


def answer(*texts: str, **how: Any) -> list[Step]:
    """A whole answer in these pieces; `how` as in `end`."""
    return [
        event(
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {"role": "assistant", "content": ""},
                        "finish_reason": None,
                    }
                ]
            }
        ),
        *map(piece, texts),
        end(**how),
    ]


def policy(page: str) -> str:
    """The Content-Security-Policy of the server: the page's own style and script, requests to itself, and nothing else."""

    def hashes(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


class FakeApi(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, prefix: str = "/") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prefix, self.token = prefix, ""
        # What the next questions get, in turn; after them, "Yes."
        self.plays: deque[Play] = deque()
        self.models: Play = [json.dumps({"object": "list", "data": [MODEL]}).encode()]
        self.content_type = "text/event-stream"
        self.asked: list[dict[str, Any]] = []  # bodies of the questions
        self.hung_up = threading.Event()  # the page broke an answer off
        self.events: list[threading.Event] = []
        self.answers = self.gate()  # before it opens, a question does not get as much as a status
        self.answers.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.prefix}"

    def gate(self) -> threading.Event:
        """An Event to be put into a play. It opens at the latest when the server closes."""
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
                "Content-Security-Policy": policy(page),
                "X-Content-Type-Options": "nosniff",
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
            self.server.asked.append(body)
            self._play(
                self.server.plays.popleft() if self.server.plays else answer("Yes."),
                self.server.content_type,
            )

    def _authorised(self) -> bool:
        given = self.server.token in (
            "",
            (self.headers["Authorization"] or "").removeprefix("Bearer "),
        )
        if not given:
            self._play(Refusal(401, "wrong token", {"WWW-Authenticate": "Bearer"}), "")
        return given

    def _play(self, play: Play, content_type: str) -> None:
        if isinstance(play, Refusal):
            content = (
                b"<h1>Bad gateway</h1>"
                if play.message is None
                else json.dumps({"error": {"message": play.message, "type": "x"}}).encode()
            )
            return self._send(play.status, content, play.headers)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for step in play:
                if isinstance(step, threading.Event):
                    step.wait()
                elif step == b"":  # the connection breaks off
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
