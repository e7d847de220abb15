"""What a base and a tuned model answer, side by side: a page to read, and a chart."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from antimatter.chat.conversation import Conversation
from antimatter.evaluation.answers import Answer
from antimatter.evaluation.config import AnswersConfig
from antimatter.evaluation.conversation import Exam, Result, category
from antimatter.evaluation.scripts import Transcript
from antimatter.report import plotting

SHOWN = 2  # held-out conversations of each category on the page
# What the page and the chart show, all between 0 and 1, by where it stands among the figures
MEASURES = {
    "next turn among four": "next_turn.share",
    "next turn of a dialogue between people": "next_turn.kinds.open.share",
    "who it is": "identity.share",
    "the persona": "persona.share",
    "an answer copied from a text": "grounded.share",
    "a refusal where the text has no answer": "refusals.share",
    "a refusal where it has one": "wrong_refusals.share",
    "words of the documentation (F1)": "documentation.f1",
    "words of what was never asked about (F1)": "documentation_unseen.f1",
    "ends by itself": "sampled.ended.share",
    "ends by itself (greedy)": "greedy.ended.share",
    "loops": "sampled.looping.share",
    "loops (greedy)": "greedy.looping.share",
    "leaves its role": "sampled.leaves_role.share",
    "leaves its role (greedy)": "greedy.leaves_role.share",
}
HEADER = ("measure", "base", "tuned", "low", "high", "base_low", "base_high")


class Row(NamedTuple):
    measure: str
    base: float
    tuned: float
    low: float  # 95% intervals: of the tuned model here, of the base below
    high: float
    base_low: float
    base_high: float


def rows(base: dict[str, Any], tuned: dict[str, Any]) -> list[Row]:
    """MEASURES that there are figures for."""
    found = []
    for measure, path in MEASURES.items():
        *above, leaf = path.split(".")
        old, new = _inside(base, above), _inside(tuned, above)
        if old and new:
            ends = new["low"], new["high"], old["low"], old["high"]
            found.append(Row(measure, old[leaf], new[leaf], *ends))
    return found


def _inside(figures: dict[str, Any], path: Sequence[str]) -> dict[str, float]:
    for name in path:
        figures = figures.get(name, {})
    return figures


def headline(figures: dict[str, Any]) -> dict[str, float]:
    """What one looks at first, of one model: shares, and bits per byte of held-out answers."""
    found: dict[str, float] = {}
    if "likelihood" in figures:
        found["answer_bits_per_byte"] = figures["likelihood"]["all"]["bits_per_byte"]
    shares = ("next_turn", "identity", "persona", "grounded", "refusals", "wrong_refusals")
    found |= {name: figures[name]["share"] for name in shares if name in figures}
    if "documentation" in figures:
        found["documentation"] = figures["documentation"]["f1"]
        found["documentation_gain"] = figures["documentation"]["gain"]
    if "greedy" in figures:
        found |= {name: figures["greedy"][name]["share"] for name in ("ended", "looping")}
    return found


def draw(table: Path, picture: Path) -> None:
    """The chart of a table with HEADER, as a PNG. The same numbers give the same bytes."""
    columns = plotting.table(table.read_text(encoding="utf-8"))
    places = np.arange(len(columns["measure"]))
    figure = Figure(figsize=(9, 5.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, prefix, colour, offset in (
        ("base", "base_", plotting.BEFORE, -0.2),
        ("tuned", "", plotting.AFTER, 0.2),
    ):
        values, low, high = plotting.numbers(columns, name, f"{prefix}low", f"{prefix}high")
        errors = np.maximum(0, [values - low, high - values])
        axes.barh(places + offset, values, 0.38, label=name, color=colour)
        axes.errorbar(values, places + offset, xerr=errors, fmt="none", ecolor="#555555")
    axes.set_yticks(places, columns["measure"])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share, with its 95% interval", title="What it answers")
    axes.legend(frameon=False)
    plotting.save(figure, picture)


def markdown(exam: Exam, base: Result, tuned: Result, config: AnswersConfig) -> str:
    """All scripted conversations and some held-out ones, unchosen. Texts are fenced, so none can
    become markup.
    """
    lines = [
        "# Answers",
        "",
        f"The base model, and the tuned one. In the conversations: temperature "
        f"{config.temperature:g}, top-k {config.top_k}, top-p {config.top_p:g}; elsewhere the most "
        f"likely token. At most {config.max_new_tokens} tokens; an answer that the model ended by "
        "itself closes with ∎. Nothing here was chosen by hand.",
        "",
        "| measure | base | tuned | 95% interval |",
        "|---|---|---|---|",
    ]
    for row in rows(base.figures, tuned.figures):
        interval = f"{row.low:.3f} to {row.high:.3f}"
        lines.append(f"| {row.measure} | {row.base:.3f} | {row.tuned:.3f} | {interval} |")
    lines += ["", "## Conversations"]
    pairs = zip(tuned.transcripts, base.transcripts, strict=True)
    for name, both in groupby(pairs, key=lambda pair: pair[0].script.name):
        lines += ["", f"### {name}"]
        for ours, theirs in both:
            lines += [*_transcript("Tuned", ours), *_transcript("Base", theirs)]
    triples = zip(exam.conversations, base.answers, tuned.answers, strict=True)
    if exam.conversations:
        lines += ["", "## Held-out conversations"]
    for (kind, part), some in groupby(triples, key=lambda triple: category(triple[0])):
        lines += ["", f"### {kind} {part}".rstrip()]
        for triple in list(some)[:SHOWN]:
            lines += _held_out(*triple)
    return "\n".join(lines) + "\n"


def _transcript(name: str, transcript: Transcript) -> Iterator[str]:
    yield from ("", f"{name}, seed {transcript.seed}:", "")
    said = []
    for turn, answer in zip(transcript.script.turns, transcript.answers, strict=True):
        said += [f"> {turn}", _closed(answer)]
    yield from _fenced("\n".join(said))


def _held_out(conversation: Conversation, base: Answer, tuned: Answer) -> Iterator[str]:
    *before, last = conversation.messages
    said = [f"> {one.text}" if one.role == "user" else one.text for one in before]
    said += [f"expected: {last.text}", f"tuned: {_closed(tuned)}", f"base: {_closed(base)}"]
    yield from ("", f"{conversation.source} {conversation.id}:", "")
    yield from _fenced("\n".join(said))


def _closed(answer: Answer) -> str:
    return f"{answer.text} ∎" if answer.ended() else answer.text


def _fenced(text: str) -> tuple[str, str, str]:
    runs = (len(word) for word in text.split() if set(word) == {"~"})
    fence = "~" * max(3, 1 + max(runs, default=0))
    return f"{fence}text", text, fence
