"""raw: collects documents with their source and licence."""

import sys
from dataclasses import asdict
from pathlib import Path

from antimatter import files, params, text
from antimatter.data.sources import collect
from antimatter.data.sources.config import RawConfig
from antimatter.data.sources.faults import Report
from antimatter.data.sources.unwatched import unwatched
from antimatter.pipeline import resume, stage
from antimatter.tasks.config import TasksRuntime


def main(corpus: Path, raw: Path, metrics: Path, plots: Path) -> None:
    config = params.read(RawConfig, "raw")
    runtime = params.read(TasksRuntime, "runtime", part=True)
    if config.source == "files":
        _show_unwatched(config, corpus)
    report = Report()
    # How much may be skipped is judged after the reading, so another value repeats none of it
    identity = asdict(config) | {"max_skipped": None}
    with resume.directory("raw", [raw], raw=identity) as work:
        tallies = collect.write(config, raw, work, runtime, report)
        adopted = resume.adopted(work)
    summary = {
        "documents": sum(tally.documents for tally in tallies.values()),
        "bytes": sum(tally.bytes for tally in tallies.values()),
        "sources": len(tallies),
    }
    files.write_metrics(metrics / "summary.json", summary | report.summary() | adopted)
    rows = [(source, tally.documents, tally.bytes) for source, tally in tallies.items()]
    files.write_csv(plots / "sources.csv", ("source", "documents", "bytes"), rows)
    for line in report.lines():
        print(f"raw: {line}")
    print(
        f"raw: {summary['documents']:,} documents, {text.size(summary['bytes'])} "
        f"from {len(tallies)} sources"
    )


def _show_unwatched(config: RawConfig, corpus: Path) -> None:
    for pattern, path in unwatched((one.pattern for one in config.files), corpus).items():
        fix = "docs/data.md says how to put it there; or run `dvc repro --force raw` after an edit"
        print(
            f"note: raw.files: {pattern} reads {path}, which is not in {corpus}/, so DVC does not "
            f"notice an edit of it: {fix}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    stage.run(main)
