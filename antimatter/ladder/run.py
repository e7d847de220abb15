"""`antimatter ladder`: runs the family of small models, fits the scaling law, checks it on its own largest rung, and forecasts a large run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from antimatter.errors import UserError
from antimatter.ladder import configs, forecast, report, runner, throughput
from antimatter.ladder.configs import Base, Rung
from antimatter.ladder.fit import assess
from antimatter.ladder.progress import View
from antimatter.ladder.report import count
from antimatter.ladder.runner import Runner, clock
from antimatter.planning.gpus import Card
from antimatter.repository.checkout import Repository

WORTH_A_GPU = 1e16  # FLOPs; any card does them in minutes


@dataclass(frozen=True, kw_only=True)
class Options:
    flops: float  # that the largest rung takes at most
    jobs: int | None  # rungs at a time; None: one a core, or one where there is a GPU
    target: Path  # the parameters of the run to forecast
    devices: int
    mfu: float

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
    """Runs what has not run, then fits all, writes ladder/ and reports. ValueError or OSError, in one line, where that cannot be."""
    base = configs.read(root)
    rungs = configs.family(base, options.flops)
    target = forecast.read(root / options.target, base, options.devices, options.mfu)
    repository = Repository(root)
    done = {result.rung for result in runner.results(repository, base, rungs)}
    waiting = [rung for rung in rungs if rung not in done]
    failed: dict[str, str] = {}
    if not fit_only:
        repository.check_data()
    if waiting and not fit_only:
        repository.check_clean()
        failed = _climb(repository, base, waiting, len(rungs), options, progress)
    results = runner.results(repository, base, rungs)
    ladder = assess(base, results, target)
    report.write(root / "ladder", ladder)
    missing = len(rungs) - len(results)
    if missing:
        stream.write(
            f"{missing} of {len(rungs)} runs are missing{''.join(f'; {name}: {words}' for name, words in failed.items())}\n\n"
        )
    stream.writelines(f"{line}\n" for line in report.report(ladder, cards))


def _climb(
    repository: Repository,
    base: Base,
    waiting: Sequence[Rung],
    total: int,
    options: Options,
    progress: TextIO,
) -> dict[str, str]:
    jobs = _jobs(base, options)
    view = View(progress, repository.root, total, jobs)
    view.say(
        f"{len(waiting)} of {total} runs to go, {min(jobs, len(waiting))} at a time; Ctrl-C stops, and the same command goes on"
    )
    work = Runner(repository, base, jobs, view.show, view.say)
    try:
        work.run(waiting)
        view.end()
    except KeyboardInterrupt:
        left = len(work.waiting) + len(work.running)
        view.say(
            f"stopped with {total - left} of {total} runs done; `antimatter ladder` goes on, `antimatter ladder --fit` fits what there is"
        )
        raise
    return work.failed


def dry_run(root: Path, options: Options, cards: Sequence[Card], stream: TextIO) -> None:
    """What would run, and how long it would take here and on known GPUs. The shards need not be there yet."""
    base = configs.read(root, before_shards=True)
    rungs = configs.family(base, options.flops)
    repository = Repository(root)
    done = {result.rung for result in runner.results(repository, base, rungs)}
    speeds, jobs = throughput.measure(base, rungs, root), _jobs(base, options)
    stream.write("run                             N      tokens       FLOPs    rate      time\n")
    for rung in rungs:
        words = "done" if rung in done else clock(rung.tokens / speeds[rung.model.n_embd])
        stream.write(
            f"{rung.label:<26}{count(rung.weights):>7}{count(rung.tokens):>12}{rung.flops:>12.2e}{rung.learning_rate:>8.2g}{words:>10}\n"
        )
    left = [rung for rung in rungs if rung not in done]
    seconds = [rung.tokens / speeds[rung.model.n_embd] + throughput.OVERHEAD for rung in left]
    flops = sum(rung.flops for rung in left)
    about = clock(max([*seconds, sum(seconds) / jobs], default=0))
    stream.write(f"\n{flops:.2e} FLOPs: here, {jobs} at a time, about {about} by a short trial\n")
    if flops > WORTH_A_GPU:
        stream.write(
            f"On one GPU, at an assumed MFU of {100 * options.mfu:.3g}% (small models reach less):\n"
        )
        hours = forecast.hours(flops, cards, options.mfu)
        stream.writelines(
            f"{card.name:<9}{time:>8.1f} h{time * card.price:>10.2f} US$\n" for card, time in hours
        )


def _jobs(base: Base, options: Options) -> int:
    """Rungs at a time: one a core that this process may use; macOS cannot tell which those are."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return options.jobs or (cores if base.cpu else 1)
