"""answers: measures how well the base and the tuned model converse."""

import sys
from functools import partial
from pathlib import Path

from antimatter import files, params
from antimatter.chat import held_out
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation import conversation as converse
from antimatter.evaluation import conversation_page, pages, scripts
from antimatter.evaluation.config import AnswersConfig, EvaluationRuntime
from antimatter.evaluation.conversation import KINDS, Result
from antimatter.model import weights
from antimatter.pipeline import stage
from antimatter.progress import StatusLine


def main(
    conversations: Path,
    tokenizer: Path,
    checkpoints: Path,
    tuned: Path,
    conversation: Path,
    metrics: Path,
    plots: Path,
) -> None:
    config = params.read(AnswersConfig, "answers")
    device = params.read(EvaluationRuntime, "runtime", part=True).device_type()
    words = Tokenizer.load(tokenizer)
    unseen = held_out.read(conversations / held_out.NAME)
    exam = converse.exam(unseen, scripts.read(conversation), config.items, config.choices)
    for kind in KINDS:
        if not any(one.kind == kind for one in unseen):
            note = f"{conversations} holds out no conversation of kind {kind}"
            print(f"note: {note}: what it measures is left out", file=sys.stderr)

    results: dict[str, Result] = {}
    with StatusLine(every=10.0) as status:
        for name, folder in (("base", checkpoints), ("tuned", tuned)):
            model = weights.load(folder).to(device)
            if model.config.vocab_size != words.vocab_size:
                sizes = f"{model.config.vocab_size:,} tokens, {tokenizer} {words.vocab_size:,}"
                raise UserError(f"{folder} was trained with {sizes}: run `dvc repro {folder.name}`")
            show = partial(_show, status, name)
            results[name] = converse.measure(model, words, exam, config, show)
    base, ours = results["base"], results["tuned"]

    rows = conversation_page.rows(base.figures, ours.figures)
    # Few figures, as `dvc metrics show` has a column for each
    files.write_metrics(metrics / "summary.json", conversation_page.headline(ours.figures))
    files.write_metrics(metrics / "details.json", {"tuned": ours.figures, "base": base.figures})
    pages.write(metrics / "conversations.yaml", *conversation_page.page(exam, base, ours, config))
    numbers = ((measure, *(f"{value:.6g}" for value in values)) for measure, *values in rows)
    files.write_csv(plots / "shares.csv", conversation_page.HEADER, numbers)

    if "likelihood" in ours.figures:
        bits = [one.figures["likelihood"]["all"]["bits_per_byte"] for one in (ours, base)]
        print(f"answers: {bits[0]:.3f} bits per byte of held-out answers, base {bits[1]:.3f}")
    for row in rows:
        interval = f"({row.low:.1%} to {row.high:.1%})"
        print(f"answers: {row.measure}: {row.tuned:.1%} {interval}, base {row.base:.1%}")


def _show(status: StatusLine, name: str, text: str) -> None:
    status.show(f"answers: {name}: {text}")


if __name__ == "__main__":
    stage.run(main)
