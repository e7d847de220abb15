"""Runs the same steps for every task: in processes of this machine, on a Ray cluster or on a Slurm
cluster, with the same bytes.

The executors build on those of datatrove. The number of tasks belongs to the data and decides the
bytes; the number of workers and the executor decide only how long it takes. The folder of a run
keeps the completion and the counts of each finished task, so a killed run resumes with the others.
"""

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datatrove.utils.logging import logger

from antimatter import files, text
from antimatter.errors import UserError
from antimatter.progress import StatusLine
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.local import LocalExecutor
from antimatter.tasks.ray import RayExecutor
from antimatter.tasks.slurm import SlurmExecutor
from antimatter.tasks.task import ReportErrors, Step, raise_reported

EXECUTORS = {"local": LocalExecutor, "ray": RayExecutor, "slurm": SlurmExecutor}
PROGRESS_SECONDS = 5  # between two looks at what is done


def run(
    steps: Sequence[Step], sizes: Sequence[int], folder: Path, runtime: TasksRuntime, label: str
) -> Counter[str]:
    """Runs `steps` for task 0, 1, ... and returns the totals of their statistics. Blocks until all
    tasks are done, whatever the executor.

    Args:
        steps: each takes the documents of the one before; pickled for the workers.
        sizes: bytes of text in each task, for the progress line.
        folder: of completions, counts and logs. On a cluster every machine must see it under this
            path.
        label: begins each line of progress; its first word names the jobs of Slurm.

    Raises:
        UserError, OSError: as a task raised it, or a task was killed. Finished tasks are kept.
    """
    folder = folder.resolve()
    _forget_torn(folder)
    errors, progress = folder / "errors", folder / "progress"
    for subfolder in (errors, progress):
        files.remove(subfolder)
        subfolder.mkdir(parents=True)
    logger.disable("datatrove")
    for step in steps:
        step.progress = progress
    kind = EXECUTORS[runtime.executor]
    executor = kind([*steps, ReportErrors(errors)], len(sizes), folder, runtime, label)
    executor.cwd, executor.dvc_root = Path.cwd(), os.environ.get("DVC_ROOT", "")
    with _showing_progress(folder, sizes, label):
        try:
            executor.run()
        except (UserError, OSError):
            # As the task raised it, without what the executor adds
            raise_reported(errors)
            raise
    if failed := len(sizes) - len(_completed(folder)):
        raise_reported(errors)
        fault = f"{failed} of {len(sizes)} tasks did not end, perhaps for want of memory or time"
        raise UserError(f"{label}: {fault}: see the logs in {folder}, then run again to resume")
    return _totals(folder, len(sizes))


def _totals(folder: Path, tasks: int) -> Counter[str]:
    totals = Counter[str]()
    for task in range(tasks):
        for step in _counts(folder, task):
            for name, value in step["stats"].items():
                totals[name] += int(value["total"] if isinstance(value, dict) else value)
    return totals


def _counts(folder: Path, task: int) -> list[dict[str, dict[str, int | dict[str, int]]]]:
    """The counts of each step of a finished task, as datatrove writes them."""
    counts: list[dict[str, dict[str, int | dict[str, int]]]]
    counts = json.loads((folder / "stats" / f"{task:05d}.json").read_text())
    return counts


def _completed(folder: Path) -> set[int]:
    return {int(path.name) for path in (folder / "completions").glob("[0-9]*")}


def _forget_torn(folder: Path) -> None:
    """Lets a task run again whose counts were not whole on the disk when the machine died."""
    for task in _completed(folder):
        try:
            _counts(folder, task)
        except (OSError, ValueError):
            (folder / "completions" / f"{task:05d}").unlink()


@contextlib.contextmanager
def _showing_progress(folder: Path, sizes: Sequence[int], label: str) -> Iterator[None]:
    """Shows how much is done, at which rate, and how long the rest will take."""
    started, before = time.monotonic(), _bytes_done(folder, sizes)
    total, ended = sum(sizes), threading.Event()

    def show(status: StatusLine) -> None:
        shown = before
        while not ended.wait(PROGRESS_SECONDS):
            done = _bytes_done(folder, sizes)
            if done > shown:
                rate = (done - before) / (time.monotonic() - started)
                remaining = text.clock((total - done) / rate)
                amount = _megabytes(done, total)
                status.show(f"{label}: {amount}, {rate / 1e6:.1f} MB/s, {remaining} left")
                shown = done

    with StatusLine(every=PROGRESS_SECONDS) as status:
        if before:
            status.log(f"{label}: resuming, {_megabytes(before, total)} were done")
        thread = threading.Thread(target=show, args=(status,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _bytes_done(folder: Path, sizes: Sequence[int]) -> int:
    """The size of the finished tasks, and what the others have reported."""
    completed = _completed(folder)
    done = sum(sizes[task] for task in completed)
    for path in (folder / "progress").glob("[0-9]*"):
        task = int(path.name)
        if task not in completed:
            done += min(sizes[task], int(path.read_text()))
    return done


def _megabytes(done: int, total: int) -> str:
    return f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
