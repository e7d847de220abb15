"""The answers of a base and a tuned model side by side: a page to read, and the rows of a chart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from antimatter.chat.conversation import Conversation
from antimatter.evaluation import pages
from antimatter.evaluation.answers import Answer
from antimatter.evaluation.config import AnswersConfig
from antimatter.evaluation.conversation import Exam, Result, category
from antimatter.evaluation.scripts import Transcript

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
    """The main figures of a model, as shares: of next turns among four, and of questions about
    itself.
    """
    return {name: figures[name]["share"] for name in ("next_turn", "persona") if name in figures}


def page(
    exam: Exam, base: Result, tuned: Result, config: AnswersConfig
) -> tuple[list[str], dict[str, Any]]:
    """What pages.write() takes: about the answers, all scripted conversations, and the first
    held-out ones of each category.
    """
    about = [
        "Answers of the base model, and of the tuned one. In the conversations: temperature "
        f"{config.temperature:g}, top-k {config.top_k}, top-p {config.top_p:g}; elsewhere the most "
        f"likely token. At most {config.max_new_tokens} tokens; an answer that the model ended by "
        "itself closes with ∎. Nothing here was chosen by hand.",
    ]
    table = [("measure", "base", "tuned", "95% interval")]
    for row in rows(base.figures, tuned.figures):
        interval = f"{row.low:.3f} to {row.high:.3f}"
        table.append((row.measure, f"{row.base:.3f}", f"{row.tuned:.3f}", interval))
    talks: dict[str, dict[str, str]] = {}
    for ours, theirs in zip(tuned.transcripts, base.transcripts, strict=True):
        talk = talks.setdefault(ours.script.name, {})
        for name, transcript in (("tuned", ours), ("base", theirs)):
            pages.add(talk, f"{name}, seed {transcript.seed}", _transcript(transcript))
    held_out: dict[str, dict[str, str]] = {}
    for one, *answers in zip(exam.conversations, base.answers, tuned.answers, strict=True):
        some = held_out.setdefault(" ".join(category(one)).rstrip(), {})
        if len(some) < SHOWN:
            pages.add(some, f"{one.source} {one.id}", _held_out(one, *answers))
    content = {"measures": pages.columns(table), "conversations": talks, "held_out": held_out}
    return about, content


def _transcript(transcript: Transcript) -> str:
    turns = zip(transcript.script.turns, transcript.answers, strict=True)
    return "\n".join(f"> {turn}\n{_closed(answer)}" for turn, answer in turns)


def _held_out(conversation: Conversation, base: Answer, tuned: Answer) -> str:
    *before, last = conversation.messages
    turns = [f"> {one.text}" if one.role == "user" else one.text for one in before]
    turns += [f"expected: {last.text}", f"tuned: {_closed(tuned)}", f"base: {_closed(base)}"]
    return "\n".join(turns)


def _closed(answer: Answer) -> str:
    return f"{answer.text} ∎" if answer.has_ended() else answer.text
