"""evaluation: how well the model predicts unseen text, and what it says to fixed prompts."""

import math
from pathlib import Path

from antimatter import files, params, stage
from antimatter.data.shards import Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import coherence, curves, perplexity
from antimatter.evaluation.coherence import CoherenceConfig
from antimatter.model import weights


def main(
    tokens: Path,
    tokenizer: Path,
    checkpoints: Path,
    prompts: Path,
    training: Path,
    validation: Path,
    backtracks: Path,
    metrics: Path,
    figures: Path,
    page: Path,
    by_frequency: Path,
    bins: Path,
    losses: Path,
    steps: Path,
) -> None:
    config = params.read(CoherenceConfig, "evaluation")
    shards, model = Shards(tokens), weights.load(checkpoints)
    result = perplexity.evaluate(model, shards.split("validation"), shards.bytes("validation"), shards.token_counts())
    print(f"evaluation: perplexity {result.perplexity:.2f}, {result.bits_per_byte:.3f} bits per byte on the validation split")
    samples = coherence.sample(model, Tokenizer.load(tokenizer), coherence.read_prompts(prompts), config)
    files.write_text(page, coherence.markdown(samples, config))
    files.write_metrics(figures, coherence.summary(samples))
    rows = [(bin.most, bin.vocabulary, bin.tokens, f"{bin.loss:.6g}", f"{math.exp(bin.loss):.6g}") for bin in result.bins]
    files.write_csv(bins, ("at_most", "vocabulary", "tokens", "loss", "perplexity"), rows)
    files.write_metrics(by_frequency, {f"{bin.least}-{bin.most}": {"tokens": bin.tokens, "perplexity": math.exp(bin.loss)} for bin in result.bins})
    files.write_metrics(metrics, {"validation": {name: getattr(result, name) for name in ("loss", "perplexity", "bits_per_byte")}})
    curves.draw(training, validation, backtracks, bins, losses, steps)


if __name__ == "__main__":
    stage.run(main)
