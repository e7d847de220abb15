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

from antimatter.errors import UserError

# Bytes of the path of the folder for temporary files. The server of the workers listens at a socket
# 32 bytes further down, and the path of a socket has at most 103 (macOS; Linux: 107)
LONGEST = 70


class _Pool(ProcessPoolExecutor):
    """When a worker was killed, a thread of the pool sets `_broken` and then closes the pipes. A
    call that uses them meanwhile fails with `handle is closed` or `Bad file descriptor`.
    """

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        try:
            return super().submit(call, *arguments, **options)
        except OSError as error:
            if not self._broken:
                raise
            raise BrokenProcessPool(error) from None

    def shutdown(self, *arguments: Any, **options: Any) -> None:
        try:
            super().shutdown(*arguments, **options)
        except OSError:
            if not self._broken:
                raise

    def kill_workers(self) -> None:
        """Ends the workers in the middle of their work, and drops the rest of it."""
        # shutdown() forgets both; the manager is None before the first submit()
        queue: Any = self._call_queue  # type: ignore[attr-defined]
        manager: Any = self._executor_manager_thread
        self.shutdown(wait=False, cancel_futures=True)
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        for child in children:
            child.join()
        if sys.version_info < (3, 11, 5):
            # There the thread that sends work waits forever for a worker to take it (CPython's
            # issue 94777), so it is taken here. The thread then ends and closes the pipe
            while manager and manager.is_alive():
                manager.join(0.01)
                with contextlib.suppress(OSError):
                    while queue._reader.poll():
                        os.read(queue._reader.fileno(), 1 << 16)
        if manager:
            manager.join()


@contextlib.contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes.

    They are forked from a server process that has no threads, because a fork of this process, which
    has some, may hang. Where the path of the server's socket would be too long, they are spawned.

    Raises:
        UserError: a worker was killed, by the system for want of memory or by a user. (datatrove's
            own pool would wait forever.)
    """
    fits = len(os.fsencode(tempfile.gettempdir())) <= LONGEST
    context = multiprocessing.get_context("forkserver" if fits else "spawn")
    with _Pool(number, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield pool
        except BaseException as error:
            pool.kill_workers()
            if isinstance(error, BrokenProcessPool):
                fix = "lower runtime.workers, or run again to resume"
                fault = "a worker was killed, perhaps for want of memory"
                raise UserError(f"{fault}: {fix}") from None
            raise


def _end_with_parent() -> None:
    """Makes a worker exit when its parent is killed; it would wait for work forever.

    Ctrl-C is left to the parent, which ends the workers. If they died first, Python would report a
    broken pool.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
