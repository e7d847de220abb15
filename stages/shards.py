"""shards: the cleaned text as token ids, split into train and validation."""

from pathlib import Path

from antimatter import files, params, stage
from antimatter.data import encode
from antimatter.data.encode import ShardsConfig, ShardsRuntime
from antimatter.data.tokenizer import Tokenizer


def main(cleaned: Path, tokenizer: Path, shards: Path, metrics: Path) -> None:
    config = params.read(ShardsConfig, "shards")
    runtime = params.read(ShardsRuntime, "runtime", part=True)
    with files.replacing(shards) as folder:
        report = encode.write(cleaned, Tokenizer.load(tokenizer), folder, config, runtime.workers)
    files.write_metrics(metrics, report)
    print(f"shards: {report['train']['tokens']:,} tokens to train on, {report['validation']['tokens']:,} to validate")


if __name__ == "__main__":
    stage.run(main)
