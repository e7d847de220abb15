"""A user at a terminal in which `antimatter chat` runs."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, Self

from helpers.command import ENVIRONMENT
from helpers.processes import children, is_alive

TAKE_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "antimatter.cli", *sys.argv[1:]])
"""
# Bracketed paste is on while the chat reads a text
PROMPT = "\x1b[?2004h"
# All other control sequences, backspaces, bells and carriage returns are not of interest
_CONTROL = re.compile(r"\x1b\[(?!\?2004h)\??[0-9;]*[a-zA-Z]|[\x07\x08\r]")


class User:
    """A context manager that starts the chat.

    Args:
        state: XDG_STATE_HOME; by default the history cannot be written.
        streams: other stdin, stdout or stderr than the terminal.
    """

    def __init__(
        self,
        project: Path,
        *arguments: str,
        ollama: str = "",
        columns: int = 80,
        state: Path | str = os.devnull,
        **streams: Any,
    ) -> None:
        self.terminal, inside = pty.openpty()
        self.resize(columns)
        self.settings_before = termios.tcgetattr(inside)
        environment = ENVIRONMENT | {"LC_ALL": "C.UTF-8", "XDG_STATE_HOME": str(state)}
        if ollama:
            environment["OLLAMA_HOST"] = ollama
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, "chat", *arguments],
            cwd=project,
            env=environment,
            start_new_session=True,
            **{"stdin": inside, "stdout": inside, "stderr": inside, **streams},
        )
        os.close(inside)
        self.screen, self._position = "", 0
        self.backends: list[int] = []  # processes that the chat has started

    def __enter__(self) -> Self:
        self.sees("/help shows the rest")
        self.sees(PROMPT)
        self.backends = children(self.process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.terminal)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def types(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def sees(self, text: str) -> None:
        """Waits until `text` appears after what was seen before."""
        deadline = time.monotonic() + 30
        while (start := self.screen.find(text, self._position)) < 0:
            assert time.monotonic() < deadline and self._read(), (
                f"{text!r} does not appear in {self.screen[self._position :]!r}"
            )
        self._position = start + len(text)

    def leaves(self) -> int:
        """Ctrl-D at the next prompt: in the middle of an answer the terminal swallows it."""
        self.sees(PROMPT)
        self.types("\x04")
        return self.ends()

    def ends(self) -> int:
        """The exit status, once the chat and all that it has started have ended."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            rest = self.screen[self._position :]
            assert time.monotonic() < deadline, f"the chat does not end: {rest!r}"
            self._read(0.1)
        self._read(0.1)
        self.wait_for_backends()
        return self.process.returncode

    def wait_for_backends(self) -> None:
        deadline = time.monotonic() + 30
        while any(map(is_alive, self.backends)):
            assert time.monotonic() < deadline, "the backend does not end"
            time.sleep(0.01)

    def _read(self, timeout: float = 30) -> bool:
        if not select.select([self.terminal], [], [], timeout)[0]:
            return False
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            content = os.read(self.terminal, 4096).decode(errors="replace")
            self.screen += _CONTROL.sub("", content)
            return True
        return False
