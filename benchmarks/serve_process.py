"""A real `antimatter serve` for the benchmarks, and what it uses: memory, files, threads."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Usage:
    """Of the server and of the llama.cpp below it."""

    memory: float  # MB
    files: int
    threads: int


@dataclass(frozen=True)
class ServerProcess:
    port: int
    pid: int
    folder: Path  # its working directory

    def usage(self) -> Usage:
        """Waits until the connections that the clients closed are gone."""
        pids, end, files = self._pids(), time.monotonic() + 10, -1
        while (now := _count(pids, "fd")) != files and time.monotonic() < end:
            files = now
            time.sleep(0.5)
        status = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in pids]
        resident = [line for lines in status for line in lines if line.startswith("VmRSS")]
        memory = sum(int(line.split()[1]) for line in resident) / 1024
        return Usage(memory, files, _count(pids, "task"))

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [self.pid, *(int(pid) for path in children for pid in path.read_text().split())]


def _count(pids: list[int], folder: str) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/{folder}")) for pid in pids)


@contextmanager
def serving(model: Path, *arguments: str) -> Iterator[ServerProcess]:
    """Runs a server in an empty folder, and stops it with SIGTERM."""
    command = [sys.executable, "-m", "antimatter.cli", "serve", "--port", "0"]
    command += ["--model", str(model.absolute()), *arguments]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(ROOT / "params.yaml", name)
        process = subprocess.Popen(
            command, cwd=name, env=environ, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("serving "), line
            port = int(line.rsplit(":", 1)[1].split("/")[0])
            yield ServerProcess(port, process.pid, Path(name))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, process.returncode
        finally:
            process.kill()
            process.communicate()


def report(before: Usage, after: Usage) -> None:
    for name in ("memory", "files", "threads"):
        old, new = getattr(before, name), getattr(after, name)
        print(f"{name}: {old:.0f} before, {new:.0f} after")
