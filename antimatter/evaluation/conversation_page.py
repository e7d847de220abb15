"""The answers of a base and a tuned model side by side: a page to read, and the rows of a chart."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from antimatter.chat.conversation import Conversation
from antimatter.evaluation.answers import Answer
from antimatter.evaluation.coherence import fenced
from antimatter.evaluation.config import AnswersConfig
from antimatter.evaluation.conversation import Exam, Result, category
from antimatter.evaluation.scripts import Transcript
from antimatter.markdown import table

SHOWN = 2  # held-out conversations of each category on the page
# The measures on the page and the chart, all between 0 and 1, and their paths in the figures
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
    """Those of MEASURES that have figures."""
    present = []
    for measure, path in MEASURES.items():
        *above, leaf = path.split(".")
        old, new = _at(base, above), _at(tuned, above)
        if old and new:
            ends = new["low"], new["high"], old["low"], old["high"]
            present.append(Row(measure, old[leaf], new[leaf], *ends))
    return present


def _at(figures: dict[str, Any], path: Sequence[str]) -> dict[str, float]:
    for name in path:
        figures = figures.get(name, {})
    return figures


def headline(figures: dict[str, Any]) -> dict[str, float]:
    """The main figures of a model: shares, and bits per byte of held-out answers."""
    main: dict[str, float] = {}
    if "likelihood" in figures:
        main["answer_bits_per_byte"] = figures["likelihood"]["all"]["bits_per_byte"]
    shares = ("next_turn", "identity", "persona", "grounded", "refusals", "wrong_refusals")
    main |= {name: figures[name]["share"] for name in shares if name in figures}
    if "documentation" in figures:
        main["documentation"] = figures["documentation"]["f1"]
        main["documentation_gain"] = figures["documentation"]["gain"]
    if "greedy" in figures:
        main |= {name: figures["greedy"][name]["share"] for name in ("ended", "looping")}
    return main


def markdown(exam: Exam, base: Result, tuned: Result, config: AnswersConfig) -> str:
    """All scripted conversations and the first held-out ones of each category. Texts are fenced, so
    none can become markup.
    """
    cells = [
        (row.measure, f"{row.base:.3f}", f"{row.tuned:.3f}", f"{row.low:.3f} to {row.high:.3f}")
        for row in rows(base.figures, tuned.figures)
    ]
    lines = [
        "# Answers",
        "",
        f"The base model, and the tuned one. In the conversations: temperature "
        f"{config.temperature:g}, top-k {config.top_k}, top-p {config.top_p:g}; elsewhere the most "
        f"likely token. At most {config.max_new_tokens} tokens; an answer that the model ended by "
        "itself closes with ∎. Nothing here was chosen by hand.",
        "",
        *table(("measure", "base", "tuned", "95% interval"), cells),
        "",
        "## Conversations",
    ]
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
    turns = []
    for turn, answer in zip(transcript.script.turns, transcript.answers, strict=True):
        turns += [f"> {turn}", _closed(answer)]
    yield from fenced("\n".join(turns))


def _held_out(conversation: Conversation, base: Answer, tuned: Answer) -> Iterator[str]:
    *before, last = conversation.messages
    turns = [f"> {one.text}" if one.role == "user" else one.text for one in before]
    turns += [f"expected: {last.text}", f"tuned: {_closed(tuned)}", f"base: {_closed(base)}"]
    yield from ("", f"{conversation.source} {conversation.id}:", "")
    yield from fenced("\n".join(turns))


def _closed(answer: Answer) -> str:
    return f"{answer.text} ∎" if answer.has_ended() else answer.text
