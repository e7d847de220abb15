"""Signals that ask a training to pause."""

import signal
import threading
from typing import Self


class DeferredStop:
    """Defers SIGTERM and SIGINT until the current step is finished and saved.

    A second signal ends the process at once.
    """

    def __enter__(self) -> Self:
        self.requested = False
        self._before = {}
        # Signal handlers can be set in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
