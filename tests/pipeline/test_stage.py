"""The entry point of a stage: exit codes, one line for errors of a user, tracebacks for bugs."""

import os
import subprocess
import sys

import pytest

from antimatter.launch import inside


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


@pytest.mark.parametrize(
    ("body", "status", "report"),
    [
        ("pass", 0, "0"),
        ("raise UserError('x')", 1, "1"),
        # Slurm ends all processes of a job when one ends with another status than 0
        ("raise InterruptedError('paused')", 0, "130"),
        # Perhaps the loss of another process, after which the job starts again
        ("raise RuntimeError('connection closed by peer')", 1, None),
    ],
)
def test_a_process_of_a_job_reports_how_it_ends(tmp_path, body, status, report) -> None:
    code = (
        "from antimatter.errors import UserError\nfrom antimatter.pipeline import stage\n"
        f"def main():\n    {body}\nstage.run(main)"
    )
    environment = {**os.environ, inside.ATTEMPT: str(tmp_path), "RANK": "3"}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == status
    written = tmp_path / "status-3"
    assert (written.read_text().strip() if written.exists() else None) == report
    assert inside.statuses(tmp_path) == ({} if report is None else {"3": int(report)})


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
    assert "GOMP_SPINCOUNT = '4000'" in done.stderr
