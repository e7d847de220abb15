"""Commands whose processes all end with the block that started them."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

GRACE = 900  # seconds that a training may take to save its state


@contextmanager
def process_group(
    command: list[str], folder: Path, environment: Mapping[str, str], stdout: int | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Runs a command in its own process group, of which no process outlives the block."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=stdout, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        end(process, signal.SIGTERM)


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Sends a signal to the whole group, as Ctrl-C in a terminal does, because DVC does not forward
    signals to its stages. Kills what has not ended after GRACE seconds.
    """
    try:
        os.killpg(process.pid, number)
        process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all have ended
        process.wait()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
