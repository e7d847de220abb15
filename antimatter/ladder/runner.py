"""Runs rungs as DVC experiments, several at a time, so that none is lost and none is left behind.

Each is a `dvc exp run --temp` of our own. `dvc queue` would hand them to workers in the background, which outlive Ctrl-C and kill a training
without letting it save (docs/decisions/0028).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from antimatter import files, params
from antimatter.ladder.configs import QUICK, Base, Rung
from antimatter.repository.checkout import Repository
from antimatter.repository.dvc import last_words

# What DVC says when the experiment has its own folder and the workspace is free again
BEGUN = "Reproducing experiment"
STARTS = 3  # of a rung that fails before that: another dvc may have held the lock
GRACE = 60.0  # seconds for the trainings to save themselves


@dataclass(frozen=True)
class Result:
    """What a rung has come to, on the whole validation split."""

    rung: Rung
    loss: float  # nats per token
    bits_per_byte: float


@dataclass(eq=False)
class Running:
    rung: Rung
    process: "Popen[bytes]"
    log: Path
    started: float
    folder: Path | None = None  # DVC's temporary one, once known

    def begun(self) -> bool:
        return BEGUN in self.log.read_text(errors="replace")


def results(repository: Repository, base: Base, rungs: Sequence[Rung]) -> list[Result]:
    """Of the rungs that have run, in their order."""
    known = repository.experiments()
    return [
        _result(repository, rung, known[name])
        for rung in rungs
        if (name := rung.experiment(base)) in known
    ]


def _result(repository: Repository, rung: Rung, reference: str) -> Result:
    validation = repository.show(reference, "metrics/evaluation.json")["validation"]
    return Result(rung, validation["loss"], validation["bits_per_byte"])


@dataclass
class Runner:
    """After run(), `failed` has what went wrong, by the rung's label."""

    repository: Repository
    base: Base
    jobs: int  # rungs at a time
    show: "Callable[[Runner], None]"  # called about every second
    say: Callable[[str], None]  # takes a line that stays
    waiting: list[Rung] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    def run(self, rungs: Sequence[Rung]) -> None:
        """The longest first, so that none is left for the end.

        Raises:
            ValueError: the workspace was changed meanwhile; what was running has been finished.
            BlockingIOError: another ladder is at work here, or a rung that one has left.
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; what was running is saved, and no process is left.
        """
        logs = self.repository.root / ".state/ladder"
        changed: ValueError | None = None
        self.waiting = sorted(rungs, key=lambda rung: rung.flops, reverse=True)
        with files.lock(logs / "lock", "antimatter ladder"), _signals():
            _check_orphans(logs)
            try:
                while self.running or (self.waiting and not changed):
                    try:
                        while self.waiting and len(self.running) < self.jobs and not changed:
                            self._start(logs)
                    except ValueError as error:
                        changed = error
                    self._collect()
                    self.show(self)
                    time.sleep(0.5)
            except BaseException:
                self._stop()
                raise
        if changed:
            raise changed

    def _start(self, logs: Path) -> None:
        """One after the other: DVC sets an experiment up in the workspace, and of two at once one might run the other's."""
        self.repository.check_clean()
        rung = self.waiting.pop(0)
        name = rung.experiment(self.base)
        self.starts[name] = self.starts.get(name, 0) + 1
        process = self.repository.start(
            name, "evaluation", {**rung.values(), **QUICK}, logs / f"{name}.log"
        )
        one = Running(rung, process, logs / f"{name}.log", time.monotonic())
        self.running.append(one)
        while process.poll() is None and not one.begun():
            self.show(self)
            time.sleep(0.2)

    def _collect(self) -> None:
        ended = [one for one in self.running if one.process.poll() is not None]
        known = self.repository.experiments() if ended else {}
        for one in ended:
            self.running.remove(one)
            name = one.rung.experiment(self.base)
            if name in known:  # whatever DVC says: it may have failed in tidying up
                found = _result(self.repository, one.rung, known[name])
                seconds = time.monotonic() - one.started
                self.say(
                    f"{one.rung.label}: loss {found.loss:.4f}, {found.bits_per_byte:.4f} bits per byte, after {clock(seconds)}"
                )
                one.log.unlink()
            elif not one.begun() and self.starts[name] < STARTS:
                self.waiting.insert(0, one.rung)
            else:
                words = last_words(one.log.read_text(errors="replace"))
                self.failed[one.rung.label] = (
                    f"{words} ({one.log.relative_to(self.repository.root)})"
                )
                self.say(f"{one.rung.label} failed: {self.failed[one.rung.label]}")

    def _stop(self) -> None:
        """Asks each training to save itself, and leaves nothing behind. A second Ctrl-C ends them at once."""
        alive = [one for one in self.running if one.process.poll() is None]
        if alive:
            self.say(
                f"stopping: {', '.join(one.rung.label for one in alive)} will be saved and go on next time"
            )
        deadline = time.monotonic() + GRACE
        try:
            while (
                any(one.process.poll() is None and not one.begun() for one in alive)
                and time.monotonic() < deadline
            ):
                time.sleep(0.2)  # DVC is at work in the workspace
            for one in alive:
                _signal(one, signal.SIGINT)  # DVC lets its stage answer it
            while any(one.process.poll() is None for one in alive) and time.monotonic() < deadline:
                time.sleep(0.2)
        finally:
            for one in alive:
                if one.process.poll() is None:
                    _signal(one, signal.SIGKILL)
                    one.process.wait()


def progress(one: Running, root: Path) -> tuple[float, float]:
    """The share of a running rung's training that is done, and its tokens per second, from what it writes; zeros while nothing is known."""
    if one.folder is None:
        one.folder = next(
            (
                path
                for path in sorted((root / ".dvc/tmp/exps/standalone").glob("tmp*"))
                if _is_of(path, one.rung)
            ),
            None,
        )
    if one.folder is None:
        return 0.0, 0.0
    try:
        live = files.read_json(one.folder / "metrics/throughput.json")
    except (OSError, ValueError):
        return 0.0, 0.0
    return live["step"] / live["steps"], float(live.get("tokens_per_second") or 0.0)


def _is_of(folder: Path, rung: Rung) -> bool:
    try:
        values = params.load(folder / params.PARAMS)
        return all(
            values[section][name] == value
            for key, value in rung.values().items()
            for section, name in [key.split(".")]
        )
    except (OSError, ValueError, KeyError):
        return False


def clock(seconds: float) -> str:
    if seconds >= 360_000:
        return f"{seconds / 3600:,.0f} h"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _check_orphans(logs: Path) -> None:
    for log in sorted(logs.glob("*.log")):
        if files.is_locked(log):
            group = log.read_text(errors="replace").partition("\n")[0].split()[-1]
            raise BlockingIOError(
                f"{log.stem} still runs, left by a ladder that was killed: wait for it, or end it by `kill -INT -- -{group}`"
            )


def _signal(one: Running, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(one.process.pid, number)


@contextmanager
def _signals() -> Iterator[None]:
    """A closed terminal and a polite kill are as good as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
