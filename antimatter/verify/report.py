"""What a verification found, and what it means: the report, its last word and the exit status."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from antimatter.verify import compare
from antimatter.verify.compare import TOLERANCE, Number, Output
from antimatter.verify.environment import PROVENANCE

SHOWN = 6  # numbers of one output, and changes of the environment


@dataclass(frozen=True)
class Report:
    commit: str
    stages: tuple[str, ...]  # that were to run, in the pipeline's order
    outputs: tuple[Output, ...]  # of those that did
    # Of parameters, code and packages against what dvc.lock and requirements.lock say
    changes: tuple[str, ...]
    # What metrics/provenance.json has otherwise; None: it is not there, or was not made anew
    machine: tuple[str, ...] | None
    failed: str = ""  # the stage that did, and how

    @property
    def different(self) -> list[Output]:
        """The outputs that differ. What PROVENANCE records is a reason, no result."""
        return [
            output for output in self.outputs if not output.identical and output.path != PROVENANCE
        ]

    def status(self, exact: bool) -> int:
        """Of the process. 0: identical, or within the tolerance of another machine; `exact` asks for every byte, PROVENANCE included."""
        return int(
            bool(self.failed)
            or not all(output.identical if exact else output.within for output in self.outputs)
        )


def lines(report: Report) -> Iterator[str]:
    """The report for people."""
    yield f"commit {report.commit[:12]}, reproduced {'in full' if report.stages[0] == 'raw' else f'from {report.stages[0]} on'}"
    width = max(map(len, report.stages))
    for stage in report.stages:
        outputs = [
            output
            for output in report.outputs
            if output.stage == stage and output.path != PROVENANCE
        ]
        different = [output for output in outputs if not output.identical]
        if outputs:
            yield f"{stage:{width}}  {f'{len(different)} of {len(outputs)} outputs differ' if different else f'identical: {_count(len(outputs))}'}"
        for output in different:
            yield from _output(output)
    yield _verdict(report)
    yield from _reasons(report)


def _count(outputs: int) -> str:
    return f"{outputs} output{'s' if outputs > 1 else ''}"


def _output(output: Output) -> Iterator[str]:
    yield f"  {output.path}{'' if output.within else '  BEYOND'}{': ' if output.notes else ''}{'; '.join(output.notes)}"
    for number in output.numbers[:SHOWN]:
        yield f"    {_number(number)}"
    if len(output.numbers) > SHOWN:
        yield f"    and {len(output.numbers) - SHOWN} more numbers"


def _number(number: Number) -> str:
    old, new = ("none" if value is None else f"{value:.7g}" for value in (number.old, number.new))
    allowed = (
        ""
        if number.bound is None
        else f", {number.bound:.0%} allowed"
        if number.bound
        else ", must be the same"
    )
    return f"{number.name:26} {old:>12} -> {new:<12} {number.apart:.2%} apart{allowed}"


def _verdict(report: Report) -> str:
    if report.failed:
        return f"failed: {report.failed}"
    if not report.different:
        return f"identical: all {_count(len([o for o in report.outputs if o.path != PROVENANCE]))} of {len(report.stages)} stages"
    first = report.different[0].stage
    beyond = [output for output in report.different if not output.within]
    if not beyond:
        judged = [
            number.apart
            for output in report.different
            for number in output.numbers
            if number.bound is not None
        ]
        most = (
            f"at most {max(judged):.2%} apart, {TOLERANCE:.0%} is allowed"
            if judged
            else "no number that it concerns differs"
        )
        return f"differs first in {first}; within the tolerance of another machine: {most}"
    return f"differs first in {first}; BEYOND the tolerance of another machine: {_why(beyond[0])}"


def _why(output: Output) -> str:
    if output.contradiction:
        return f"{output.path}, of which dvc.lock and Git say different things at this commit"
    if output.stage in compare.DATA_STAGES:
        return f"{output.path}, which is to be the same to the byte on any machine"
    return f"{output.path}, {' '.join(_number(next(number for number in output.numbers if not number.within)).split())}"


def _reasons(report: Report) -> Iterator[str]:
    changes = [*report.changes, *(report.machine or ())]
    if changes:
        yield (
            "what differs in the environment:"
            if report.different
            else "although this differs in the environment:"
        )
        yield from (f"  {text}" for text in changes[:SHOWN])
        if len(changes) > SHOWN:
            yield f"  and {len(changes) - SHOWN} more"
    elif all(output.contradiction for output in report.different):
        return
    elif report.machine is None:
        yield f"parameters, code and packages are those recorded; {PROVENANCE} does not tell of the machine: another kind of processor, or chance"
    else:
        yield "nothing that is recorded differs: the results are not of this commit, or a stage leaves something to chance, which is a bug"


def as_json(report: Report, exact: bool) -> dict[str, Any]:
    """The report for machines."""
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
