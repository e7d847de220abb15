"""Worker processes of this machine that end with the process that started them."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any


class _Pool(ProcessPoolExecutor):
    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        try:
            return super().submit(call, *arguments, **options)
        except OSError as error:  # CPython's "handle is closed": a worker was killed, and the pool is taking itself down
            raise BrokenProcessPool(error) from None

    def shutdown(self, *arguments: Any, **options: Any) -> None:
        with contextlib.suppress(OSError):  # the same
            super().shutdown(*arguments, **options)


@contextlib.contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of that many processes. They come from a server process without threads: a fork of
    this one, which has some, may hang.

    Raises:
        OSError: a worker was killed, for want of memory or by a person. datatrove's own pool would
            wait for ever.
    """
    context = multiprocessing.get_context("forkserver")
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
