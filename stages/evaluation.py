"""evaluation: how well the model predicts unseen text, and what it says to fixed prompts."""

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
    metrics: Path,
    figures: Path,
    page: Path,
    picture: Path,
) -> None:
    config = params.read(CoherenceConfig, "evaluation")
    shards, model = Shards(tokens), weights.load(checkpoints)
    result = perplexity.evaluate(model, shards.split("validation"), shards.bytes("validation"))
    print(f"evaluation: perplexity {result['perplexity']:.2f}, {result['bits_per_byte']:.3f} bits per byte on the validation split")
    samples = coherence.sample(model, Tokenizer.load(tokenizer), coherence.read_prompts(prompts), config)
    files.write_text(page, coherence.markdown(samples, config))
    files.write_metrics(figures, coherence.summary(samples))
    files.write_metrics(metrics, {"validation": result})
    curves.draw_loss(training, validation, picture)


if __name__ == "__main__":
    stage.run(main)
