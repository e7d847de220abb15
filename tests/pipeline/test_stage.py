import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("pass", 0, ""),
        ("raise ValueError('x must be 1, got 2')", 1, "error: x must be 1, got 2\n"),
        ("raise FileNotFoundError('a is missing')", 1, "error: a is missing\n"),
        ("raise InterruptedError('paused at step 3')", 130, "paused at step 3\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_a_stage_fails_in_one_line(body: str, status: int, said: str) -> None:
    code = f"from antimatter.pipeline import stage\ndef main(path):\n    assert path.name == 'b'\n    {body}\nstage.run(main)"
    done = subprocess.run([sys.executable, "-c", code, "a/b"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, said)


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from antimatter.pipeline import stage\nstage.run(lambda: 1 / 0)"],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
    )


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is Linux's")
def test_threads_that_wait_give_their_core_away() -> None:
    """Set before torch loads libgomp, which shows what it has read."""
    environment = {
        name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"
    } | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(
        [sys.executable, "-c", "import stages.checkpoints"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
