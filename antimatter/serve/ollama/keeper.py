"""The supervisor of Ollama: starts the command in its arguments, and stops it with everything that
it started when its own stdin ends, or at SIGTERM.

It is a separate process because Ollama's runner (llama-server) outlives an Ollama that was killed,
and Ollama outlives a parent that was killed. Any death of the parent closes stdin. The kernel's
PR_SET_PDEATHSIG in the parent would not do: it fires when the *thread* that started the child ends,
never reaches grandchildren, and needs code between fork and exec, which a process with threads must
not run. The keeper has one thread and sets it in Ollama, in case the keeper itself is killed.

Its exit status is Ollama's. Imports nothing of ours: it is run by path.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

# Seconds from SIGTERM to SIGKILL. Ollama ends its runner itself, in less than one
GRACE = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(grace: float, command: list[str]) -> int:
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Only signals with a handler are written to the pipe
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake)
    # Orphans of Ollama become children of this process, and so can be found
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    while process.poll() is None:
        ready, _, _ = select.select([0, woken], [], [])
        # Nothing is ever written to stdin, so it is readable when it ends
        if 0 in ready or any(number != signal.SIGCHLD for number in os.read(woken, 64)):
            process.terminate()
            break
    try:
        status = process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    _end_orphans(process.pid)
    return status if status >= 0 else 128 - status


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_orphans(group: int) -> None:
    """Kills the rest of Ollama's process group, and on Linux all its other descendants, until the
    kernel reports that this process has no children.
    """
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        # A PermissionError on macOS means a group of zombies
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _children() -> list[int]:
    try:
        path = Path(f"/proc/self/task/{os.getpid()}/children")
        return [int(pid) for pid in path.read_text(encoding="ascii").split()]
    except OSError:  # not Linux
        return []


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
