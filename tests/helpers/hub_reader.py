"""A process that reads from the hub server, since the hub's address is read once, at import."""

import contextlib
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from antimatter.data import documents
from antimatter.data.sources import hub, hub_http
from antimatter.data.sources.config import HubDataSet
from antimatter.data.sources.hub import Lane, LaneReport
from helpers.hub_data import config

# About 100 rows of C4 and 60 of RefinedWeb: most output files end within an input file
FILE_MB = 0.02


def _serve(pipe: Connection, stderr: Path) -> None:
    """Calls what it is asked to until the pipe closes."""
    _make_small()
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            with contextlib.redirect_stderr(io.StringIO()) as output:
                try:
                    answer = function(*arguments)
                except Exception as error:
                    answer = error
            pipe.send((answer, output.getvalue()))


def _make_small() -> None:
    """Shortens the pauses, and the pieces in which files are fetched, decoded and written."""
    import fsspec.config
    from datasets.packaged_modules.json.json import JsonConfig

    # Otherwise a file would be one request and one chunk
    fsspec.config.conf["hf"] = {"block_size": 1000}
    begin = JsonConfig.__post_init__

    def with_small_chunks(self: Any) -> None:
        begin(self)
        self.chunksize = 10_000

    JsonConfig.__post_init__ = with_small_chunks
    hub_http.FIRST_PAUSE, hub_http.LONGEST_PAUSE, hub_http.TIMEOUT = 0.01, 0.02, 1.0
    hub.CURSOR_ROWS = 64
    documents.BATCH_BYTES = 6000


def read(lane: Lane, folder: Path, dies: int = 0, stops: int = 0) -> LaneReport:
    """Reads a lane and, if asked to, kills itself or stops at a step: when text has been written,
    or when the state of the lane is about to be.
    """
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if steps == stops:
            raise InterruptedError

    write = hub.files.write_json

    def write_after_step(path: Path, value: Any) -> None:
        step()
        write(path, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.files, "write_json", write_after_step)
        return hub.read_lane(lane, folder, FILE_MB, step)


@dataclass
class Reader:
    process: Any
    pipe: Connection
    stderr: Path
    output: str = ""  # what the last call has written to stderr

    def ask(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.pipe.send((function, arguments))

    def answer(self) -> Any:
        assert self.pipe.poll(60), "the reader hangs"
        answer, self.output = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.ask(function, *arguments)
        return self.answer()

    def lanes(self, *data_sets: HubDataSet, **options: Any) -> list[Lane]:
        return self(hub.lanes, config(*data_sets, **options))

    def read_all(self, lanes: list[Lane], folder: Path) -> list[LaneReport]:
        return [self(read, lane, folder) for lane in lanes]


@contextmanager
def started(endpoint: str, home: Path) -> Iterator[Reader]:
    """A reader of the hub at `endpoint`, with its cache in `home`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, home / "stderr"), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", endpoint)
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_TOKEN", "hf_secret")
        process.start()
    theirs.close()
    yield Reader(process, ours, home / "stderr")
    ours.close()
    process.join()


def texts(folder: Path) -> list[str]:
    paths = sorted(folder.glob("*.parquet"))
    return [text for path in paths for text in pq.read_table(path)["text"].to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}
