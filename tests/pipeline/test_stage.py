"""The entry point of a stage: exit codes, one line for errors of a user, tracebacks for bugs."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("body", "status", "stderr"),
    [
        ("pass", 0, ""),
        ("raise UserError('x must be 1, got 2')", 1, "error: x must be 1, got 2\n"),
        (
            "open('no/such')",
            1,
            "error: no/such: No such file or directory: name one that exists, or run `dvc repro`\n",
        ),
        ("raise InterruptedError('paused at step 3')", 130, "paused at step 3\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_a_stage_fails_in_one_line(body: str, status: int, stderr: str) -> None:
    code = (
        "from antimatter.errors import UserError\nfrom antimatter.pipeline import stage\n"
        f"def main(path):\n    assert path.name == 'b'\n    {body}\nstage.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code, "a/b"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, stderr)


@pytest.mark.parametrize("bug", ["1 / 0", "int('a')"])
def test_a_bug_keeps_its_traceback(bug: str) -> None:
    code = f"from antimatter.pipeline import stage\nstage.run(lambda: {bug})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is the OpenMP of Linux")
def test_waiting_threads_yield_their_core() -> None:
    """The variable must be set before torch loads libgomp, which prints the values that it read."""
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    environment.pop("GOMP_SPINCOUNT", None)
    command = [sys.executable, "-c", "import stages.checkpoints"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
