"""tokenizer: the vocabulary, learnt from the cleaned text."""

from pathlib import Path

from antimatter import files, params, stage
from antimatter.data.tokenizer import TokenizerConfig, train


def main(cleaned: Path, tokenizer: Path, metrics: Path) -> None:
    config = params.read(TokenizerConfig, "tokenizer")
    with files.replacing(tokenizer) as folder:
        report = train(cleaned, folder, config)
    files.write_metrics(metrics, report)
    print(f"tokenizer: {report['vocab_size']:,} tokens, {report['bytes_per_token']:.2f} bytes each")


if __name__ == "__main__":
    stage.run(main)
