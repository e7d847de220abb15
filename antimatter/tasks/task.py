"""One task: the steps that it runs, and how a worker runs them, whatever the executor."""

import os
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from antimatter import files
from antimatter.errors import UserError


class Step(PipelineStep):
    """A step of a task: run(documents, task, tasks) takes the documents of the step before it, or
    none if it is the first, and yields its own.
    """

    type = name = "step"
    progress: Path  # the folder of report_progress(); executor.run() sets it
    _reported = 0.0

    def count(self, counts: Counter[str]) -> None:
        """Adds to the totals that executor.run() returns. Call it once a task: datatrove's own
        counting, a call for each document, costs more time than a filter.
        """
        for label, n in counts.items():
            self.stat_update(label, value=n)

    def report_progress(self, task: int, done: int) -> None:
        """Reports how many bytes of a task are done. Cheap: it writes once a second at most."""
        if time.monotonic() > self._reported + 1:
            self._reported = time.monotonic()
            files.write_text(self.progress / f"{task:05d}", str(done))


class ReportErrors(Step):
    """The last step: writes what a task raises to a file, because Slurm carries no exception back
    and Ray wraps it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        try:
            yield from data
        except Exception as error:
            report: dict[str, Any] = {"kind": "", "arguments": [traceback.format_exc()]}
            if isinstance(error, UserError):
                report = {"kind": "UserError", "arguments": [str(error)]}
            elif isinstance(error, OSError) and error.errno:
                name = error.filename and str(error.filename)
                report = {"kind": "OSError", "arguments": [error.errno, error.strerror, name]}
            files.write_json(self.folder / f"{rank:05d}", report)
            raise


def raise_reported(folder: Path) -> None:
    """Raises the error of the first task that ReportErrors has written, if there is one."""
    kinds = {"UserError": UserError, "OSError": OSError}
    for path in sorted(folder.glob("[0-9]*")):
        report = files.read_json(path)
        raise kinds.get(report["kind"], RuntimeError)(*report["arguments"]) from None


class TaskExecutor(PipelineExecutor):
    """What the executors share: how a worker runs a task."""

    cwd: Path
    dvc_root: str

    def _run_for_rank(self, *arguments: Any, **options: Any) -> Any:
        # In every worker, because each has a logger of its own. Errors come back through
        # ReportErrors and counts through files
        logger.disable("datatrove")
        # Ray's workers start in another folder and without this environment
        os.chdir(self.cwd)
        if self.dvc_root:
            os.environ["DVC_ROOT"] = self.dvc_root
        return super()._run_for_rank(*arguments, **options)
