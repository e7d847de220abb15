"""Worker processes of this machine that end with the process that started them."""

import contextlib
import multiprocessing
import os
import signal
import sys
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

    def end(self) -> None:
        """Ends the workers in the midst of their work, and drops the rest of it."""
        # shutdown() forgets both, the second of which is None before the first work
        work: Any = self._call_queue  # type: ignore[attr-defined]
        manager: Any = self._executor_manager_thread
        self.shutdown(wait=False, cancel_futures=True)
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        for child in children:
            child.join()
        if sys.version_info < (3, 11, 5):
            # There the thread that sends work waits for ever for a worker to take it (CPython's
            # issue 94777), so it is taken here. It ends with the thread, which closes the pipe
            while manager and manager.is_alive():
                manager.join(0.01)
                with contextlib.suppress(OSError):
                    while work._reader.poll():
                        os.read(work._reader.fileno(), 1 << 16)
        if manager:
            manager.join()


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
            pool.end()
            if isinstance(error, BrokenProcessPool):
                raise OSError(
                    "a worker was killed, perhaps for want of memory: lower runtime.workers, or run again to resume"
                ) from None
            raise


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever. Ctrl-C is for the parent, which
    then ends the workers: did they die first, Python would take the pool for broken.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
