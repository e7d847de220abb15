"""Tasks in processes of this machine."""

from collections.abc import Sequence
from concurrent.futures import as_completed
from copy import deepcopy
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor

from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.task import Step, TaskExecutor
from antimatter.tasks.workers import processes


class LocalExecutor(TaskExecutor, LocalPipelineExecutor):
    """datatrove's own pool waits forever when a worker is killed. This one raises an error and
    leaves no worker behind.
    """

    def __init__(
        self, steps: Sequence[Step], tasks: int, folder: Path, runtime: TasksRuntime, label: str
    ) -> None:
        workers = min(runtime.workers, tasks)
        super().__init__(list(steps), tasks=tasks, workers=workers, logging_dir=str(folder))

    def run(self) -> None:
        tasks = self.get_incomplete_ranks()
        if self.workers == 1:
            for task in tasks:
                # A copy, because the counts of a step are those of one task
                deepcopy(self)._run_for_rank(task)
            return
        with processes(self.workers) as pool:
            for future in as_completed([pool.submit(self._run_for_rank, task) for task in tasks]):
                future.result()
