"""Worker processes of this machine that end with the process that started them."""

import contextlib
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

# What CPython says where a worker was killed and the pool is just taking itself down
CLOSED = "handle is closed"
# Bytes of the path of the folder for temporary files. The server of the workers listens at a socket
# 32 bytes further down, and the path of a socket has at most 103 (macOS; Linux: 107)
LONGEST = 70


class _Pool(ProcessPoolExecutor):
    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        try:
            return super().submit(call, *arguments, **options)
        except OSError as error:
            if str(error) != CLOSED:
                raise
            raise BrokenProcessPool(error) from None

    def shutdown(self, *arguments: Any, **options: Any) -> None:
        try:
            super().shutdown(*arguments, **options)
        except OSError as error:
            if str(error) != CLOSED:
                raise


@contextlib.contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of that many processes. They come from a server process without threads, as a fork of
    this one, which has some, may hang; or each from a start of its own, where the server cannot be.

    Raises:
        OSError: a worker was killed, for want of memory or by a person. datatrove's own pool would
            wait for ever.
    """
    fits = len(os.fsencode(tempfile.gettempdir())) <= LONGEST
    context = multiprocessing.get_context("forkserver" if fits else "spawn")
    with _Pool(number, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield pool
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise OSError("a worker was killed, perhaps for want of memory: lower runtime.workers, or run again to resume") from None
            raise


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
