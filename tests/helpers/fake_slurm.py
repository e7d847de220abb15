"""Slurm's commands for tests: a cluster whose machines are all this one.

sbatch really runs the job script, and srun starts the processes of a step with the variables that
Slurm sets. Files in the folder of the cluster change what happens: `refuse` (the error of sbatch),
`pending` (why jobs wait), `silent` (the controller does not answer), `deaf` (how many times scancel
does nothing), `blind` (the last machine does not see the folder of the attempt).
"""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
# Only in the copies that install_to() writes
ROOT = Path(__file__).parent


def install_to(folder: Path) -> Path:
    """Writes the commands, to be put on the PATH."""
    folder.mkdir(parents=True)
    program = folder / "fake_slurm.py"
    program.write_text(Path(__file__).read_text())
    for name in COMMANDS:
        call = shlex.join([sys.executable, "-S", str(program), name])
        (folder / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def options_of(arguments: list[str]) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in arguments if part.startswith("--"))


def jobs() -> list[Path]:
    return sorted((ROOT / "jobs").glob("*"), key=lambda job: int(job.name))


def write(path: Path, text: str) -> None:
    """Writes a file that others wait for: they never read a part of it."""
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    partial.write_text(text)
    partial.rename(path)


@contextmanager
def steady(job: Path) -> Iterator[None]:
    """Holds up those who start or signal the processes of a job.

    A signal in the middle of a start would be lost, and the job would go on.
    """
    with (job / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def end(job: Path, state: str) -> None:
    if not (job / "ended").exists():
        write(job / "ended", state)


def end_all(folder: Path) -> None:
    """Ends what the jobs of a cluster still run, so that no test leaves processes behind."""
    for job in (folder / "jobs").glob("*"):
        if (job / "pid").exists() and not (job / "ended").exists():
            with suppress(ProcessLookupError):
                os.killpg(int((job / "pid").read_text()), signal.SIGKILL)


def sbatch(*arguments: str) -> int:
    if (ROOT / "refuse").exists():
        print(f"sbatch: error: {(ROOT / 'refuse').read_text()}", file=sys.stderr)
        return 1
    number = str(len(jobs()) + 1)
    job = ROOT / "jobs" / number
    job.mkdir(parents=True)
    options = options_of([*arguments])
    (job / "options").write_text(json.dumps({**options, "script": arguments[-1]}))
    if (ROOT / "pending").exists():
        (job / "reason").write_text((ROOT / "pending").read_text())
    else:
        null = subprocess.DEVNULL
        command = [sys.executable, "-S", __file__, "execute", number]
        running = subprocess.Popen(
            command, start_new_session=True, stdin=null, stdout=null, stderr=null
        )
        while not (job / "pid").exists():
            if running.poll() is not None:
                print(f"sbatch: error: job {number} did not start", file=sys.stderr)
                return 1
            time.sleep(0.01)
    print(number)
    return 0


def execute(number: str) -> int:
    """The job itself, in a session of its own."""
    job = ROOT / "jobs" / number
    options = json.loads((job / "options").read_text())
    nodes, each = int(options["--nodes"]), int(options["--ntasks-per-node"])
    variables = {"SLURM_JOB_ID": number, "SLURM_NTASKS": str(nodes * each), "EACH": str(each)}
    log = options["--output"].replace("%%", "%")
    with open(log, "ab") as file:
        write(job / "pid", str(os.getpid()))
        script = ["bash", options["script"]]
        done = subprocess.run(script, env=os.environ | variables, stdout=file, stderr=file)
    end(job, "FAILED" if done.returncode else "COMPLETED")
    return 0


def srun(*arguments: str) -> int:
    command = list(arguments)
    while command[0].startswith("--"):
        command.pop(0)
    size = int(options_of(list(arguments)).get("--ntasks", os.environ["SLURM_NTASKS"]))
    each = max(1, int(os.environ["EACH"])) if size == int(os.environ["SLURM_NTASKS"]) else 1
    job, tasks = ROOT / "jobs" / os.environ["SLURM_JOB_ID"], []
    with steady(job):
        for rank in range(size):
            variables = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each)}
            variables |= {"SLURM_NTASKS": str(size), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
            # It decides the port, and other tests have a job 1 at the same time
            variables |= {"SLURM_JOB_ID": str(os.getpid())}
            if (ROOT / "blind").exists() and rank == size - 1:
                command[-1] = "/not/shared"
            tasks.append(subprocess.Popen(command, env=os.environ | variables))
        write(job / "tasks", "\n".join(str(task.pid) for task in tasks))
    worst = 0
    while any(task.poll() is None for task in tasks):
        bad = [task for task in tasks if task.poll()]
        if bad and "--kill-on-bad-exit=1" in arguments:
            for task in tasks:
                task.kill()
        time.sleep(0.02)
    for task in tasks:
        status = task.wait()
        worst = max(worst, status if status >= 0 else 128 - status)
    return worst


def squeue(*arguments: str) -> int:
    assert "--format=%i|%T|%r|%j" in arguments
    if (ROOT / "silent").exists():
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    for job in jobs():
        if not (job / "ended").exists():
            name = json.loads((job / "options").read_text())["--job-name"]
            reason = job / "reason"
            state = f"PENDING|{reason.read_text()}" if reason.exists() else "RUNNING|None"
            print(f"{job.name}|{state}|{name}")
    return 0


def scancel(*arguments: str) -> int:
    options, job = options_of([*arguments]), ROOT / "jobs" / arguments[-1]
    if (ROOT / "deaf").exists() and (times := int((ROOT / "deaf").read_text())):
        write(ROOT / "deaf", str(times - 1))
        return 0
    is_pending = (job / "reason").exists()
    if "--signal" in options:
        assert options["--signal"] == "TERM"
        with steady(job):
            tasks = (job / "tasks").read_text().split() if (job / "tasks").exists() else []
            for pid in [] if is_pending else tasks:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
    elif is_pending:
        end(job, "CANCELLED")
    elif "--state" not in options:
        # First, as this process may belong to the job
        end(job, "CANCELLED")
        with suppress(ProcessLookupError):
            os.killpg(int((job / "pid").read_text()), signal.SIGKILL)
    return 0


def scontrol(*arguments: str) -> int:
    assert arguments[:2] == ("show", "job")
    print(f"JobId={arguments[-1]} JobState={(ROOT / 'jobs' / arguments[-1] / 'ended').read_text()}")
    return 0


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](*sys.argv[2:]))
