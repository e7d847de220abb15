"""Worker processes end with the process that started them, however that ends."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from antimatter.errors import UserError
from antimatter.tasks.workers import processes

# A parent with work for its workers. 300,000 bytes are too large for the pipe to them, so that the
# parent is always sending some
BUSY = """
import signal, sys, time
from antimatter.tasks.workers import processes

def work(text):
    print("working", flush=True)
    time.sleep(0.05)
    return len(text)

if __name__ == "__main__":
    # A shell starts background processes with the signal ignored
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
        # The lines of two workers may run into one
        assert parent.stdout.readline().startswith("working")
        time.sleep(0.3)
        # A terminal sends Ctrl-C to the workers too
        if everyone:
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.send_signal(signal.SIGINT)
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


def test_a_killed_worker_ends_the_work_with_one_line() -> None:
    with pytest.raises(UserError, match=r"runtime\.workers"), processes(2) as pool:
        list(pool.map(_die, ["x" * 300_000] * 40))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "error", [OSError("handle is closed"), OSError(errno.EBADF, "Bad file descriptor")], ids=str
)
def test_a_pool_that_breaks_while_work_is_handed_out_is_the_same_error(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(pool: Any, *_: object) -> None:
        pool._broken = "A child process terminated abruptly"
        raise error

    with pytest.raises(UserError, match="a worker was killed"), processes(2) as pool:
        monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
        pool.map(abs, [-1])


def test_an_error_of_the_system_is_not_taken_for_a_killed_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"), processes(2) as pool:
        monkeypatch.setattr(ProcessPoolExecutor, "submit", full)
        pool.map(abs, [-1])


def test_the_folder_for_temporary_files_may_have_a_long_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of workers cannot listen there, because the path of a socket is short."""
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    code = "from antimatter.tasks.workers import processes\nif __name__ == '__main__':\n"
    code += "    with processes(2) as pool:\n        print(*pool.map(abs, [-1, -2]))"
    script = tmp_path / "call.py"
    script.write_text(code)
    call = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (call.stdout, call.stderr) == ("1 2\n", "")


def test_workers_are_not_forked_from_a_process_with_threads() -> None:
    with processes(1) as pool:
        assert pool._mp_context.get_start_method() == "forkserver"
