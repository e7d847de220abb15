"""Runs train_process.py in a fork of the server that tests/conftest.py sets up.

The server has imported torch, which takes longer than a small training. A fork is a real process:
it gets signals and has an exit code like any other.
"""

import os
import subprocess
import sys
from multiprocessing.context import ForkProcess, ForkServerProcess
from pathlib import Path

from antimatter.training import distributed
from helpers import train_process


class Forked(ForkServerProcess):
    """A running training."""

    def __init__(self, tokens: Path, folder: Path, *options: str) -> None:
        self.stderr = folder.with_name(f"{folder.name}.stderr")
        super().__init__(target=_run, args=([str(tokens), str(folder), *options], self.stderr))
        self.start()


def finish(process: Forked, status: int) -> str:
    """Waits for the end of a training and returns its stderr.

    Args:
        status: the expected exit code; below 0 it is a signal.
    """
    process.join(120)
    ended = process.exitcode
    if ended is None:
        # Or the tests would wait for it at their end
        process.kill()
    output = process.stderr.read_text()
    assert ended == status, output
    return output


class _Other(ForkProcess):
    """The process of another device, in place of the Popen of distributed.py."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        super().__init__(target=_run_other, args=(env,))
        self.start()

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float) -> None:
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired("train_process.py", timeout)


def _run(arguments: list[str], stderr: Path) -> None:
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    sys.argv[1:] = arguments
    distributed.subprocess.Popen = _Other  # type: ignore[attr-defined, misc]
    train_process.main(arguments)


def _run_other(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    train_process.main(sys.argv[1:])
