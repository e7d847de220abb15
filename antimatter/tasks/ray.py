"""Tasks on a Ray cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor

from antimatter.errors import UserError
from antimatter.launch.ray import connect
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.task import Step, TaskExecutor

RETRIES = 3  # of a task whose process or machine died


class RayExecutor(TaskExecutor, LocalPipelineExecutor):
    """datatrove's own waits forever when a task cannot be placed or its process is killed. This one
    raises an error, or lets Ray try again.
    """

    def __init__(
        self, steps: Sequence[Step], tasks: int, folder: Path, runtime: TasksRuntime, label: str
    ) -> None:
        workers = min(runtime.workers, tasks)
        super().__init__(list(steps), tasks=tasks, workers=workers, logging_dir=str(folder))
        self.address, self.memory_gb = runtime.address, runtime.memory_gb

    def run(self) -> None:
        here = {} if self.address else {"num_cpus": self.workers, "include_dashboard": False}
        ray = connect(self.address, **here)
        try:
            self._check_memory(ray.nodes())
            self._run_tasks(ray)
        except ray.exceptions.WorkerCrashedError:
            fix = "raise runtime.memory_gb, or run again to resume"
            fault = f"a task was killed {RETRIES + 1} times, perhaps for want of memory"
            raise UserError(f"{fault}: {fix}") from None
        finally:
            ray.shutdown()

    def _check_memory(self, nodes: list[dict[str, Any]]) -> None:
        """Ray would wait forever for a machine that has enough."""
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        largest = max(resources.get("memory", 0) for resources in alive) / 2**30
        if largest < self.memory_gb:
            fault = f"the largest machine of the Ray cluster offers {largest:.1f}"
            raise UserError(f"runtime.memory_gb is {self.memory_gb}, but {fault}: lower it")

    def _run_tasks(self, ray: Any) -> None:
        options = {"num_cpus": 1, "memory": self.memory_gb * 2**30, "max_retries": RETRIES}
        remote = ray.remote(**options)(_run_task)
        executor, waiting = ray.put(self), self.get_incomplete_ranks()
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < self.workers:
                running.append(remote.remote(executor, waiting.pop(0)))
            done, running = ray.wait(running)
            ray.get(done)


def _run_task(executor: RayExecutor, task: int) -> None:
    executor._run_for_rank(task)
