"""evaluation: measures how well the model predicts unseen text, whether it knows the right ending
of a sentence, and what it writes after fixed prompts.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.data.shards.reader import Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import cloze as cloze_items
from antimatter.evaluation import coherence as samples
from antimatter.evaluation import pages, perplexity, texts
from antimatter.evaluation.config import EvaluationConfig, EvaluationRuntime
from antimatter.evaluation.perplexity import Bin, Evaluation
from antimatter.model import weights
from antimatter.pipeline import stage


def main(
    shards: Path,
    tokenizer: Path,
    checkpoints: Path,
    coherence: Path,
    cloze: Path,
    metrics: Path,
    plots: Path,
) -> None:
    config = params.read(EvaluationConfig, "evaluation")
    device = params.read(EvaluationRuntime, "runtime", part=True).device_type()
    model = weights.load(checkpoints).to(device)
    tokens, vocabulary = Shards(shards), Tokenizer.load(tokenizer)
    stride = min(config.stride, model.config.block_size)

    own = texts.score(
        model,
        vocabulary,
        config.texts,
        column=config.text_column,
        stride=stride,
        key="evaluation.texts",
    )
    result = perplexity.evaluate(model, tokens, stride)
    windows, sliding = result.windows.figures(), result.sliding.figures()
    sources = {
        name: {"tokens": score.tokens, "bytes": score.bytes, **score.figures()}
        for name, score in result.sources.items()
    }
    files.write_metrics(metrics / "summary.json", windows)
    details = {
        "sliding": {"stride": stride, **sliding},
        "positions": _figures(result.positions),
        "sources": sources,
        "texts": {text.path: text.figures() for text in own},
    }
    files.write_metrics(metrics / "perplexity.json", details)
    files.write_metrics(metrics / "frequencies.json", _figures(result.frequencies))
    _write_plots(plots, result, sources)

    endings = cloze_items.summary(
        cloze_items.answer(model, vocabulary, cloze_items.read_items(cloze))
    )
    files.write_metrics(metrics / "cloze.json", endings)

    words = samples.lexicon(tokens.split("train"), vocabulary)
    written = samples.sample(model, vocabulary, samples.read_prompts(coherence), config, words)
    verdicts = samples.summary(written)
    files.write_metrics(metrics / "coherence.json", verdicts)
    pages.write(metrics / "samples.yaml", *samples.page(written, config))

    if not windows["loss"] < math.log(tokens.vocab_size):
        print(
            f"note: a loss of {windows['loss']:.4g} nats per token is no better than guessing "
            f"among {tokens.vocab_size:,} tokens: the training has learnt nothing, or has "
            "diverged; lower optimizer.learning_rate",
            file=sys.stderr,
        )
    for name, figures in (("on the validation split", windows), ("in sliding windows", sliding)):
        print(
            f"evaluation: perplexity {figures['perplexity']:.2f}, "
            f"{figures['bits_per_byte']:.3f} bits per byte {name}"
        )
    print(
        f"evaluation: {verdicts['fluent']:.0%} of the samples fluent, "
        f"{verdicts['looping']:.0%} looping"
    )
    right = endings["all"]
    print(
        f"evaluation: {right['correct']} of {right['items']} sentences ended right, "
        f"{right['accuracy']:.1%}; chance {right['chance']:.1%}"
    )


def _write_plots(plots: Path, result: Evaluation, sources: dict[str, dict[str, Any]]) -> None:
    numbers = ("tokens", "loss", "perplexity")
    bins = [(bin.most, bin.vocabulary, *_row(bin)) for bin in result.frequencies]
    files.write_csv(plots / "bins.csv", ("at_most", "vocabulary", *numbers), bins)
    positions = [(bin.most, *_row(bin)) for bin in result.positions]
    files.write_csv(plots / "positions.csv", ("at_most", *numbers), positions)
    rows = [
        (name, row["tokens"], row["bytes"], f"{row['bits_per_byte']:.6g}")
        for name, row in sources.items()
    ]
    header = ("source", "tokens", "bytes", "bits_per_byte")
    files.write_csv(plots / "sources.csv", header, rows)


def _figures(bins: Sequence[Bin]) -> dict[str, dict[str, float]]:
    return {bin.name: {"tokens": bin.tokens, "perplexity": bin.perplexity} for bin in bins}


def _row(bin: Bin) -> tuple[int, str, str]:
    return bin.tokens, f"{bin.loss:.6g}", f"{bin.perplexity:.6g}"


if __name__ == "__main__":
    stage.run(main)
