"""`antimatter ladder`: runs smaller versions of a model, fits the scaling law, checks it on the
largest of them, and forecasts a large run.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from antimatter.errors import UserError
from antimatter.ladder import configs, report, runner
from antimatter.ladder.configs import Base, RunConfig
from antimatter.ladder.fit import fit_ladder, read_target
from antimatter.ladder.progress import OVERHEAD, Progress, measure
from antimatter.ladder.runner import Runner
from antimatter.model.flops import peak_flops
from antimatter.planning.gpus import Card
from antimatter.planning.plan import assumed_mfu
from antimatter.progress import StatusLine
from antimatter.repository.checkout import Repository
from antimatter.text import clock, count

WORTH_A_GPU = 1e16  # FLOPs; any card does them in minutes
LOG_SECONDS = 60.0  # between two progress lines in a log


@dataclass(frozen=True, kw_only=True)
class Options:
    flops: float  # of the largest rung, at most
    jobs: int | None  # runs at a time; None: one per core, or one if there is a GPU
    target: Path  # the parameters of the run to forecast
    devices: int
    mfu: float | None  # None: an assumption for each card and width

    def __post_init__(self) -> None:
        if not self.flops > 0:
            raise UserError(f"--flops must be above 0, got {self.flops:g}")
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"--jobs must be at least 1, got {self.jobs}")


def run(
    root: Path,
    options: Options,
    cards: Sequence[Card],
    stream: TextIO,
    progress: TextIO,
    *,
    fit_only: bool,
) -> None:
    """Runs what has not run yet, fits all results, writes ladder/ and prints the report.

    Args:
        cards: GPUs for the plan of the large run.
        stream, progress: receive the report and the progress line.

    Raises:
        UserError: the runs cannot start, or are too few for a fit.
    """
    base = configs.read(root)
    runs = configs.runs(base, options.flops)
    target = read_target(root / options.target, base, options.devices, options.mfu)
    repository = Repository(root)
    failed: dict[str, str] = {}
    if not fit_only:
        finished = {result.run for result in runner.results(repository, base, runs)}
        missing = [run for run in runs if run not in finished]
        repository.check_data()
        if missing:
            repository.check_clean()
            failed = _run(repository, base, missing, len(runs), options, progress)
    results = runner.results(repository, base, runs)
    ladder = fit_ladder(base, results, target)
    report.write(root / "ladder", ladder)
    if len(results) < len(runs):
        errors = "".join(f"; {label}: {error}" for label, error in failed.items())
        stream.write(f"{len(runs) - len(results)} of {len(runs)} runs are missing{errors}\n\n")
    stream.writelines(f"{line}\n" for line in report.lines(ladder, cards))


def _run(
    repository: Repository,
    base: Base,
    missing: Sequence[RunConfig],
    total: int,
    options: Options,
    stream: TextIO,
) -> dict[str, str]:
    """Runs the missing runs. Returns the error of each one that failed, by its label."""
    jobs = parallel_runs(base, options)
    with StatusLine(LOG_SECONDS, stream) as line:
        line.log(
            f"{len(missing)} of {total} runs to go, {min(jobs, len(missing))} at a time; Ctrl-C"
            " stops them, and the same command resumes"
        )
        progress = Progress(line, repository.root, total, jobs)
        work = Runner(repository, base, jobs, progress.show, line.log)
        try:
            work.run(missing)
        except KeyboardInterrupt:
            done = total - len(work.waiting) - len(work.running)
            line.log(
                f"stopped with {done} of {total} runs done; `antimatter ladder` resumes,"
                " `antimatter ladder --fit` fits the finished runs"
            )
            raise
    return work.failed


def dry_run(root: Path, options: Options, cards: Sequence[Card], stream: TextIO) -> None:
    """Lists the runs, and how long they would take here and on known GPUs. Needs no shards."""
    base = configs.read(root, before_shards=True)
    runs = configs.runs(base, options.flops)
    finished = {result.run for result in runner.results(Repository(root), base, runs)}
    speeds, jobs = measure(base, runs, root), parallel_runs(base, options)
    stream.write("run                             N      tokens       FLOPs    rate      time\n")
    missing, seconds = [], []
    for run in runs:
        time = run.tokens / speeds[run.model.n_embd]
        status = "done" if run in finished else clock(time)
        stream.write(
            f"{run.label:<26}{count(run.weights):>7}{count(run.tokens):>12}{run.flops:>12.2e}"
            f"{run.learning_rate:>8.2g}{status:>10}\n"
        )
        if run not in finished:
            missing.append(run)
            seconds.append(time + OVERHEAD)
    # Not less than the longest run
    total = clock(max([*seconds, sum(seconds) / jobs], default=0))
    flops = sum(run.flops for run in missing)
    stream.write(f"\n{flops:.2e} FLOPs: here, {jobs} at a time, about {total} by a short trial\n")
    if flops > WORTH_A_GPU:
        stream.write("On one GPU, at an assumed MFU, which is less the narrower the model is:\n")
        for card in cards:
            hours = sum(_hours(run, card, options.mfu) for run in missing)
            stream.write(f"{card.name:<9}{hours:>8.1f} h{hours * card.price:>10.2f} US$\n")


def _hours(run: RunConfig, card: Card, mfu: float | None) -> float:
    peak = peak_flops(card.device)
    assert peak, f"{card.device} has no peak in flops.py"
    return run.flops / (peak * (mfu or assumed_mfu(card, run.model.n_embd))) / 3600


def parallel_runs(base: Base, options: Options) -> int:
    """How many runs at a time: one per core that this process may use. macOS has no call that tells
    which those are.
    """
    if options.jobs:
        return options.jobs
    if not base.cpu:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
