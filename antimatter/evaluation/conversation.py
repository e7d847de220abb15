"""How well a model converses, without a judge: how likely it finds what was answered in
conversations that it has not seen, and what it answers itself.

Answers are compared with texts, by rules: the same answer has the same score, whoever gave it.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import xxhash

from antimatter.chat import template
from antimatter.chat.conversation import Conversation
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import intervals, next_turn, perplexity, scripts
from antimatter.evaluation.answers import Answer, Asked, ask, greedy, normal, readable, with_system
from antimatter.evaluation.config import AnswersConfig
from antimatter.evaluation.next_turn import Choice
from antimatter.evaluation.perplexity import Score
from antimatter.evaluation.scripts import Script, Transcript
from antimatter.model.gpt import GPT

KINDS = ("persona", "open", "recall", "question", "grounded", "refusal")
IDENTITY = "identity"  # the part of a persona that says who it is
REFUSAL = "the text does not say"


@dataclass(frozen=True)
class Exam:
    """What every model is asked."""

    conversations: list[Conversation]
    choices: list[Choice]
    scripts: list[Script]


@dataclass(frozen=True)
class Result:
    figures: dict[str, Any]
    answers: list[Answer]  # greedy, one to each of the exam's conversations
    transcripts: list[Transcript]


def exam(
    conversations: Sequence[Conversation],
    script: Sequence[Script],
    items: int,
    choices: int,
) -> Exam:
    """At most `items` conversations of each category, and `choices` next turns of each kind."""
    return Exam(choose(conversations, items), next_turn.choices(conversations, choices), [*script])


def choose(conversations: Sequence[Conversation], items: int) -> list[Conversation]:
    """At most `items` conversations of each category, those with the smallest hashes, sorted by
    category and hash.
    """

    def place(one: Conversation) -> tuple[str, str, int]:
        return *category(one), xxhash.xxh3_64_intdigest(f"{one.source}\0{one.id}")

    groups = groupby(sorted(conversations, key=place), key=category)
    return [one for _, group in groups for one in list(group)[:items]]


def category(conversation: Conversation) -> tuple[str, str]:
    """Its kind, and of a persona its part."""
    part = conversation.more.get("part", "") if conversation.kind == "persona" else ""
    return conversation.kind, part


def measure(
    model: GPT,
    tokenizer: Tokenizer,
    exam: Exam,
    config: AnswersConfig,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Asks a model all of the exam. What the exam has no conversation for is not among the figures.

    likelihood: see likelihood_figures(). next_turn: see next_turn.figures(). identity and what
    follows: see answer_figures(). greedy, sampled: form_figures() of the greedy answers to all
    conversations, and of sampled answers to the open ones and to the scripts.

    Args:
        model: in eval mode.
        progress: called with what happens at the moment.
    """
    figures: dict[str, Any] = {}
    if exam.conversations:
        progress("reading held-out answers")
        scores = likelihood(model, tokenizer, exam.conversations, config.system)
        figures["likelihood"] = likelihood_figures(exam.conversations, scores)
    if exam.choices:
        progress("comparing next turns")
        nats = next_turn.score_endings(model, tokenizer, exam.choices, config.system)
        figures["next_turn"] = next_turn.figures(exam.choices, *nats)

    def counted(what: str, total: int) -> Callable[[int], None]:
        return lambda done: progress(f"{what}: {done:,} of {total:,} answers")

    prompts = _prompts(model, tokenizer, exam.conversations, config.max_new_tokens, config.system)
    asked = [Asked(prompt) for prompt in prompts]
    likeliest = greedy(config.max_new_tokens)
    said = ask(model, tokenizer, asked, likeliest, counted("greedy", len(asked)))
    figures |= answer_figures(exam.conversations, said)

    pairs = zip(exam.conversations, prompts, strict=True)
    open_ones = [prompt for one, prompt in pairs if one.kind == "open"]
    asked = [Asked(prompt, seed) for prompt in open_ones for seed in config.seeds]
    sampled = ask(model, tokenizer, asked, config, counted("sampled", len(asked)))
    turns = sum(len(script.turns) for script in exam.scripts) * len(config.seeds)
    transcripts = scripts.talk(model, tokenizer, exam.scripts, config, counted("scripts", turns))
    sampled += [answer for transcript in transcripts for answer in transcript.answers]
    if said:
        figures["greedy"] = form_figures(said)
    if sampled:
        figures["sampled"] = form_figures(sampled)
    return Result(figures, said, transcripts)


def identity(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    system: str = "",
) -> tuple[int, int]:
    """How many of the persona's questions after its identity have the right greedy answer, and how
    many there are.

    Args:
        model: in eval mode.
        conversations: of any kind.
    """
    own = [one for one in conversations if category(one) == ("persona", IDENTITY)]
    asked = [Asked(p) for p in _prompts(model, tokenizer, own, max_new_tokens, system)]
    answers = ask(model, tokenizer, asked, greedy(max_new_tokens))
    return sum(knows(one, said.text) for one, said in zip(own, answers, strict=True)), len(own)


def _prompts(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    answer: int,
    system: str,
) -> list[tuple[int, ...]]:
    """What the model reads before the last answer of each conversation."""
    context = model.config.block_size
    said = [with_system(one.messages[:-1], system) for one in conversations]
    return [readable(messages, tokenizer, context, answer) for messages in said]


# ---- how likely it finds what was answered


def likelihood(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    system: str,
) -> list[Score]:
    """What the assistant's turns of each conversation cost, each with its EOS.

    Args:
        model: in eval mode.
    """
    said = [with_system(one.messages, system) for one in conversations]
    rendered = [template.tokens(messages, tokenizer) for messages in said]
    context = model.config.block_size
    streams = (np.array(one.ids) for one in rendered)
    windows = perplexity.sliding(streams, context, max(1, context // 2))
    # These keep the order of the tokens, and count each but the first of a conversation
    scored = list(perplexity.score(model, windows))
    is_answer = np.concatenate([one.mask[1:] for one in rendered])
    stream = np.concatenate([one.stream for one in scored])[is_answer]
    losses = np.concatenate([one.losses for one in scored])[is_answer]
    counts, nats = np.bincount(stream), np.bincount(stream, losses)
    sizes = [_answer_bytes(one) for one in conversations]
    return [Score(*row) for row in zip(counts.tolist(), nats.tolist(), sizes, strict=True)]


def _answer_bytes(conversation: Conversation) -> int:
    texts = [one.text for one in conversation.messages if one.role == "assistant"]
    return sum(len(text.encode()) for text in texts)


def likelihood_figures(
    conversations: Sequence[Conversation],
    scores: Sequence[Score],
) -> dict[str, Any]:
    """Bits per byte with their interval, and perplexity: of all, by kind, and by source."""
    by_kind: dict[str, list[Score]] = {}
    by_source: dict[str, list[Score]] = {}
    for one, score in zip(conversations, scores, strict=True):
        by_kind.setdefault(one.kind, []).append(score)
        by_source.setdefault(one.source, []).append(score)
    return {
        "all": _likelihood(scores),
        "kinds": {name: _likelihood(own) for name, own in sorted(by_kind.items())},
        "sources": {name: _likelihood(own) for name, own in sorted(by_source.items())},
    }


def _likelihood(scores: Sequence[Score]) -> dict[str, float]:
    nats, sizes = [one.nats for one in scores], [one.bytes for one in scores]
    total = Score(sum(one.tokens for one in scores), sum(nats), sum(sizes)).figures()
    low, high = intervals.of_ratio([one / math.log(2) for one in nats], sizes)
    return {
        "bits_per_byte": total["bits_per_byte"],
        "low": low,
        "high": high,
        "perplexity": total["perplexity"],
        "items": len(scores),
    }


# ---- what it answers


def knows(conversation: Conversation, answer: str) -> bool:
    """Whether the answer contains one of the expected texts."""
    said = normal(answer)
    return any(normal(text) in said for text in conversation.expected)


def is_exact(conversation: Conversation, answer: str) -> bool:
    """Whether the answer is one of the expected texts."""
    return normal(answer) in map(normal, conversation.expected)


def refuses(answer: str) -> bool:
    return normal(answer).startswith(REFUSAL)


# Of three letters and more; shorter words are no content words here
STOP = frozenset(
    "and are but can does for from has have its not that the then this was which will with".split(),
)
WORD = re.compile(r"[^\W\d_]{3,}")
# Between the words of a name: findNodes, HTTPServer
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def content_words(text: str) -> Counter[str]:
    """The words of a text in lower case; a name counts as the words that it is made of."""
    found = WORD.findall(HUMP.sub(" ", text).lower())
    return Counter(word for word in found if word not in STOP)


def f1(said: str, right: str) -> float:
    """The harmonic mean of two shares: of the content words of `said` that `right` has, and of
    those of `right` that `said` has. A word counts as often as it stands in both.
    """
    ours, theirs = content_words(said), content_words(right)
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def answer_figures(
    conversations: Sequence[Conversation],
    answers: Sequence[Answer],
) -> dict[str, Any]:
    """The measures of each kind that is there.

    identity, persona, persona_parts: share of answers that contain an expected text.
    grounded: share of answers that are the expected text, word by word.
    refusals: share that refuses where the text has no answer.
    wrong_refusals: share that refuses where it has one.
    documentation: mean f1() of the answers to questions that were trained in other phrasings, and
    of the name that was asked about in their place; gain is the mean difference.
    documentation_unseen: the same of definitions that were never asked about.
    """
    by_kind: dict[str, list[tuple[Conversation, str]]] = {}
    for one, answer in zip(conversations, answers, strict=True):
        by_kind.setdefault(one.kind, []).append((one, answer.text))
    found: dict[str, Any] = {}
    if persona := by_kind.get("persona"):
        found |= _persona(persona)
    if grounded := by_kind.get("grounded"):
        found["grounded"] = _share(is_exact(one, said) for one, said in grounded)
    if refusals := by_kind.get("refusal"):
        found["refusals"] = _share(refuses(said) for _, said in refusals)
    if grounded:
        found["wrong_refusals"] = _share(refuses(said) for _, said in grounded)
    for kind, name in (("recall", "documentation"), ("question", "documentation_unseen")):
        if questions := by_kind.get(kind):
            found[name] = _documentation(questions)
    return found


def _share(verdicts: Iterable[bool]) -> dict[str, float]:
    listed = list(verdicts)
    return intervals.share(sum(listed), len(listed))


def _persona(said: Sequence[tuple[Conversation, str]]) -> dict[str, Any]:
    by_part: dict[str, list[bool]] = {}
    for one, text in said:
        by_part.setdefault(category(one)[1], []).append(knows(one, text))
    parts = {part: _share(verdicts) for part, verdicts in sorted(by_part.items())}
    found = {IDENTITY: parts[IDENTITY]} if IDENTITY in parts else {}
    return {**found, "persona": _share(knows(*one) for one in said), "persona_parts": parts}


def _documentation(said: Sequence[tuple[Conversation, str]]) -> dict[str, float]:
    ours = np.array([f1(text, one.messages[-1].text) for one, text in said])
    name = np.array([f1(one.more["name"], one.messages[-1].text) for one, _ in said])
    low, high = intervals.of_mean(ours)
    gain_low, gain_high = intervals.of_mean(ours - name)
    return {
        "f1": float(ours.mean()),
        "low": low,
        "high": high,
        "name_f1": float(name.mean()),
        "gain": float((ours - name).mean()),
        "gain_low": gain_low,
        "gain_high": gain_high,
        "items": len(said),
    }


def form_figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """Shares of the answers that end by themselves, that loop, and that leave their role."""
    return {
        "ended": _share(answer.ended() for answer in answers),
        "looping": _share(answer.looping() for answer in answers),
        "leaves_role": _share(answer.leaves_role() for answer in answers),
    }
