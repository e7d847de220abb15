"""Runs the runs of a ladder as DVC experiments, several at a time. Stopping it saves their state
and leaves no process behind.

Each is a `dvc exp run --temp` that this process starts itself. `dvc queue` would use background
workers, which outlive Ctrl-C and kill a training without letting it save (docs/decisions/0028).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from antimatter import files
from antimatter.errors import UserError
from antimatter.ladder.configs import QUICK, Base, RunConfig
from antimatter.repository.checkout import Repository
from antimatter.repository.dvc import last_error
from antimatter.text import clock

METRICS = "metrics/evaluation/summary.json"
# DVC prints it when the experiment has its own folder and the workspace is free again
BEGUN = "Reproducing experiment"
# Attempts of a run that fails before that: another `dvc` may have held the lock
ATTEMPTS = 3
GRACE = 60.0  # seconds for the trainings to save their state


@dataclass(frozen=True)
class Result:
    """The loss of a finished run on the whole validation split."""

    run: RunConfig
    loss: float  # nats per token
    bits_per_byte: float


@dataclass(eq=False)
class Experiment:
    """A `dvc exp run` in progress."""

    run: RunConfig
    name: str
    process: "Popen[bytes]"
    log: Path
    started: float
    folder: Path | None = None  # DVC's temporary one, once it is known

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def has_begun(self) -> bool:
        return BEGUN in self.output()

    def send(self, number: int) -> None:
        """A signal to all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def results(repository: Repository, base: Base, runs: Sequence[RunConfig]) -> list[Result]:
    """The results of those runs that have finished, in their order."""
    references = repository.experiments()
    finished = [(run, run.experiment(base)) for run in runs]
    return [
        _result(repository, run, references[name]) for run, name in finished if name in references
    ]


def _result(repository: Repository, run: RunConfig, reference: str) -> Result:
    figures = repository.show(reference, METRICS)
    # Earlier versions of the project wrote them under one more key
    validation = figures.get("validation", figures)
    return Result(run, validation["loss"], validation["bits_per_byte"])


@dataclass
class Runner:
    """After run(), `failed` has the error of each run that failed, by its label."""

    repository: Repository
    base: Base
    jobs: int  # runs at a time
    show: "Callable[[Runner], None]"  # called a few times per second
    log: Callable[[str], None]  # called with an event
    waiting: list[RunConfig] = field(default_factory=list)
    running: list[Experiment] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    def run(self, runs: Sequence[RunConfig]) -> None:
        """Starts the longest runs first, so that the last ones are short.

        Raises:
            UserError: a tracked file was changed meanwhile; the current runs have finished.
            Locked: another ladder runs here, or an experiment that a killed ladder has left.
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the current runs are saved, and no process
                is left.
        """
        logs = self.repository.root / ".state/ladder"
        self.waiting = sorted(runs, key=lambda run: run.flops, reverse=True)
        with files.lock(logs / "lock", "antimatter ladder"), _signals_interrupt():
            _check_orphans(logs)
            try:
                self._run(logs)
            except BaseException:
                self._stop()
                raise

    def _run(self, logs: Path) -> None:
        changed: UserError | None = None
        while self.running or (self.waiting and not changed):
            try:
                while self.waiting and not changed and len(self.running) < self.jobs:
                    self._start(logs)
            except UserError as error:
                changed = error
            self._collect()
            self.show(self)
            time.sleep(0.5)
        if changed:
            raise changed

    def _start(self, logs: Path) -> None:
        """Starts a run and waits until it has its own folder. DVC prepares an experiment in the
        workspace, and of two at a time one might get the parameters of the other.
        """
        self.repository.check_clean()
        run = self.waiting.pop(0)
        name = run.experiment(self.base)
        log = logs / f"{name}.log"
        self.attempts[name] = self.attempts.get(name, 0) + 1
        process = self.repository.start(name, "evaluation", {**run.values(), **QUICK}, log)
        experiment = Experiment(run, name, process, log, time.monotonic())
        self.running.append(experiment)
        while experiment.is_alive() and not experiment.has_begun():
            self.show(self)
            time.sleep(0.2)

    def _collect(self) -> None:
        """Handles the experiments that have ended."""
        ended = [experiment for experiment in self.running if not experiment.is_alive()]
        references = self.repository.experiments() if ended else {}
        for experiment in ended:
            self.running.remove(experiment)
            label = experiment.run.label
            # Whatever its exit status: DVC may have failed in cleaning up
            if experiment.name in references:
                result = _result(self.repository, experiment.run, references[experiment.name])
                seconds = time.monotonic() - experiment.started
                self.log(
                    f"{label}: loss {result.loss:.4f}, {result.bits_per_byte:.4f} bits per byte,"
                    f" after {clock(seconds)}"
                )
                experiment.log.unlink()
            elif not experiment.has_begun() and self.attempts[experiment.name] < ATTEMPTS:
                self.waiting.insert(0, experiment.run)
            else:
                log = experiment.log.relative_to(self.repository.root)
                self.failed[label] = f"{last_error(experiment.output())} ({log})"
                self.log(f"{label} failed: {self.failed[label]}")

    def _stop(self) -> None:
        """Lets each training save its state, and ends all processes. A second Ctrl-C kills them at
        once.
        """
        alive = [experiment for experiment in self.running if experiment.is_alive()]
        if alive:
            labels = ", ".join(experiment.run.label for experiment in alive)
            self.log(f"stopping: {labels} will be saved, and resume next time")
        deadline = time.monotonic() + GRACE

        def wait_while(condition: Callable[[Experiment], bool]) -> None:
            while any(map(condition, alive)) and time.monotonic() < deadline:
                time.sleep(0.2)

        try:
            # Until then DVC changes the workspace
            wait_while(lambda experiment: experiment.is_alive() and not experiment.has_begun())
            for experiment in alive:
                # DVC waits for its stage, which saves its state
                experiment.send(signal.SIGINT)
            wait_while(Experiment.is_alive)
        finally:
            for experiment in alive:
                if experiment.is_alive():
                    experiment.send(signal.SIGKILL)
                    experiment.process.wait()


def _check_orphans(logs: Path) -> None:
    """A killed ladder leaves its experiments running. They hold the locks of their logs."""
    for log in sorted(logs.glob("*.log")):
        if files.is_locked(log):
            # Its first line is `process group NUMBER`
            group = log.read_text(errors="replace").partition("\n")[0].split()[-1]
            raise files.Locked(
                f"{log.stem} is still running, left by a ladder that was killed: wait for it,"
                f" or end it by `kill -INT -- -{group}`"
            )


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A closed terminal (SIGHUP) and SIGTERM act like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
