"""The report of a verification: its lines, its verdict and its exit status."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from antimatter import text
from antimatter.verify import compare
from antimatter.verify.compare import TOLERANCE, Number, Output
from antimatter.verify.environment import PROVENANCE

SHOWN = 6  # numbers of one output, and changes of the environment


@dataclass(frozen=True)
class Report:
    commit: str
    stages: tuple[str, ...]  # those that were to run, in the pipeline's order
    outputs: tuple[Output, ...]  # of the stages that ran
    # Parameters, code and packages that differ from dvc.lock and requirements.lock
    changes: tuple[str, ...]
    # What differs in PROVENANCE; None: the file is missing, or was not computed in this run
    machine: tuple[str, ...] | None
    failed: str = ""  # the stage that failed, and how

    @property
    def compared(self) -> list[Output]:
        """All outputs but PROVENANCE, which is a reason for differences and not a result."""
        return [output for output in self.outputs if output.path != PROVENANCE]

    @property
    def different(self) -> list[Output]:
        return [output for output in self.compared if not output.identical]

    def status(self, exact: bool) -> int:
        """The exit status. 0: identical, or within the tolerance of another machine. With `exact`
        every byte counts, those of PROVENANCE too.
        """
        accepted = all(output.identical if exact else output.within for output in self.outputs)
        return 0 if accepted and not self.failed else 1


def lines(report: Report) -> Iterator[str]:
    first = report.stages[0]
    scope = "in full" if first in ("checked", "raw") else f"from {first} on"
    yield f"commit {report.commit[:12]}, reproduced {scope}"
    width = max(map(len, report.stages))
    for stage in report.stages:
        outputs = [output for output in report.compared if output.stage == stage]
        different = [output for output in outputs if not output.identical]
        if different:
            yield f"{stage:{width}}  {len(different)} of {len(outputs)} outputs differ"
        elif outputs:
            yield f"{stage:{width}}  identical: {text.plural(len(outputs), 'output')}"
        for output in different:
            yield from _output(output)
    yield _verdict(report)
    yield from _reasons(report)


def _output(output: Output) -> Iterator[str]:
    beyond = "" if output.within else "  BEYOND"
    notes = f": {'; '.join(output.notes)}" if output.notes else ""
    yield f"  {output.path}{beyond}{notes}"
    for number in output.numbers[:SHOWN]:
        yield f"    {_number(number)}"
    if len(output.numbers) > SHOWN:
        yield f"    and {len(output.numbers) - SHOWN} more numbers"


def _number(number: Number) -> str:
    old, new = ("none" if value is None else f"{value:.7g}" for value in (number.old, number.new))
    allowed = ""
    if number.bound is not None:
        allowed = f", {number.bound:.0%} allowed" if number.bound else ", must be the same"
    return f"{number.name:26} {old:>12} -> {new:<12} {number.apart:.2%} apart{allowed}"


def _verdict(report: Report) -> str:
    if report.failed:
        return f"failed: {report.failed}"
    if not report.different:
        outputs = text.plural(len(report.compared), "output")
        return f"identical: all {outputs} of {len(report.stages)} stages"
    first = f"differs first in {report.different[0].stage}"
    for output in report.different:
        if not output.within:
            return f"{first}; BEYOND the tolerance of another machine: {_why(output)}"
    judged = [
        number.apart
        for output in report.different
        for number in output.numbers
        if number.bound is not None
    ]
    summary = "no judged number differs"
    if judged:
        summary = f"at most {max(judged):.2%} apart, {TOLERANCE:.0%} is allowed"
    return f"{first}; within the tolerance of another machine: {summary}"


def _why(output: Output) -> str:
    if output.contradiction:
        return f"{output.path}, about which dvc.lock and Git disagree at this commit"
    if output.stage in compare.DATA_STAGES:
        return f"{output.path}, which must have the same bytes on any machine"
    number = next(number for number in output.numbers if not number.within)
    return f"{output.path}, {' '.join(_number(number).split())}"


def _reasons(report: Report) -> Iterator[str]:
    changes = [*report.changes, *(report.machine or ())]
    if changes:
        if report.different:
            yield "what differs in the environment:"
        else:
            yield "although this differs in the environment:"
        yield from (f"  {change}" for change in changes[:SHOWN])
        if len(changes) > SHOWN:
            yield f"  and {len(changes) - SHOWN} more"
    elif all(output.contradiction for output in report.different):
        return
    elif report.machine is None:
        yield (
            f"parameters, code and packages are those recorded, and {PROVENANCE} was not compared:"
            " the cause is another kind of processor, or chance"
        )
    else:
        yield (
            "nothing that is recorded differs: the results are not of this commit, or a stage is"
            " not deterministic, which is a bug"
        )


def as_json(report: Report, exact: bool) -> dict[str, Any]:
    """For `--json`."""
    return {
        "commit": report.commit,
        "status": report.status(exact),
        "verdict": _verdict(report),
        "first": report.different[0].stage if report.different else None,
        "failed": report.failed or None,
        "changes": list(report.changes),
        "machine": None if report.machine is None else list(report.machine),
        "stages": {
            name: [compare.as_json(output) for output in report.outputs if output.stage == name]
            for name in report.stages
        },
    }
