"""The progress display of every long task: one line, rewritten in place on a terminal and appended
to a log from time to time.
"""

import os
import sys
import time
from types import TracebackType
from typing import Self, TextIO

ERASE = "\r\033[K"


class StatusLine:
    """A line that reports the progress of a task.

    Use it as a context manager: at the end the line of a terminal is erased, or kept with
    `keep=True`.

    Args:
        every: seconds between two lines in a log. A terminal's line is rewritten five times a
            second at most.
        stream: None is stderr.
        quiet: print nothing.
    """

    def __init__(
        self,
        every: float = 30.0,
        stream: TextIO | None = None,
        *,
        keep: bool = False,
        quiet: bool = False,
    ) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal, self.keep, self.quiet = self.stream.isatty(), keep, quiet
        self.interval = 0.2 if self.is_terminal else every
        self.started = self.shown = time.monotonic()
        self.is_drawn = False

    def is_due(self) -> bool:
        """Whether show() would print now, for a caller whose text is expensive to compute."""
        return time.monotonic() - self.shown >= self.interval

    def show(self, text: str, *, force: bool = False) -> None:
        """Shows the state of the task, unless the last line is too recent."""
        if not (force or self.is_due()):
            return
        self.shown = time.monotonic()
        self._write(text[: self._width()] if self.is_terminal else text, stays=not self.is_terminal)

    def log(self, text: str) -> None:
        """Prints a permanent line."""
        self._write(text, stays=True)

    def close(self) -> None:
        if self.is_drawn:
            self._write("" if not self.keep else "\n", stays=False, erase=not self.keep)
        self.is_drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns - 1
        except (OSError, ValueError):
            # No real terminal, as in a test
            return 1_000

    def _write(self, text: str, *, stays: bool, erase: bool = True) -> None:
        if self.quiet:
            return
        before = ERASE if self.is_terminal and erase else ""
        after = "\n" if stays else ""
        self.stream.write(f"{before}{text}{after}")
        self.stream.flush()
        self.is_drawn = not stays
