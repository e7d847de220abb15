"""Runs the same steps once for each task: in processes of this machine, on a Ray cluster or on a Slurm cluster, with the same bytes.

The executors are datatrove's. What decides the bytes is the number of tasks, which belongs to the data; workers and engine only decide the hours. A
task that is done stays done: its mark and its counts lie in the folder of the run, so a killed run goes on with the tasks that are left.
"""

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from copy import deepcopy
from pathlib import Path
from shutil import which
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from antimatter import files
from antimatter.errors import UserError
from antimatter.tasks.config import EngineRuntime
from antimatter.tasks.workers import processes

POLL_SECONDS = 5  # between two looks at Slurm's queue
RETRIES = 3  # of a task whose process or machine died under Ray
PROGRESS_SECONDS = 5  # between two lines, at least


class Step(PipelineStep):
    """What a task does with the documents of the step before, or with none: run(documents, task, tasks)."""

    type = name = "step"
    progress: Path  # run() says where a task tells how far it is
    _told = 0.0

    def count(self, counts: Counter[str]) -> None:
        """Adds to what run() returns; once a task, because datatrove's own counting costs more than a filter."""
        for label, n in counts.items():
            self.stat_update(label, value=n)

    def tell(self, task: int, done: int) -> None:
        """How many bytes of a task are done, for the progress line; to be called as often as it suits."""
        if time.monotonic() > self._told + 1:
            self._told = time.monotonic()
            files.write_text(self.progress / f"{task:05d}", str(done))


def run(
    steps: Sequence[Step], sizes: Sequence[int], folder: Path, runtime: EngineRuntime, label: str
) -> Counter[str]:
    """Runs `steps` for task 0, 1, ... and returns the totals of their statistics. Blocks until all tasks are done, whatever the engine.

    Args:
        steps: each is called with the documents of the one before, the number of the task and how many there are; pickled for the workers.
        sizes: bytes of text in each task, for the progress line.
        folder: of the marks, counts and logs; on a cluster every machine must see it under this path.
        label: begins each line of progress.

    Raises:
        ValueError, OSError: as a task raised it; the other finished tasks are kept.
    """
    folder = folder.resolve()
    _forget_torn(folder)
    errors = folder / "errors"
    files.remove(errors)
    errors.mkdir(parents=True)
    logger.disable("datatrove")
    progress = folder / "progress"
    files.remove(progress)
    progress.mkdir()
    for step in steps:
        step.progress = progress
    executor = _executor([*steps, Report(errors)], len(sizes), folder, runtime, label)
    executor.cwd, executor.dvc_root = Path.cwd(), os.environ.get("DVC_ROOT", "")
    with _progress(folder, sizes, label):
        try:
            executor.run()
        except (ValueError, OSError):
            _raise(errors)  # in the words of the task, without those of the engine
            raise
    if failed := len(sizes) - len(_done(folder / "completions")):
        _raise(errors)
        raise OSError(
            f"{label}: {failed} of {len(sizes)} tasks did not end, perhaps for want of memory or time: see {folder}; run again to go on"
        )
    totals = Counter[str]()
    for task in range(len(sizes)):
        for step in json.loads((folder / "stats" / f"{task:05d}.json").read_text()):
            totals.update(
                {
                    name: int(value["total"] if isinstance(value, dict) else value)
                    for name, value in step["stats"].items()
                }
            )
    return totals


def _executor(
    steps: list[Step], tasks: int, folder: Path, runtime: EngineRuntime, label: str
) -> PipelineExecutor:
    workers = min(runtime.workers, tasks)
    if runtime.executor == "local":
        return _Local(steps, tasks=tasks, workers=workers, logging_dir=str(folder))
    if runtime.executor == "ray":
        ray = _Ray(steps, tasks=tasks, workers=workers, logging_dir=str(folder))
        ray.address, ray.memory_gb = runtime.address, runtime.memory_gb
        return ray
    return _Slurm(
        steps,
        tasks=tasks,
        workers=workers,
        logging_dir=str(folder),
        job_name=f"antimatter-{label}-{os.getpid()}",
        partition=runtime.partition,
        time=runtime.time_limit,
        mem_per_cpu_gb=runtime.memory_gb,
        qos="",
        env_command=f"cd '{Path.cwd()}'\nexport PATH='{Path(sys.executable).parent}':$PATH",
    )


class _Task(PipelineExecutor):
    """How a task runs in each engine: in the folder of the call, and without datatrove's log, as errors come back by Report and counts by files."""

    def _run_for_rank(self, *arguments: Any, **options: Any) -> Any:
        logger.disable("datatrove")  # here too, because every worker has its own logger
        os.chdir(self.cwd)  # Ray's workers begin elsewhere, and without our environment
        if self.dvc_root:
            os.environ["DVC_ROOT"] = self.dvc_root
        return super()._run_for_rank(*arguments, **options)


class _Local(_Task, LocalPipelineExecutor):
    """datatrove's own pool waits for ever when a worker is killed. This one fails, and leaves none
    behind.
    """

    def run(self) -> None:
        tasks = self.get_incomplete_ranks()
        if self.workers == 1:
            for task in tasks:
                deepcopy(self)._run_for_rank(task)  # a step's counts are those of one task
            return
        with processes(self.workers) as pool:
            for future in as_completed([pool.submit(self._run_for_rank, task) for task in tasks]):
                future.result()


class _Ray(_Task, LocalPipelineExecutor):
    """datatrove's own waits for ever when a task cannot be placed or its process is killed. This one fails, or lets Ray try again."""

    address: str
    memory_gb: int

    def run(self) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            fix = "`pip install -c requirements.lock -e '.[ray]'`, or set runtime.executor to local"
            raise UserError(f"runtime.executor ray needs the package ray: {fix}") from None
        if match := re.fullmatch(r"(.+):(\d+)", self.address):  # Ray itself would try for minutes
            try:
                socket.create_connection((match[1], int(match[2])), timeout=10).close()
            except OSError as error:
                raise OSError(
                    f"runtime.address: no Ray cluster answers at {self.address} ({error}): start one with `ray start --head`"
                ) from None
        where: dict[str, Any] = (
            {"address": self.address}
            if self.address
            else {"num_cpus": self.workers, "include_dashboard": False}
        )
        try:
            ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OSError(
                f"runtime.address: Ray does not start at {self.address!r} ({str(error).splitlines()[0]})"
            ) from None
        try:
            largest = (
                max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
                / 2**30
            )
            if largest < self.memory_gb:  # Ray would wait for such a machine for ever
                raise UserError(
                    f"runtime.memory_gb is {self.memory_gb}, but the largest machine of the Ray cluster offers {largest:.1f}: lower it"
                )
            remote = ray.remote(num_cpus=1, memory=self.memory_gb * 2**30, max_retries=RETRIES)(
                _run_task
            )
            executor, waiting = ray.put(self), self.get_incomplete_ranks()
            running: list[Any] = []
            while waiting or running:
                while waiting and len(running) < self.workers:
                    running.append(remote.remote(executor, waiting.pop(0)))
                done, running = ray.wait(running)
                ray.get(done)
        except ray.exceptions.WorkerCrashedError:
            raise OSError(
                f"a task was killed {RETRIES + 1} times, perhaps for want of memory: raise runtime.memory_gb, or run again to go on"
            ) from None
        finally:
            ray.shutdown()


def _run_task(executor: LocalPipelineExecutor, task: int) -> None:
    executor._run_for_rank(task)


class _Slurm(_Task, SlurmPipelineExecutor):
    """Submits an array job, a task each, and waits for it."""

    def run(self) -> None:
        super().run()
        if "SLURM_ARRAY_TASK_ID" in os.environ:  # this is the job
            return
        try:
            while self.get_incomplete_ranks() and self._queued():
                time.sleep(POLL_SECONDS)
            # A shared file system may show the last marks late
            time.sleep(POLL_SECONDS if self.get_incomplete_ranks() else 0)
        except BaseException:
            subprocess.run(["scancel", "--name", self.job_name], check=False)
            raise

    def launch_job(self) -> None:
        if which("sbatch") is None:
            raise OSError(
                "runtime.executor slurm needs sbatch on the PATH: run on a login node of the cluster, or set runtime.executor to local"
            )
        try:
            super().launch_job()
        except subprocess.CalledProcessError as error:
            raise OSError(
                f"sbatch refused the job (exit {error.returncode}): see {self.logging_dir.path}/launch_script.slurm and runtime:"
            ) from None

    def launch_merge_stats(self) -> None:
        """run() reads the counts itself."""

    def _queued(self) -> bool:
        listed = subprocess.run(
            ["squeue", "--noheader", "--name", self.job_name], capture_output=True, text=True
        )
        # A controller that does not answer has not lost the job
        return listed.returncode != 0 or bool(listed.stdout.strip())


class Report(Step):
    """The last step: what a task raises is written down, because not every engine carries an exception back whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        try:
            yield from data
        except Exception as error:
            kind = (
                "ValueError"
                if isinstance(error, ValueError)
                else "OSError"
                if isinstance(error, OSError)
                else ""
            )
            words = str(error) if kind else traceback.format_exc()
            files.write_json(self.folder / f"{rank:05d}", {"kind": kind, "words": words})
            raise


def _raise(errors: Path) -> None:
    """The first error of the tasks, if one was written."""
    for path in sorted(errors.glob("[0-9]*")):
        error = files.read_json(path)
        raise {"ValueError": ValueError, "OSError": OSError}.get(error["kind"], RuntimeError)(
            error["words"]
        ) from None


def _done(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.glob("[0-9]*")]


def _forget_torn(folder: Path) -> None:
    """A task whose counts were not whole on the disk when the machine died is run again."""
    for task in _done(folder / "completions"):
        try:
            json.loads((folder / "stats" / f"{task:05d}.json").read_text())
        except (OSError, ValueError):
            (folder / "completions" / f"{task:05d}").unlink()


@contextlib.contextmanager
def _progress(folder: Path, sizes: Sequence[int], label: str) -> Iterator[None]:
    """Says every few seconds how much is done, at which rate, and how long the rest will take."""

    def done() -> int:
        finished = set(_done(folder / "completions"))
        begun = sum(
            min(sizes[task], int(path.read_text()))
            for path in (folder / "progress").glob("[0-9]*")
            if (task := int(path.name)) not in finished
        )
        return begun + sum(sizes[task] for task in finished)

    def megabytes(size: int) -> str:
        return f"{size / 1e6:,.0f} of {sum(sizes) / 1e6:,.0f} MB"

    begin, before = time.monotonic(), done()
    if before:
        print(f"{label}: going on, {megabytes(before)} were done", file=sys.stderr, flush=True)
    ended = threading.Event()

    def show() -> None:
        told = before
        while not ended.wait(PROGRESS_SECONDS):
            if (now := done()) > told:
                told, rate = now, (now - before) / (time.monotonic() - begin)
                left = time.strftime("%H:%M:%S", time.gmtime((sum(sizes) - now) / rate))
                print(
                    f"{label}: {megabytes(now)}, {rate / 1e6:.1f} MB/s, {left} left",
                    file=sys.stderr,
                    flush=True,
                )

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
