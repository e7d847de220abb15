"""Steps for tests of the executors, in a module that the workers can import."""

import time
from pathlib import Path

from datatrove.data import DocumentsPipeline

from antimatter.tasks.task import Step


class Fail(Step):
    """Raises an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        yield from ()
        raise self.error


class HalfDone(Step):
    """Reports `done` bytes, then waits for the file folder/{task}."""

    def __init__(self, done: int, folder: Path) -> None:
        super().__init__()
        self.done, self.folder = done, folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self.report_progress(rank, self.done)
        deadline = time.monotonic() + 10
        while not (self.folder / str(rank)).exists():
            assert time.monotonic() < deadline, "the progress was not shown"
            time.sleep(0.01)
        yield from ()
