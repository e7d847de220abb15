"""How well a model converses, without another model as the judge: how likely it finds the answers
in conversations that it has not seen, and how good its own answers are.

Rules compare answers with texts, so the same answer always has the same score.
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
from antimatter.evaluation import intervals, next_turn, scoring, scripts
from antimatter.evaluation.answers import (
    Answer,
    Prompt,
    ask,
    greedy,
    normalised,
    prompt_ids,
    with_system,
)
from antimatter.evaluation.config import AnswersConfig
from antimatter.evaluation.next_turn import Choice
from antimatter.evaluation.scoring import Score
from antimatter.evaluation.scripts import Script, Transcript
from antimatter.model.gpt import GPT

KINDS = ("persona", "open", "passage", "recall", "question", "grounded", "refusal")
IDENTITY = "identity"  # the part of a persona that says who it is
REFUSAL = "the text does not say"
Pair = tuple[Conversation, str]  # a conversation and the model's answer to it


@dataclass(frozen=True)
class Exam:
    """The questions to every model."""

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

    # By hash, so that the choice does not depend on the order of the sources
    def order(one: Conversation) -> tuple[str, str, int]:
        return *category(one), xxhash.xxh3_64_intdigest(f"{one.source}\0{one.id}")

    groups = groupby(sorted(conversations, key=order), key=category)
    return [one for _, group in groups for one in list(group)[:items]]


def category(conversation: Conversation) -> tuple[str, str]:
    """Its kind, and for a persona the part."""
    part = conversation.more.get("part", "") if conversation.kind == "persona" else ""
    return conversation.kind, part


def measure(
    model: GPT,
    tokenizer: Tokenizer,
    exam: Exam,
    config: AnswersConfig,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Asks a model all of the exam. A measure without a conversation in the exam has no figure.

    likelihood: see likelihood_figures(). next_turn: see next_turn.figures(). identity and the
    following: see answer_figures(). greedy, sampled: form_figures() of the greedy answers to all
    conversations, and of sampled answers to the open ones and to the scripts.

    Args:
        model: in eval mode.
        on_progress: called with a description of the current work.
    """
    figures: dict[str, Any] = {}
    if exam.conversations:
        on_progress("reading held-out answers")
        scores = likelihood(model, tokenizer, exam.conversations, config.system)
        figures["likelihood"] = likelihood_figures(exam.conversations, scores)
    if exam.choices:
        on_progress("comparing next turns")
        nats = next_turn.score_endings(model, tokenizer, exam.choices, config.system)
        figures["next_turn"] = next_turn.figures(exam.choices, *nats)

    def counted(name: str, total: int) -> Callable[[int], None]:
        return lambda done: on_progress(f"{name}: {done:,} of {total:,} answers")

    prompts = _prompts(model, tokenizer, exam.conversations, config.max_new_tokens, config.system)
    likeliest = greedy(config.max_new_tokens)
    answers = ask(model, tokenizer, prompts, likeliest, counted("greedy", len(prompts)))
    figures |= answer_figures(exam.conversations, answers)

    pairs = zip(exam.conversations, prompts, strict=True)
    open_ids = [prompt.ids for one, prompt in pairs if one.kind == "open"]
    drawn = [Prompt(ids, seed) for ids in open_ids for seed in config.seeds]
    sampled = ask(model, tokenizer, drawn, config, counted("sampled", len(drawn)))
    turns = sum(len(script.turns) for script in exam.scripts) * len(config.seeds)
    transcripts = scripts.talk(model, tokenizer, exam.scripts, config, counted("scripts", turns))
    sampled += [answer for transcript in transcripts for answer in transcript.answers]
    if answers:
        figures["greedy"] = form_figures(answers)
    if sampled:
        figures["sampled"] = form_figures(sampled)
    return Result(figures, answers, transcripts)


def identity(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    system: str = "",
) -> tuple[int, int]:
    """The number of the persona's questions about its identity with the right greedy answer, and
    the number of all of them.

    Args:
        model: in eval mode.
        conversations: of any kind.
    """
    own = [one for one in conversations if category(one) == ("persona", IDENTITY)]
    prompts = _prompts(model, tokenizer, own, max_new_tokens, system)
    answers = ask(model, tokenizer, prompts, greedy(max_new_tokens))
    pairs = zip(own, answers, strict=True)
    return sum(knows(one, answer.text) for one, answer in pairs), len(own)


def _prompts(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    answer: int,
    system: str,
) -> list[Prompt]:
    """The prompt before the last answer of each conversation."""
    context = model.config.block_size
    before = [with_system(one.messages[:-1], system) for one in conversations]
    return [Prompt(prompt_ids(messages, tokenizer, context, answer)) for messages in before]


# ---- how likely it finds the answers


def likelihood(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    system: str,
) -> list[Score]:
    """The loss of the assistant's turns of each conversation, each with its EOS.

    Args:
        model: in eval mode.
    """
    messages = (with_system(one.messages, system) for one in conversations)
    rendered = [template.tokens(turns, tokenizer) for turns in messages]
    context = model.config.block_size
    streams = (np.array(one.ids) for one in rendered)
    # They overlap by half, so that an answer has its question before it
    windows = scoring.sliding(streams, context, max(1, context // 2))
    # In the order of the tokens, each but the first of a conversation
    scored = list(scoring.score(model, windows))
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
    """Bits per byte with their interval, and perplexity: as a whole, by kind, and by source."""
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


# ---- how good its own answers are


def knows(conversation: Conversation, answer: str) -> bool:
    """Whether the answer contains one of the expected texts."""
    said = normalised(answer)
    return any(normalised(text) in said for text in conversation.expected)


def is_exact(conversation: Conversation, answer: str) -> bool:
    """Whether the answer is one of the expected texts."""
    return normalised(answer) in map(normalised, conversation.expected)


def refuses(answer: str) -> bool:
    return normalised(answer).startswith(REFUSAL)


# Words of three letters and more; shorter ones never count as content words
STOP = frozenset(
    "and are but can does for from has have its not that the then this was which will with".split(),
)
WORD = re.compile(r"[^\W\d_]{3,}")
# Between the words of a name: findNodes, HTTPServer
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def content_words(text: str) -> Counter[str]:
    """The words of a text in lower case; a name counts as the words that it is made of."""
    words = WORD.findall(HUMP.sub(" ", text).lower())
    return Counter(word for word in words if word not in STOP)


def f1(answer: str, right: str) -> float:
    """The harmonic mean of precision and recall of the content words of an answer. A word counts
    as many times as both texts have it.
    """
    ours, theirs = content_words(answer), content_words(right)
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def answer_figures(
    conversations: Sequence[Conversation],
    answers: Sequence[Answer],
) -> dict[str, Any]:
    """The measures of each kind among the conversations.

    identity, persona, persona_parts: share of answers that contain an expected text.
    grounded: share of answers that are the expected text, word by word.
    refusals: share of refusals where the text has no answer.
    wrong_refusals: share of refusals where it has one.
    documentation: mean f1() of the answers to questions that were trained in other phrasings, and
    of the name in the question instead of the answer; gain is the mean difference.
    documentation_unseen: the same for definitions without a question in training.
    """
    by_kind: dict[str, list[Pair]] = {}
    for one, answer in zip(conversations, answers, strict=True):
        by_kind.setdefault(one.kind, []).append((one, answer.text))
    figures: dict[str, Any] = {}
    if persona := by_kind.get("persona"):
        figures |= _persona(persona)
    if grounded := by_kind.get("grounded"):
        figures["grounded"] = _share(is_exact(one, text) for one, text in grounded)
    if refusals := by_kind.get("refusal"):
        figures["refusals"] = _share(refuses(text) for _, text in refusals)
    if grounded:
        figures["wrong_refusals"] = _share(refuses(text) for _, text in grounded)
    for kind, name in (("recall", "documentation"), ("question", "documentation_unseen")):
        if questions := by_kind.get(kind):
            figures[name] = _documentation(questions)
    return figures


def _share(verdicts: Iterable[bool]) -> dict[str, float]:
    listed = list(verdicts)
    return intervals.share(sum(listed), len(listed))


def _persona(pairs: Sequence[Pair]) -> dict[str, Any]:
    by_part: dict[str, list[bool]] = {}
    for one, text in pairs:
        by_part.setdefault(category(one)[1], []).append(knows(one, text))
    parts = {part: _share(verdicts) for part, verdicts in sorted(by_part.items())}
    identity = {IDENTITY: parts[IDENTITY]} if IDENTITY in parts else {}
    every = _share(knows(*pair) for pair in pairs)
    return {**identity, "persona": every, "persona_parts": parts}


def _documentation(pairs: Sequence[Pair]) -> dict[str, float]:
    # An answer that only repeats the name in the question has an F1 above 0, so the gain over it is
    # the measure of knowledge
    ours = np.array([f1(text, one.messages[-1].text) for one, text in pairs])
    name = np.array([f1(one.more["name"], one.messages[-1].text) for one, _ in pairs])
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
        "items": len(pairs),
    }


def form_figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """Shares of the answers that end by themselves, that loop, and that leave their role."""
    return {
        "ended": _share(answer.has_ended() for answer in answers),
        "looping": _share(answer.is_looping() for answer in answers),
        "leaves_role": _share(answer.leaves_role() for answer in answers),
    }
