"""The program `bin/ollama` of the tests: it behaves as Ollama does on the routes that are used, and
has its runner in a process of its own.

FAKE_OLLAMA in the environment, a JSON object, makes it misbehave. It records what happened beside
its model store: `pids`, `environ`, `requests`.
"""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PLAN: dict[str, Any] = json.loads(os.environ.get("FAKE_OLLAMA", "{}"))
RUNNER = "import time; time.sleep(600)"


def install_to(path: Path) -> Path:
    """Writes the program, which is this file without this function."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A shebang cannot have a path with spaces. To Python the second line is a string
    exec_python = f"''''exec {shlex.quote(sys.executable)} \"$0\" \"$@\" #'''"
    path.write_text(f"#!/bin/sh\n{exec_python}\n{Path(__file__).read_text()}")
    path.chmod(0o755)
    return path


def models_folder() -> Path:
    return Path(os.environ["OLLAMA_MODELS"])


def note(name: str, value: object) -> None:
    with (models_folder().parent / name).open("a") as file:
        file.write(f"{json.dumps(value)}\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    runner: "subprocess.Popen[bytes] | None" = None

    def load(self) -> None:
        if self.runner is None:
            self.runner = subprocess.Popen(
                [sys.executable, "-c", RUNNER], start_new_session=PLAN.get("runner") == "escapes"
            )
            note("pids", self.runner.pid)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/api/version":
            time.sleep(PLAN.get("slow", 0))
            return self.answer({"version": "9.9.9"})
        assert self.path == "/api/tags"
        manifests = models_folder() / "manifests" / "registry.ollama.ai" / "library"
        models = [
            {"name": ":".join(path.parts[-2:]), "digest": self.digest(path)}
            for path in manifests.glob("*/*")
        ]
        self.answer({"models": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note("requests", [self.path, body])
        if self.path == "/api/show":
            info = {"general.architecture": "mpt", "mpt.context_length": 64}
            return self.answer({"model_info": info})
        assert self.path == "/api/generate"
        self.server.load()
        if "crash" in PLAN:
            print(PLAN["crash"], file=sys.stderr, flush=True)
            os._exit(2)
        if "refuse" in PLAN:
            return self.answer({"error": PLAN["refuse"]}, 500)
        counts = {"prompt_eval_count": 2, "eval_count": 1}
        done = {"response": "", "done": True, "done_reason": "length"}
        events = [{"response": "a"}, done | counts]
        self.answer_bytes(b"".join(json.dumps(event).encode() + b"\n" for event in events))

    def digest(self, manifest: Path) -> str:
        return str(PLAN.get("digest") or hashlib.sha256(manifest.read_bytes()).hexdigest())

    def answer(self, value: object, status: int = 200) -> None:
        self.answer_bytes(json.dumps(value).encode(), status)

    def answer_bytes(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


def fail(message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return 1


def serve() -> int:
    note("pids", os.getpid())
    note("environ", dict(os.environ))
    fail('time=2026-01-01T00:00:00Z level=INFO source=routes.go:1 msg="server config"')
    if "die" in PLAN:
        return fail(PLAN["die"])
    home = Path(os.environ["HOME"])
    try:
        (home / ".ollama").mkdir(parents=True, exist_ok=True)
        (home / ".ollama" / "id_ed25519").write_text("a key")
    except OSError as error:
        return fail(f"Error: could not create directory mkdir {home}: {error.strerror}")
    while "wait_for" in PLAN and not Path(PLAN["wait_for"]).exists():
        time.sleep(0.01)
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    try:
        server = Server((host, int(port)), Handler)
    except OSError:
        return fail(f"Error: listen tcp {host}:{port}: bind: address already in use")
    stop = threading.Event()
    is_stubborn = PLAN.get("stubborn", False)
    signal.signal(signal.SIGTERM, lambda *_: None if is_stubborn else stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not stop.wait(0.01):
        pass
    if server.runner and PLAN.get("runner") not in ("escapes", "forgotten"):
        server.runner.kill()
        server.runner.wait()
    if PLAN.get("vandal"):
        destroy_models()
    return 0


def destroy_models() -> None:
    """No Ollama does this, but it must not do harm."""
    for path in sorted(models_folder().rglob("*")):
        if "manifests" in path.parts and path.is_file():
            path.write_bytes(b"overwritten in place")
        elif not path.is_dir():
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1:] == ["--version"]:
        print("ollama version is 9.9.9")
    else:
        assert sys.argv[1:] == ["serve"]
        sys.exit(serve())
