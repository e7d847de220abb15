"""A server on loopback to which huggingface_hub uploads models as to the hub: repositories,
branches, and commits whose large files go over Git LFS.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN, OTHER_TOKEN, OWNER = "hf_right", "hf_of_somebody_else", "me"
LARGE = (".safetensors", ".gguf")


@dataclass
class Repository:
    private: bool
    # By branch: the number of commits and the files
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: dict[str, int] = field(default_factory=lambda: {"main": 1})


class ModelHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}  # by sha256
        self.requests: list[str] = []
        # Called before each commit, as another client would act in between
        self.between: Any = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None: ...


def commit_id(name: str, branch: str, number: int) -> str:
    return hashlib.sha1(f"{name} {branch} {number}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: ModelHub
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for the client's acknowledgement
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("/large/"):
            # A signed address, without a token
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/large/")
            self.server.large[path.removeprefix("/large/")] = body
            return self._answer(200, {})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, OTHER_TOKEN):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(token, json.loads(body))
        match = re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(?:/([a-z-]+)/?(.*))?", path
        )
        assert match, path
        name, verb, rest = match.groups()
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and token != TOKEN):
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if verb in (None, "revision"):
            return self._describe(name, repository, rest or "main")
        if token != TOKEN:
            return self._refuse(403, "", f"You do not have write access to {name}")
        {
            "branch": self._branch,
            "preupload": self._preupload,
            "info": self._batch,
            "commit": self._commit,
        }[verb](name, repository, rest, body)

    do_GET = do_PUT = do_POST

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _validate(self, text: str) -> None:
        metadata = yaml.safe_load(text.split("---\n")[1])
        errors = [] if metadata.get("license") != "own" else [{"message": '"license" is unknown'}]
        self._answer(400 if errors else 200, {"warnings": [], "errors": errors})

    def _create(self, token: str, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != OWNER or token != TOKEN:
            return self._refuse(403, "", "You don't have the rights to create a model there")
        if name in self.server.repositories:
            return self._refuse(409, "", "You already created this model repo")
        self.server.repositories[name] = Repository(wanted.get("visibility") == "private")
        self._answer(200, {"url": f"{self.server.url}/{name}", "name": name})

    def _describe(self, name: str, repository: Repository, branch: str) -> None:
        if branch not in repository.branches:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        siblings = []
        for path, content in repository.branches[branch].items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content)}
            entry["blobId"] = _git_id(content)
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        sha = commit_id(name, branch, repository.commits[branch])
        self._answer(200, {"id": name, "sha": sha, "siblings": siblings, "tags": []})

    def _branch(self, name: str, repository: Repository, branch: str, _: bytes) -> None:
        repository.branches[branch] = dict(repository.branches["main"])
        repository.commits[branch] = 1
        self._answer(200, {})

    def _preupload(self, name: str, repository: Repository, branch: str, body: bytes) -> None:
        held = repository.branches[branch]
        answers = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(LARGE) else "regular"
            oid = _git_id(held[path]) if path in held and mode == "regular" else None
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            answers.append(answer)
        self._answer(200, {"files": answers})

    def _batch(self, name: str, repository: Repository, rest: str, body: bytes) -> None:
        assert rest == "lfs/objects/batch"
        objects: list[dict[str, Any]] = json.loads(body)["objects"]
        for one in objects:
            if one["oid"] not in self.server.large:
                one["actions"] = {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, branch: str, body: bytes) -> None:
        self.server.between()
        lines = [json.loads(line) for line in body.splitlines() if line]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, commit_id(name, branch, repository.commits[branch])):
            return self._refuse(412, "", "The branch has changed since the parent commit")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                content = self.server.large[value["oid"]]
            else:
                content = base64.b64decode(value["content"])
            repository.branches[branch][value["path"]] = content
        repository.commits[branch] += 1
        oid = commit_id(name, branch, repository.commits[branch])
        address = f"{self.server.url}/{name}/commit/{oid}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": address})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running() -> Iterator[ModelHub]:
    with ModelHub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
