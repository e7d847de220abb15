"""tokenizer: learns the vocabulary from the cleaned text, or keeps the one that it is given."""

import resource
import sys
from pathlib import Path

from antimatter import files, params
from antimatter.data.sources import paths
from antimatter.data.tokenizer import keep, train
from antimatter.data.tokenizer_config import TokenizerConfig, TokenizerRuntime
from antimatter.pipeline import stage


def main(cleaned: Path, tokenizer: Path, metrics: Path) -> None:
    config = params.read(TokenizerConfig, "tokenizer")
    runtime = params.read(TokenizerRuntime, "runtime", part=True)
    with files.replacing(tokenizer) as folder:
        if config.initial:
            initial = paths.located(config.initial)
            report = keep(initial, cleaned, folder, config, runtime.workers)
        else:
            report = train(cleaned, folder, config, runtime.workers)
    files.write_metrics(metrics / "summary.json", report)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    size = report["sample_bytes"] / 1e6
    print(f"tokenizer: peak memory {peak / 1e9:.2f} GB for {size:,.1f} MB of text", file=sys.stderr)
    print(f"tokenizer: {report['vocab_size']:,} tokens, {report['bytes_per_token']:.2f} bytes each")


if __name__ == "__main__":
    stage.run(main)
