"""What a run tells: CSV curves for `dvc plots`, a file with its latest figures for `antimatter watch`, and one progress line on the console.

Tokens a second count training alone: validation, saving, samples and a process's first step, which
may compile, are left out. Their curve differs from run to run, so it is neither an output of DVC's
nor in Git (docs/decisions/0031).
"""

import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from antimatter import files

# Rows of the curve of tokens a second: each is a mean over so many steps that the noise of a single
# one is gone
SPEEDS = 200


class Curve:
    """A CSV file that grows by a row at a time, and can be put back to an earlier moment."""

    def __init__(self, path: Path | None, header: Sequence[str]) -> None:
        """
        Args:
            path: None for a process that computes along and writes nothing.
        """
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # never through a hard link into DVC's cache
            self._write(path, header)

    def add(self, *values: float) -> None:
        """One row; floats at 6 significant digits."""
        if self.path is not None:
            self._write(
                self.path,
                [f"{value:.6g}" if isinstance(value, float) else value for value in values],
            )

    def snapshot(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path is not None else ""

    def restore(self, snapshot: str) -> None:
        if self.path is not None:
            self.path.write_text(snapshot, encoding="utf-8")

    @staticmethod
    def _write(path: Path, row: Sequence[object]) -> None:
        with path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


class Curves:
    """plots/training.csv, validation.csv, backtracks.csv and throughput.csv."""

    def __init__(
        self,
        training: Path | None,
        validation: Path | None,
        backtracks: Path | None,
        throughput: Path | None,
    ) -> None:
        self.training = Curve(training, ["step", "loss", "learning_rate", "gradient_norm"])
        self.validation = Curve(validation, ["step", "loss"])
        self.backtracks = Curve(backtracks, ["step", "loss", "back_to", "rate_scale"])
        self.throughput = Curve(throughput, ["step", "tokens_per_second"])

    def snapshot(self) -> dict[str, str]:
        return {name: curve.snapshot() for name, curve in vars(self).items()}

    def restore(self, snapshot: dict[str, str]) -> None:
        for name, text in snapshot.items():
            getattr(self, name).restore(text)


class Progress:
    """One line: rewritten in place on a terminal, and printed every `interval` seconds into a log. The same figures go to the file `live`."""

    def __init__(
        self,
        *,
        total: int,
        tokens_per_step: int,
        live: Path | None = None,
        speeds: Curve | None = None,
        flops_per_token: int = 0,
        peak: float | None = None,
        memory: Callable[[], float] = lambda: 0.0,
        quiet: bool = False,
        interval: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        """
        Args:
            total: steps of the run.
            live: a JSON file that always holds the latest figures; None is none.
            speeds: gets a row of (step, tokens a second since the row before) every total / SPEEDS steps.
            peak: FLOP/s of all devices at their best; None where nobody knows it, and then there is no MFU.
            memory: gives the bytes in use.
            quiet: say and write nothing: one process of several speaks.
            stream: None is stderr.
        """
        self.total, self.tokens_per_step, self.flops_per_token, self.peak, self.memory = (
            total,
            tokens_per_step,
            flops_per_token,
            peak,
            memory,
        )
        self.live, self.quiet, self.stream = live, quiet, stream or sys.stderr
        self.speeds, self.speed_every = speeds, max(1, total // SPEEDS)
        self.interval = 0.2 if self.stream.isatty() else interval
        self.figures: dict[str, Any] = {
            "state": "training",
            "step": 0,
            "steps": total,
            "sample": None,
        }
        self.begin(0)

    def begin(self, done: int) -> None:
        """From here the time counts; `done` steps lie behind."""
        self.cold, self.first, self.paused = True, done, 0.0
        self.started = self.shown = time.monotonic()
        self.written = -float("inf")
        self.figures["step"] = done
        self._write()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens in this block is no training."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - begin

    def show(self, step: int, loss: float, rate: float, norm: float) -> None:
        """Shows the state after `step` steps, if the last line is old enough."""
        now = time.monotonic()
        if self.cold:
            self.cold, self.first, self.started, self.paused = False, step, now, 0.0
            self.row = step, now
        elif self.speeds and step % self.speed_every == 0:
            begun, since = self.row
            trained = now - self.paused  # on a clock that stands still in a pause
            self.speeds.add(
                step, (step - begun) * self.tokens_per_step / max(trained - since, 1e-9)
            )
            self.row = step, trained
        if self.quiet or (now - self.shown < self.interval and step < self.total):
            return
        self.shown = now
        speed, memory = self.tokens_per_second(step), self.memory() / 1e9
        left = (self.total - step) * (now - self.started) / max(step - self.first, 1)
        mfu = speed * self.flops_per_token / self.peak if self.peak else None
        self.figures |= {
            "step": step,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens_per_second": round(speed),
        }
        self.figures |= {"mfu": mfu, "memory_gb": round(memory, 3), "seconds_left": round(left)}
        self._write()
        self._print(
            f"step {step:>6,}/{self.total:,}  loss {loss:6.3f}  rate {rate:.2e}  norm {norm:5.2f}  {speed:>9,.0f} tokens/s"
            f"{f'  MFU {mfu:.0%}' if mfu else ''}  {memory:.1f} GB  {_clock(left)} left",
            last=step == self.total,
        )

    def tokens_per_second(self, step: int) -> float:
        """Since the first step after begin(), without pauses."""
        return (
            (step - self.first)
            * self.tokens_per_step
            / max(time.monotonic() - self.started - self.paused, 1e-9)
        )

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self._print(text, last=True)

    def sample(self, step: int, text: str) -> None:
        """A text that the model has written."""
        self.figures["sample"] = text
        self.note(f"sample at step {step:,}: {' '.join(text.split())}")

    def end(self, state: str) -> None:
        """The last word: "finished", "paused" or "diverged"."""
        self.figures["state"] = state
        self.written = -float("inf")
        self._write()

    def _write(self) -> None:
        now = time.monotonic()
        # A terminal's line is renewed more often
        if self.live is not None and not self.quiet and now - self.written >= 2:
            self.written = now
            files.write_json(self.live, {**self.figures, "updated": round(time.time())})

    def _print(self, text: str, last: bool) -> None:
        if self.stream.isatty():
            self.stream.write(f"\r\033[K{text}{chr(10) if last else ''}")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
