"""A real HTTP server on loopback that speaks as much of the Hugging Face hub as streaming needs, and fails on demand."""

import hashlib
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3  # entries of a file listing in one answer; the hub's own is 1,000


@dataclass
class Repository:
    revision: str
    files: dict[str, bytes]
    gated: bool = False


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose `METHOD path` matches."""

    where: str  # regular expression
    times: int
    status: int = 0  # answer this
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False  # say nothing until the client gives up
    reset: bool = False  # end the connection without an answer
    cut: int | None = None  # end it after so many bytes of the body
    garble: bool = False  # turn a bit of the body


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # "METHOD path range"
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.where, request):
                    fault.times -= 1
                    return fault
        return None

    # Clients are killed and time out here by intention
    def handle_error(self, *_: Any) -> None: ...


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement
    fault: Fault | None

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        self.fault = self.server.fault(
            f"{self.command} {unquote(url.path)} {self.headers.get('Range', '')}".strip()
        )
        if self.fault and self.fault.hang:
            self.server.ended.wait(60)
        if self.fault and (self.fault.hang or self.fault.reset):
            return self._hang_up()
        if self.fault and self.fault.status:
            return self._answer(self.fault.status, b"", self.fault.headers)
        if match := re.fullmatch(r"/cdn/(.+?)@(.+?)/(.+)", unquote(url.path)):
            return self._content(self.server.repositories[match[1]].files[match[3]], {})
        match = re.fullmatch(
            r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+)(?:/(.+))?)?)?",
            unquote(url.path),
        )
        if match is None:
            return self._refuse(404, "", "Not found")
        name, verb, revision, path = match.groups()
        repository = self.server.repositories.get(name)
        # The hub does not tell strangers what does not exist from what is private
        if repository is None:
            return self._refuse(401, "RepoNotFound", "Repository not found")
        if revision not in (None, repository.revision):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb == "auth-check" and repository.gated:
            return self._refuse(
                403,
                "GatedRepo",
                f"Access to dataset {name} is restricted and you are not in the authorized list.",
            )
        if verb == "resolve":
            return self._resolve(name, repository, path)
        if verb == "tree":
            return self._tree(repository, path or "", parse_qs(url.query))
        if verb == "paths-info":
            wanted = json.loads(body)["paths"]
            return self._json(
                [
                    self._entry(path, repository.files[path])
                    for path in wanted
                    if path in repository.files
                ]
            )
        self._json(
            {
                "id": name,
                "sha": repository.revision,
                "private": False,
                "gated": repository.gated,
                "tags": [],
                "siblings": [],
            }
        )

    do_HEAD = do_POST = do_GET

    def _resolve(self, name: str, repository: Repository, path: str) -> None:
        commit = {"X-Repo-Commit": repository.revision}
        if path not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found", commit)
        content = repository.files[path]
        if not path.endswith((".gz", ".parquet")):
            return self._content(content, commit)
        if repository.gated:
            return self._refuse(
                401,
                "GatedRepo",
                f"Access to dataset {name} is restricted. You must be authenticated to access it.",
                commit,
            )
        linked = {
            "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        self._answer(
            302,
            b"",
            {
                "Location": f"{self.server.url}/cdn/{name}@{repository.revision}/{path}",
                **linked,
                **commit,
            },
        )

    def _tree(self, repository: Repository, folder: str, query: dict[str, list[str]]) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in repository.files if path.startswith(prefix)]
        if not inside:
            return self._refuse(404, "EntryNotFound", f"{folder} does not exist")
        paths = {
            path if query["recursive"] == ["true"] else prefix + path[len(prefix) :].split("/")[0]
            for path in inside
        }
        if query["recursive"] == ["true"]:
            paths |= {
                path[: end.start()]
                for path in inside
                for end in re.finditer("/", path)
                if end.start() >= len(prefix)
            }
        entries = [self._entry(path, repository.files.get(path)) for path in sorted(paths)]
        start = int(query.get("cursor", ["0"])[0])
        options = "".join(f"{name}={query[name][0]}&" for name in ("recursive", "expand"))
        link = f'<{self.server.url}{urlsplit(self.path).path}?{options}cursor={start + PAGE}>; rel="next"'
        self._json(
            entries[start : start + PAGE], {"Link": link} if start + PAGE < len(entries) else {}
        )

    def _entry(self, path: str, content: bytes | None) -> dict[str, Any]:
        oid = hashlib.sha1(path.encode() + (content or b"")).hexdigest()
        return {
            "type": "directory" if content is None else "file",
            "path": path,
            "oid": oid,
            "size": len(content or b""),
        }

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
            **headers,
        }
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            return self._answer(206, content[start:end], headers)
        self._answer(200, content, headers)

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        self._answer(
            status, b"", {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        )

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._answer(
            200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if self.fault and self.fault.garble:
            body = (
                body[: len(body) // 2]
                + bytes([body[len(body) // 2] ^ 4])
                + body[len(body) // 2 + 1 :]
            )
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut is not None:
            self.wfile.write(body[: self.fault.cut])
            return self._hang_up()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        if self.fault and self.fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # a reset, where shutdown() would be an orderly end

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def running(repositories: dict[str, Repository]) -> Iterator[Hub]:
    with Hub(repositories) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
