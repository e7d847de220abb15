"""What a run tells: CSV curves for `dvc plots`, which can be watched while it goes on, and one progress line on the console."""

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO


class Curve:
    """A CSV file that grows by a row at a time, and can be put back to an earlier moment."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path = path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)  # never through a hard link into DVC's cache
        self._write(header)

    def add(self, *values: float) -> None:
        """One row; floats at 6 significant digits."""
        self._write([f"{value:.6g}" if isinstance(value, float) else value for value in values])

    def snapshot(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def restore(self, snapshot: str) -> None:
        self.path.write_text(snapshot, encoding="utf-8")

    def _write(self, row: Sequence[object]) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


class Progress:
    """One line: rewritten in place on a terminal, and printed every `interval` seconds into a log."""

    def __init__(self, total: int, done: int, tokens_per_step: int, interval: float = 10.0, stream: TextIO = sys.stderr) -> None:
        self.total, self.first, self.tokens_per_step, self.stream = total, done, tokens_per_step, stream
        self.interval = 0.2 if stream.isatty() else interval
        self.started = self.shown = time.monotonic()

    def show(self, step: int, loss: float, rate: float) -> None:
        """Shows the state after `step` steps, if the last line is old enough."""
        now = time.monotonic()
        if now - self.shown < self.interval and step < self.total:
            return
        self.shown = now
        left = (self.total - step) * (now - self.started) / (step - self.first)
        line = (
            f"step {step:>6,}/{self.total:,}  loss {loss:6.3f}  rate {rate:.2e}  {self.tokens_per_second(step):>9,.0f} tokens/s  {_clock(left)} left"
        )
        self._print(line, last=step == self.total)

    def tokens_per_second(self, step: int) -> float:
        """Since this process started, so that a pause does not count."""
        return (step - self.first) * self.tokens_per_step / max(time.monotonic() - self.started, 1e-9)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._print(text, last=True)

    def _print(self, text: str, last: bool) -> None:
        if self.stream.isatty():
            self.stream.write(f"\r\033[K{text}{chr(10) if last else ''}")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
