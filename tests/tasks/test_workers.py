"""Worker processes end with what started them, however that ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from antimatter.tasks.workers import processes

# A parent with work for its workers. 300,000 bytes are too large for the pipe to them, so that the
# parent is always in the midst of sending some
BUSY = """
import signal, sys, time
from antimatter.tasks.workers import processes

def work(text):
    print("working", flush=True)
    time.sleep(0.05)
    return len(text)

if __name__ == "__main__":
    # What a shell starts in the background is told to ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with processes(2) as pool:
            print(sum(pool.map(work, ["x" * int(sys.argv[1])] * 400)))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("everyone", [True, False])
def test_ctrl_c_ends_parent_and_workers(everyone: bool, size: int, tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(tmp_path)])}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "busy.py", str(size)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "working\n"
        time.sleep(0.3)
        # A terminal sends it to the workers too
        os.killpg(parent.pid, signal.SIGINT) if everyone else parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=30)
        assert (parent.returncode, errors) == (130, "")
        # No process of its session is left
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.killpg(parent.pid, 0)
                time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def _die(text: str) -> int:
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
    return len(text)


def test_a_worker_that_is_killed_ends_the_work_with_one_line() -> None:
    with pytest.raises(OSError, match=r"runtime\.workers"), processes(2) as pool:
        list(pool.map(_die, ["x" * 300_000] * 40))
    assert not multiprocessing.active_children()
