"""shards: the cleaned text as token ids, split into train and validation; and a picture of the data."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from antimatter import files, params
from antimatter.data.shards import writer
from antimatter.data.shards.config import ShardsConfig
from antimatter.pipeline import resume, stage
from antimatter.report import data
from antimatter.tasks.config import EngineRuntime


def main(
    cleaned: Path,
    tokenizer: Path,
    drops: Path,
    lengths: Path,
    shards: Path,
    metrics: Path,
    frequencies: Path,
    picture: Path,
) -> None:
    config = params.read(ShardsConfig, "shards")
    runtime = params.read(EngineRuntime, "runtime", part=True)
    inputs = {
        "cleaned": resume.fingerprint(cleaned, "*.parquet"),
        "tokenizer": resume.fingerprint(tokenizer, "*"),
    }
    with resume.kept("shards", [shards], shards=asdict(config), input=inputs) as work:
        report = writer.write(
            cleaned,
            tokenizer,
            work,
            config,
            runtime,
            {name: resume.digest(found) for name, found in inputs.items()},
        )
        record = resume.record(work)
        files.link({path.name: path for path in (work / "shards").glob("[!.]*")}, shards)
    files.write_metrics(metrics, report | record)
    files.write_csv(frequencies, ("rank", "count"), data.zipf(np.load(shards / "token_counts.npy")))
    data.draw(drops, lengths, frequencies, picture)
    print(
        f"shards: {report['train']['tokens']:,} tokens to train on, {report['validation']['tokens']:,} to validate"
    )


if __name__ == "__main__":
    stage.run(main)
