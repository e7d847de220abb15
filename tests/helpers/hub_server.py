"""An HTTP server on loopback that answers as the Hugging Face hub does, to streaming clients, and
fails on demand.
"""

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
from pathlib import PurePath
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
    hang: bool = False  # send nothing until the client gives up
    reset: bool = False  # end the connection without an answer
    cut: int | None = None  # end it after this many bytes of the body
    garble: bool = False  # flip a bit of the body


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

    # Clients are killed and time out here on purpose
    def handle_error(self, *_: Any) -> None: ...


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for the client's acknowledgement
    disable_nagle_algorithm = True
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
            why = "you are not in the authorized list."
            return self._refuse(
                403, "GatedRepo", f"Access to dataset {name} is restricted and {why}"
            )
        if verb == "resolve":
            return self._resolve(name, repository, path)
        if verb == "tree":
            return self._tree(repository, path or "", parse_qs(url.query))
        if verb == "paths-info":
            held = repository.files
            paths = [path for path in json.loads(body)["paths"] if path in held]
            return self._json([self._entry(path, held[path]) for path in paths])
        about = {"id": name, "sha": repository.revision, "gated": repository.gated}
        self._json({**about, "private": False, "tags": [], "siblings": []})

    do_HEAD = do_POST = do_GET

    def _resolve(self, name: str, repository: Repository, path: str) -> None:
        commit = {"X-Repo-Commit": repository.revision}
        if path not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found", commit)
        content = repository.files[path]
        if not path.endswith((".gz", ".parquet")):
            return self._content(content, commit)
        if repository.gated:
            why = "You must be authenticated to access it."
            message = f"Access to dataset {name} is restricted. {why}"
            return self._refuse(401, "GatedRepo", message, commit)
        headers = {
            "Location": f"{self.server.url}/cdn/{name}@{repository.revision}/{path}",
            "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        self._answer(302, b"", headers | commit)

    def _tree(self, repository: Repository, folder: str, query: dict[str, list[str]]) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in repository.files if path.startswith(prefix)]
        if not inside:
            return self._refuse(404, "EntryNotFound", f"{folder} does not exist")
        if query["recursive"] == ["true"]:
            parents = [parent.as_posix() for path in inside for parent in PurePath(path).parents]
            paths = {
                *inside,
                *(path for path in parents if path.startswith(prefix) and path != "."),
            }
        else:
            paths = {prefix + path.removeprefix(prefix).split("/")[0] for path in inside}
        entries = [self._entry(path, repository.files.get(path)) for path in sorted(paths)]
        start = int(query.get("cursor", ["0"])[0])
        end, headers = start + PAGE, dict[str, str]()
        if end < len(entries):
            options = "".join(f"{name}={query[name][0]}&" for name in ("recursive", "expand"))
            address = f"{self.server.url}{urlsplit(self.path).path}?{options}cursor={end}"
            headers = {"Link": f'<{address}>; rel="next"'}
        self._json(entries[start:end], headers)

    def _entry(self, path: str, content: bytes | None) -> dict[str, Any]:
        kind = "directory" if content is None else "file"
        oid = hashlib.sha1(path.encode() + (content or b"")).hexdigest()
        return {"type": kind, "path": path, "oid": oid, "size": len(content or b"")}

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes"} | headers
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            return self._answer(206, content[start:end], headers)
        self._answer(200, content, headers)

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        reason = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(status, b"", reason | (headers or {}))

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._answer(200, json.dumps(value).encode(), kind | (headers or {}))

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if self.fault and self.fault.garble:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 4]) + body[middle + 1 :]
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
            # A reset, where shutdown() would be an orderly end
            os.close(self.connection.detach())

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
