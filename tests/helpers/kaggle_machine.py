"""A machine like Kaggle's: one writable folder, a read-only HOME, no root, no network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import tiny_pipeline

NOBODY = 65534
IS_ROOT = os.geteuid() == 0
# Nobody may read everything all the same, because the interpreter may be in root's home
SETPRIV = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"),
)
# For root: a network with loopback alone (SIOCSIFFLAGS, IFF_UP), disks that are read-only but for
# the folder argv[1], and the rights of nobody
CONFINE = f"""\
import fcntl, os, socket, struct, subprocess, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH22x", b"lo", 0x49))
binds = [["--bind", folder, folder] for folder in ("/tmp", sys.argv[1])]
for words in (*binds, *(["-o", "remount,bind,ro", disk] for disk in ("/tmp", "/"))):
    subprocess.run(["mount", *words], check=True)
os.chdir(sys.argv[1])
os.execvp("setpriv", [*{SETPRIV!r}, *sys.argv[2:]])
"""


def may_confine() -> bool:
    command = ["unshare", "--net", "--mount", *SETPRIV, "true"]
    return not IS_ROOT or subprocess.run(command, capture_output=True).returncode == 0


class Machine:
    """The folders input/ and working/ of Kaggle, and a way to run a kernel there."""

    def __init__(self, root: Path) -> None:
        self.root, self.input, self.working = root, root / "input", root / "working"
        self.home = root / "home"
        for folder in (self.input, self.working, self.home):
            folder.mkdir(parents=True)
        if IS_ROOT:
            os.chown(self.working, NOBODY, NOBODY)
        for folder in (self.home, root):
            folder.chmod(0o555)

    def attach(self, source: Path, name: str) -> Path:
        return shutil.copytree(source, self.input / name)

    def start(
        self, folder: Path, starter: Path | None = None, **environment: str
    ) -> "subprocess.Popen[str]":
        """Runs the kernel, if there is a `starter` by this program."""
        programs = [str(path) for path in (starter, folder / "run.py") if path]
        command = [sys.executable, *programs]
        if IS_ROOT:
            namespaces = ["unshare", "--net", "--mount"]
            command = [*namespaces, sys.executable, "-c", CONFINE, str(self.working), *command]
        variables = {
            "PATH": tiny_pipeline.ENVIRONMENT["PATH"],
            "HOME": str(self.home),
            "ANTIMATTER_KAGGLE_ROOT": str(self.root),
            **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
            **environment,
        }
        for path in self.input.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        return subprocess.Popen(
            command,
            cwd=self.working,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, folder: Path, status: int = 0, starter: Path | None = None, **environment: str
    ) -> str:
        with self.start(folder, starter, **environment) as process:
            try:
                output, _ = process.communicate(timeout=300)
            except subprocess.TimeoutExpired:
                # Or the end of the block would wait for it
                process.kill()
                raise
        assert process.returncode == status, output
        return output

    def check_clean(self) -> None:
        """Asserts that the kernel has left nothing but its output, and no process."""
        assert list(self.home.iterdir()) == []
        assert sorted(path.name for path in self.root.iterdir()) == ["home", "input", "working"]
        assert self._processes() == []

    def _processes(self) -> list[str]:
        marker = f"ANTIMATTER_KAGGLE_ROOT={self.root}".encode()
        commands = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if marker in path.read_bytes().split(b"\0"):
                    commands.append((path.parent / "cmdline").read_text())
            except OSError:  # it has ended, or belongs to another user
                continue
        return commands
