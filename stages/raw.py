"""raw: text as it is found, with its source and licence."""

from dataclasses import asdict
from pathlib import Path

from antimatter import files, params
from antimatter.data.sources import collect
from antimatter.data.sources.config import RawConfig
from antimatter.pipeline import resume, stage
from antimatter.tasks.config import EngineRuntime


def main(raw: Path, metrics: Path, by_source: Path) -> None:
    config = params.read(RawConfig, "raw")
    runtime = params.read(EngineRuntime, "runtime", part=True)
    with resume.kept("raw", [raw], raw=asdict(config)) as work:
        found = collect.write(config, raw, work, runtime)
        documents, size = (
            sum(getattr(tally, name) for tally in found.values()) for name in ("documents", "bytes")
        )
        files.write_metrics(
            metrics,
            {"documents": documents, "bytes": size, "sources": len(found), **resume.record(work)},
        )
    files.write_csv(
        by_source,
        ("source", "documents", "bytes"),
        [(source, tally.documents, tally.bytes) for source, tally in found.items()],
    )
    print(f"raw: {documents:,} documents, {size / 1e6:,.1f} MB from {len(found)} sources")


if __name__ == "__main__":
    stage.run(main)
