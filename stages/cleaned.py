"""cleaned: keeps the text worth learning, and counts why the rest was dropped."""

import dataclasses
from pathlib import Path

from antimatter import files, params
from antimatter.data.cleaning import advice
from antimatter.data.cleaning import config as clean_config
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import clean
from antimatter.data.sources import paths
from antimatter.pipeline import resume, stage
from antimatter.tasks.config import TasksRuntime


def main(raw: Path, cleaned: Path, metrics: Path, plots: Path) -> None:
    config = params.read(CleanConfig, "cleaned")
    runtime = params.read(TasksRuntime, "runtime", part=True)
    texts = {
        path: files.sha256(paths.located(path))
        for part in clean_config.texts(config.decontamination)
        for path in part.paths
    }
    identity = {
        "cleaned": dataclasses.asdict(config),
        "input": files.fingerprint(raw, "*.parquet"),
        "texts": texts,
    }
    with resume.directory("cleaned", [cleaned], **identity) as work:
        report = clean(raw, work, config, runtime)
        adopted = resume.adopted(work)
        files.link({path.name: path for path in (work / "cleaned").glob("[!.]*")}, cleaned)
    summary = dataclasses.asdict(report)
    files.write_csv(plots / "lengths.csv", ("bytes", "raw", "cleaned"), summary.pop("lengths"))
    files.write_metrics(metrics / "summary.json", summary | adopted)
    rows = [("kept", report.documents_out, report.bytes_out), ("trimmed", 0, report.bytes_trimmed)]
    rows += [(reason, n, report.dropped_bytes[reason]) for reason, n in report.dropped.items()]
    drops = [(reason, n, size / 1e6) for reason, n, size in rows]
    files.write_csv(plots / "drops.csv", ("reason", "documents", "megabytes"), drops)
    print(
        f"cleaned: kept {report.documents_out:,} of {report.documents_in:,} documents, "
        f"{report.bytes_out / 1e6:.1f} of {report.bytes_in / 1e6:.1f} MB"
    )
    for line in advice.lines(report, config):
        print(line)


if __name__ == "__main__":
    stage.run(main)
