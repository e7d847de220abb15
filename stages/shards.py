"""shards: writes the cleaned text as token ids, split into train and validation."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from antimatter import files, params
from antimatter.data.shards import frequencies, writer
from antimatter.data.shards.config import ShardsConfig
from antimatter.pipeline import resume, stage
from antimatter.tasks.config import TasksRuntime

# The standard error of the loss of a token is 2 to 3 nats, so below this that of the mean exceeds
# 0.03 nats, or 3% of the perplexity
FEW_TOKENS = 10_000


def main(cleaned: Path, tokenizer: Path, shards: Path, metrics: Path, plots: Path) -> None:
    config = params.read(ShardsConfig, "shards")
    runtime = params.read(TasksRuntime, "runtime", part=True)
    inputs = {
        "cleaned": files.fingerprint(cleaned, "*.parquet"),
        "tokenizer": files.fingerprint(tokenizer, "*"),
    }
    made_of = {name: files.digest(digests) for name, digests in inputs.items()}
    with resume.directory("shards", [shards], shards=asdict(config), input=inputs) as work:
        report = writer.write(cleaned, tokenizer, work, config, runtime, made_of)
        adopted = resume.adopted(work)
        files.link({path.name: path for path in (work / "shards").glob("[!.]*")}, shards)
    files.write_metrics(metrics / "summary.json", report | adopted)
    ranks = frequencies.by_rank(np.load(shards / "token_counts.npy"))
    files.write_csv(plots / "frequencies.csv", ("rank", "count"), ranks)
    train, validation = report["train"]["tokens"], report["validation"]["tokens"]
    print(f"shards: {train:,} tokens to train on, {validation:,} to validate")
    if validation < FEW_TOKENS:
        print(
            f"warning: {validation:,} tokens of validation are few, so its perplexity says little: "
            f"raise shards.validation_fraction ({config.validation_fraction}), or add text"
        )


if __name__ == "__main__":
    stage.run(main)
