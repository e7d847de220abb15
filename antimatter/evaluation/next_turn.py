"""Whether a model takes the true next turn of a conversation for likelier than turns of others."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from antimatter.chat.conversation import Conversation
from antimatter.chat.template import Message, neutralise, prompt_tokens
from antimatter.data.special_tokens import EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import intervals
from antimatter.evaluation.answers import normal, readable, with_system
from antimatter.evaluation.perplexity import Window, score
from antimatter.model.gpt import GPT

ENDINGS = 4  # of which one is right
NEAREST = 20  # turns of about the right one's length, among which the wrong ones are drawn
# The others have answers that are a text's own, or that many conversations share
KINDS = ("persona", "open", "recall", "question")


@dataclass(frozen=True)
class Choice:
    """What is said before a turn of the assistant, that turn, and turns of other conversations."""

    kind: str  # of the conversation
    context: tuple[Message, ...]  # a user's turn at its end
    endings: tuple[str, ...]  # the first is right; which one a model takes ignores their order


@dataclass(frozen=True)
class _Turn:
    """A turn of the assistant."""

    conversation: Conversation
    number: int

    @property
    def text(self) -> str:
        return self.conversation.messages[self.number].text

    @property
    def id(self) -> str:
        return f"{self.conversation.source}/{self.conversation.id}/{self.number}"

    @property
    def owner(self) -> tuple[str, str]:
        one = self.conversation
        # A topic of a persona has several answers that are right
        return one.source, one.topic or one.group or one.id


def choices(conversations: Sequence[Conversation], items: int) -> list[Choice]:
    """At most `items` turns of each of KINDS, drawn by a hash, each beside three turns of about its
    length from other conversations of the kind. No turn for which there are not three.

    Of open conversations every turn of the assistant counts; of the others the last, as the turns
    before it may be about something else.
    """
    return [found for kind in KINDS for found in _choices(conversations, kind, items)]


def _choices(conversations: Sequence[Conversation], kind: str, items: int) -> list[Choice]:
    turns = [
        _Turn(conversation, number)
        for conversation in conversations
        if conversation.kind == kind
        for number, message in enumerate(conversation.messages)
        if message.role == "assistant"
        and (kind == "open" or number == len(conversation.messages) - 1)
    ]
    turns.sort(key=lambda turn: _hash(turn.id))
    # By text: an answer that several people gave is right wherever it stands
    by_text = {normal(turn.text): turn for turn in turns}
    found = []
    for turn in turns[:items]:
        wrong = _wrong(turn, by_text)
        if len(wrong) == ENDINGS - 1:
            context = turn.conversation.messages[: turn.number]
            found.append(Choice(kind, context, (turn.text, *wrong)))
    return found


def _wrong(turn: _Turn, by_text: dict[str, _Turn]) -> list[str]:
    own, length = normal(turn.text), len(turn.text)
    foreign = (text for text, other in by_text.items() if other.owner != turn.owner)
    others = [(abs(len(text) - length), text) for text in foreign if text != own]
    near = [text for _, text in heapq.nsmallest(NEAREST, others)]
    near.sort(key=lambda text: _hash(f"{turn.id}\0{text}"))
    return [by_text[text].text for text in near[: ENDINGS - 1]]


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text)


def score_endings(
    model: GPT,
    tokenizer: Tokenizer,
    asked: Sequence[Choice],
    system: str,
) -> tuple[np.ndarray, np.ndarray]:
    """What each ending costs after its conversation, and what it costs by itself, each with its
    EOS. Both (choices, ENDINGS), in nats.

    Args:
        model: in eval mode.
    """
    context = model.config.block_size
    nothing = prompt_tokens(with_system([], system), tokenizer)
    windows: list[Window] = []
    for choice in asked:
        endings = [[*tokenizer.encode(neutralise(text)), EOS] for text in choice.endings]
        longest = min(context // 2, max(map(len, endings)))
        messages = with_system(choice.context, system)
        conversation = readable(messages, tokenizer, context, longest)
        for ending in endings:
            said = ending[:longest]
            for before in (conversation, nothing):
                ids = np.array([*before, *said][-context - 1 :])
                windows.append(Window(len(windows), ids, len(ids) - 1 - len(said)))
    nats = np.zeros(len(windows))
    for scored in score(model, windows):
        nats += np.bincount(scored.stream, scored.losses, len(windows))
    both = nats.reshape(len(asked), ENDINGS, 2)
    return both[..., 0], both[..., 1]


def figures(asked: Sequence[Choice], after: np.ndarray, alone: np.ndarray) -> dict[str, Any]:
    """share: of the choices in which the conversation makes the right ending likelier than any
    other, compared with how likely it is by itself (domain-conditional PMI, Holtzman et al. 2021).
    per_byte: in which it is the likeliest per byte. kinds: share, of each kind of conversation.
    Guessing gets a quarter; a tie is wrong.

    Args:
        after, alone: as score_endings() gives them.
    """
    sizes = np.array([[len(ending.encode()) for ending in one.endings] for one in asked])
    right = _first_is_least(after - alone)
    per_byte = int(_first_is_least(after / sizes).sum())
    kinds = np.array([one.kind for one in asked])
    by_kind = {kind: right[kinds == kind] for kind in KINDS if (kinds == kind).any()}
    return {
        **intervals.share(int(right.sum()), len(asked)),
        "per_byte": per_byte / len(asked),
        "kinds": {kind: intervals.share(int(own.sum()), len(own)) for kind, own in by_kind.items()},
    }


def _first_is_least(costs: np.ndarray) -> np.ndarray:
    least: np.ndarray = costs[:, 0] < costs[:, 1:].min(axis=1)
    return least
