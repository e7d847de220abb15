"""How far a ladder has come: one line, rewritten on a terminal, a line a minute elsewhere."""

import math
import os
import time
from pathlib import Path
from typing import TextIO

from antimatter.ladder.configs import Rung
from antimatter.ladder.runner import Runner, clock, progress
from antimatter.ladder.throughput import OVERHEAD


class View:
    def __init__(self, stream: TextIO, root: Path, total: int, jobs: int) -> None:
        self.stream, self.root, self.total, self.jobs = stream, root, total, jobs
        self.begin = time.monotonic()
        self.shown = -math.inf
        self.speeds: dict[int, float] = {}  # FLOP/s of a rung, by width

    def say(self, text: str) -> None:
        self._print(text, last=True)

    def end(self) -> None:
        """Leaves the line."""
        if self.stream.isatty():
            self.stream.write("\r\033[K")
            self.stream.flush()

    def show(self, work: Runner) -> None:
        now = time.monotonic()
        if now - self.shown < (1.0 if self.stream.isatty() else 60.0):
            return
        self.shown = now
        parts, left = [], 0.0
        for one in work.running:
            share, rate = progress(one, self.root)
            if rate:
                self.speeds[one.rung.model.n_embd] = rate * one.rung.flops / one.rung.tokens
            parts.append(f"{one.rung.label} {share:.0%}")
            left += (1 - share) * self._seconds(one.rung)
        left += sum(map(self._seconds, work.waiting))
        done = self.total - len(work.waiting) - len(work.running) - len(work.failed)
        about = (
            f", about {clock(left / min(self.jobs, max(1, len(work.running))))} left"
            if self.speeds
            else ""
        )
        self._print(
            f"{done}/{self.total} done  {'  '.join(parts)}  {clock(now - self.begin)} gone{about}",
            last=False,
        )

    def _seconds(self, rung: Rung) -> float:
        if not self.speeds:
            return 0.0
        nearest = min(self.speeds, key=lambda width: abs(math.log(width / rung.model.n_embd)))
        return rung.flops / self.speeds[nearest] + OVERHEAD

    def _print(self, text: str, last: bool) -> None:
        if self.stream.isatty():
            width = os.get_terminal_size(self.stream.fileno()).columns - 1
            self.stream.write(f"\r\033[K{text if last else text[:width]}{chr(10) if last else ''}")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()
