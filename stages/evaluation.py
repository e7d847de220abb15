"""evaluation: how well the model predicts unseen text, what it says to fixed prompts, and whether it knows the right end of a sentence."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from antimatter import files, params
from antimatter.data.shards.reader import Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import cloze, coherence, perplexity, texts
from antimatter.evaluation.config import EvaluationConfig, EvaluationRuntime
from antimatter.evaluation.perplexity import Bin
from antimatter.model import weights
from antimatter.pipeline import stage
from antimatter.report import training as curves


def main(
    tokens: Path,
    tokenizer: Path,
    checkpoints: Path,
    prompts: Path,
    sentences: Path,
    training: Path,
    validation: Path,
    backtracks: Path,
    metrics: Path,
    depth: Path,
    by_frequency: Path,
    scores: Path,
    figures: Path,
    page: Path,
    bins: Path,
    positions: Path,
    sources: Path,
    losses: Path,
    steps: Path,
) -> None:
    config = params.read(EvaluationConfig, "evaluation")
    model = weights.load(checkpoints).to(
        params.read(EvaluationRuntime, "runtime", part=True).device_type()
    )
    shards, words, stride = (
        Shards(tokens),
        Tokenizer.load(tokenizer),
        min(config.stride, model.config.block_size),
    )

    own = texts.score(
        model, words, config.texts, column=config.text_column, stride=stride, key="evaluation.texts"
    )
    result = perplexity.evaluate(model, shards, stride)
    windows, sliding = result.windows.figures(), result.sliding.figures()
    by_source = {
        name: {"tokens": score.tokens, "bytes": score.bytes, **score.figures()}
        for name, score in result.sources.items()
    }
    files.write_metrics(metrics, {"validation": windows})
    files.write_metrics(
        depth,
        {
            "sliding": {"stride": stride, **sliding},
            "positions": _figures(result.positions),
            "sources": by_source,
            "texts": {text.path: text.figures() for text in own},
        },
    )
    files.write_metrics(by_frequency, _figures(result.frequencies))
    numbers = ("tokens", "loss", "perplexity")
    files.write_csv(
        bins,
        ("at_most", "vocabulary", *numbers),
        ((bin.most, bin.vocabulary, *_row(bin)) for bin in result.frequencies),
    )
    files.write_csv(
        positions, ("at_most", *numbers), ((bin.most, *_row(bin)) for bin in result.positions)
    )
    rows = (
        (name, row["tokens"], row["bytes"], f"{row['bits_per_byte']:.6g}")
        for name, row in by_source.items()
    )
    files.write_csv(sources, ("source", "tokens", "bytes", "bits_per_byte"), rows)
    curves.draw(training, validation, backtracks, bins, losses, steps)

    found = cloze.summary(cloze.answer(model, words, cloze.read_items(sentences)))
    files.write_metrics(scores, found)
    samples = coherence.sample(
        model,
        words,
        coherence.read_prompts(prompts),
        config,
        coherence.lexicon(shards.split("train"), words),
    )
    said = coherence.summary(samples)
    files.write_metrics(figures, said)
    files.write_text(page, coherence.markdown(samples, config))

    if not windows["loss"] < math.log(shards.vocab_size):
        print(
            f"note: a loss of {windows['loss']:.4g} nats per token is no better than guessing among {shards.vocab_size:,} tokens: the training has "
            "learnt nothing, or has diverged; lower optimizer.learning_rate",
            file=sys.stderr,
        )
    print(
        f"evaluation: perplexity {windows['perplexity']:.2f}, {windows['bits_per_byte']:.3f} bits per byte on the validation split"
    )
    print(
        f"evaluation: in sliding windows {sliding['perplexity']:.2f}, {sliding['bits_per_byte']:.3f} bits per byte"
    )
    print(f"evaluation: {said['fluent']:.0%} of the samples fluent, {said['looping']:.0%} looping")
    right = found["all"]
    print(
        f"evaluation: {right['correct']} of {right['items']} sentences ended right, {right['accuracy']:.1%}; chance {right['chance']:.1%}"
    )


def _figures(bins: Sequence[Bin]) -> dict[str, dict[str, float]]:
    return {bin.name: {"tokens": bin.tokens, "perplexity": bin.perplexity} for bin in bins}


def _row(bin: Bin) -> tuple[int, str, str]:
    return bin.tokens, f"{bin.loss:.6g}", f"{bin.perplexity:.6g}"


if __name__ == "__main__":
    stage.run(main)
