"""cleaned: the text worth learning, and why the rest was dropped."""

import dataclasses
from pathlib import Path

from antimatter import files, params, stage
from antimatter.data.clean import CleanConfig, CleanRuntime, clean


def main(raw: Path, cleaned: Path, metrics: Path, drops: Path) -> None:
    config = params.read(CleanConfig, "cleaned")
    runtime = params.read(CleanRuntime, "runtime", part=True)
    with files.replacing(cleaned) as folder:
        report = clean(raw, folder, config, runtime.workers)
    files.write_metrics(metrics, dataclasses.asdict(report))
    files.write_csv(drops, ("reason", "documents"), report.dropped.items())
    print(f"cleaned: {report.documents_out:,} of {report.documents_in:,} documents, {report.bytes_out / 1e6:.1f} of {report.bytes_in / 1e6:.1f} MB")


if __name__ == "__main__":
    stage.run(main)
