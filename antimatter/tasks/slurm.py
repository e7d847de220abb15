"""Tasks as array jobs of a Slurm cluster."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from typing import Any

from datatrove.executor import SlurmPipelineExecutor

from antimatter.errors import UserError
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.task import Step, TaskExecutor

POLL_SECONDS = 5  # between two looks at Slurm's queue


class SlurmExecutor(TaskExecutor, SlurmPipelineExecutor):
    """Submits an array job with an element for each task, and waits for it."""

    def __init__(
        self, steps: Sequence[Step], tasks: int, folder: Path, runtime: TasksRuntime, label: str
    ) -> None:
        here, programs = shlex.quote(str(Path.cwd())), shlex.quote(str(Path(sys.executable).parent))
        super().__init__(
            list(steps),
            tasks=tasks,
            workers=min(runtime.workers, tasks),
            logging_dir=str(folder),
            # One word: neither the script nor squeue and scancel quote it
            job_name=f"antimatter-{label.split()[0]}-{os.getpid()}",
            partition=runtime.partition,
            time=runtime.time_limit,
            mem_per_cpu_gb=runtime.memory_gb,
            qos="",
            env_command=f"cd {here}\nexport PATH={programs}:$PATH",
        )

    def run(self) -> None:
        super().run()
        # In a job, super() has run the task
        if "SLURM_ARRAY_TASK_ID" in os.environ:
            return
        try:
            while self.get_incomplete_ranks() and self._is_queued():
                time.sleep(POLL_SECONDS)
            # A shared file system may show the last completions late
            time.sleep(POLL_SECONDS if self.get_incomplete_ranks() else 0)
        except BaseException:
            subprocess.run(["scancel", "--name", self.job_name], check=False)
            raise

    def launch_job(self) -> None:
        if which("sbatch") is None:
            fix = "run on a login node of the cluster, or set runtime.executor to local"
            raise UserError(f"runtime.executor slurm needs sbatch on the PATH: {fix}")
        try:
            super().launch_job()
        except subprocess.CalledProcessError as error:
            script = f"{self.logging_dir.path}/launch_script.slurm"
            fix = f"compare {script} and `runtime` in params.yaml with what the cluster allows"
            raise UserError(f"sbatch refused the job (exit {error.returncode}): {fix}") from None

    def launch_merge_stats(self) -> None:
        """Nothing: executor.run() adds up the counts."""

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """The job script. datatrove does not quote the path of the pickled executor, and names an
        empty partition, which Slurm refuses.
        """
        sbatch_args = {name: value for name, value in sbatch_args.items() if value != ""}
        path = self.logging_dir.resolve_paths("executor.pik")
        quoted = run_script.replace(path, shlex.quote(path))
        return super().get_launch_file_contents(sbatch_args, quoted)

    def _is_queued(self) -> bool:
        command = ["squeue", "--noheader", "--name", self.job_name]
        queue = subprocess.run(command, capture_output=True, text=True)
        # A controller that does not answer has not lost the job
        return queue.returncode != 0 or bool(queue.stdout.strip())
