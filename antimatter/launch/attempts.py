"""A training on a cluster, from the machine that runs `dvc repro`: submits it, shows its output,
and submits it again when a machine was lost, as long as that gets it further.
"""

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from antimatter import files
from antimatter.errors import UserError
from antimatter.launch import inside
from antimatter.launch.cluster import Cluster, Job
from antimatter.progress import StatusLine

# Attempts in a row that save no further state
LIMIT = 3
# Between two looks at the log, and at the cluster
LOG_SECONDS, POLL_SECONDS = 0.5, 5.0
# A shared file system may show the files of another machine late
VISIBLE_SECONDS = 60.0
# For a training to save its state after a request to pause
GRACE = 900.0
# For a job to end after its training has
LINGER = 60.0
# For a job to leave the cluster after it was cancelled
LEAVE = 300.0


class Requests:
    """Counts SIGINT and SIGTERM for the block."""

    def __enter__(self) -> Self:
        self.count = 0
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._add) for number in numbers}
        return self

    def _add(self, number: int, frame: object) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def run(stage: str, states: Path, job: Job, outputs: Sequence[Path], cluster: Cluster) -> None:
    """Trains on the cluster until the outputs are there.

    Args:
        states: the resume directory of the training.
        job: its `folder` is that of all attempts; each gets one inside of it.

    Raises:
        InterruptedError: SIGTERM or SIGINT came. The job has saved its state and ended.
        UserError: the cluster refuses the job, or LIMIT attempts in a row saved nothing.
        SystemExit: the training ended with an error, which its log has shown.
    """
    with (
        files.lock(job.folder / "lock", f"the stage {stage} with these parameters"),
        Requests() as requests,
        StatusLine() as line,
    ):
        idle = 0
        while True:
            before = _saved(states)
            attempt, found = _begin(cluster, job, stage, line, requests)
            try:
                has_lingered = _wait(cluster, attempt, requests, line, skip=found)
            except BaseException:
                cluster.cancel()
                raise
            status = _status(attempt.folder)
            if status == 0 and _are_visible(outputs):
                break
            if status == 1:
                sys.exit(1)
            newest = max(_saved(states), default="")
            step = f"step {int(newest):,}" if newest else "the beginning"
            if requests.count:
                raise InterruptedError(f"{stage}: no job is left, run again to resume from {step}")
            reason = "paused" if status == 130 else "without its outputs"
            if status in (None, inside.LOST):
                reason = "a process was lost" if has_lingered else cluster.reason()
            idle = idle + 1 if _saved(states) <= before else 0
            if idle == LIMIT:
                raise UserError(
                    f"{stage}: {LIMIT} jobs in a row ended and saved no further state, the last "
                    f"one: {reason}. {attempt.log} says more; lower save_every if the time was too "
                    "short, then run again to resume"
                )
            line.log(f"{stage}: the job ended ({reason}): starting again from {step}")
            _sleep(idle * POLL_SECONDS, requests)
            if requests.count:
                raise InterruptedError(f"{stage}: paused, run again to resume from {step}")
        files.remove(job.folder)


def _begin(
    cluster: Cluster, job: Job, stage: str, line: StatusLine, requests: Requests
) -> tuple[Job, bool]:
    """Starts an attempt, or finds the one that a killed call has left. Returns whether it did."""
    newest = max((int(path.name) for path in job.folder.glob("[0-9]*")), default=0)
    last = replace(job, folder=job.folder / str(newest))
    if cluster.find(last, lambda: requests.count > 0):
        if newest:
            line.log(f"{stage}: a job of this training still runs, following it")
            return last, True
        # Its folder was deleted
        cluster.cancel()
    attempt = replace(job, folder=job.folder / str(newest + 1))
    attempt.folder.mkdir(parents=True)
    cluster.start(attempt)
    return attempt, False


def _wait(cluster: Cluster, job: Job, requests: Requests, line: StatusLine, *, skip: bool) -> bool:
    """Shows the log of a job until it has ended.

    The first signal asks the training to pause, the second one ends it at once.

    Args:
        skip: show only what the job writes from now on.

    Returns:
        Whether it was cancelled because it did not end after its training. Slurm's srun waits
        forever for a process whose machine is back before Slurm has noticed that it was lost.

    Raises:
        UserError: it is still there LEAVE seconds after it was cancelled.
    """
    position = job.log.stat().st_size if skip and job.log.exists() else 0
    asked, deadline, polled = 0, float("inf"), -float("inf")
    over_since: float | None = None
    cancelled_since: float | None = None
    has_lingered = False
    while True:
        if requests.count and not asked:
            line.log("asking the training to save its state; once more ends it at once")
            cluster.pause()
            asked, deadline, polled = 1, time.monotonic() + GRACE, -float("inf")
        if asked == 1 and (requests.count > 1 or time.monotonic() > deadline):
            asked, polled = 2, -float("inf")
        is_over = False
        if (now := time.monotonic()) - polled > POLL_SECONDS:
            is_over, polled = not cluster.is_running(), now
            if waiting := cluster.waiting_for():
                line.show(waiting)
            if over_since is None and inside.is_over(job.folder):
                over_since = now
            has_lingered = has_lingered or now - (over_since or now) > LINGER
            if (asked == 2 or has_lingered) and not is_over:
                # At each look, as a cluster that does not answer has not got the request
                cluster.cancel()
                if cancelled_since is None:
                    cancelled_since, polled = now, -float("inf")
                if now - cancelled_since > LEAVE:
                    # The training has succeeded, whatever the cluster still ends
                    if inside.statuses(job.folder).get("0") == 0:
                        return has_lingered
                    raise UserError(
                        f"the job was cancelled, but the cluster still has it after {LEAVE:g} s: "
                        f"run again to resume when it is gone; its log is {job.log}"
                    )
        position = _show(job.log, position, line, whole=is_over)
        if is_over:
            return has_lingered
        time.sleep(LOG_SECONDS)


def _show(log: Path, position: int, line: StatusLine, *, whole: bool) -> int:
    """Prints the lines that a log has got since `position`, and returns the new position.

    Args:
        whole: print an incomplete last line too.
    """
    try:
        with log.open("rb") as file:
            file.seek(position)
            new = file.read()
    except OSError:
        return position
    if not whole:
        new = new[: new.rfind(b"\n") + 1]
    for text in new.decode("utf-8", "replace").splitlines():
        line.log(text)
    return position + len(new)


def _status(attempt: Path) -> int | None:
    """How the training ended: 0, 1 (an error of a process), 130 (paused), LOST, or None if its
    processes were killed.
    """
    deadline = time.monotonic() + min(VISIBLE_SECONDS, 2 * POLL_SECONDS)
    while True:
        found = inside.statuses(attempt)
        if 1 in found.values():
            return 1
        if "0" in found:
            return found["0"]
        if time.monotonic() > deadline:
            return None
        time.sleep(LOG_SECONDS)


def _are_visible(outputs: Sequence[Path]) -> bool:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not all(path.exists() for path in outputs):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOG_SECONDS)
    return True


def _saved(states: Path) -> set[str]:
    """The steps of the saved states, each with as many digits."""
    return {path.stem.removeprefix("step-") for path in states.glob("step-*.pt")}


def _sleep(seconds: float, requests: Requests) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not requests.count:
        time.sleep(LOG_SECONDS)
