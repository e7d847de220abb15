"""Whether a model finds the true next turn of a conversation likelier than turns of others."""

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
from antimatter.evaluation import intervals, scoring
from antimatter.evaluation.answers import normalised, prompt_ids, with_system
from antimatter.evaluation.scoring import Window
from antimatter.model.gpt import GPT

ENDINGS = 4  # of which one is right
NEAREST = 20  # turns of about the right one's length, among which the wrong ones are drawn
# The others have answers that are a text's own, or that many conversations share
KINDS = ("persona", "open", "recall", "question", "passage")


@dataclass(frozen=True)
class Choice:
    """The messages before a turn of the assistant, that turn, and turns of other conversations."""

    kind: str  # of the conversation
    context: tuple[Message, ...]  # a user's turn at its end
    endings: tuple[str, ...]  # the first is right; the model's choice ignores their order


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
        conversation = self.conversation
        # A topic of a persona has several right answers
        return conversation.source, conversation.topic or conversation.group or conversation.id


def choices(conversations: Sequence[Conversation], items: int) -> list[Choice]:
    """At most `items` turns of each of KINDS, drawn by a hash, each beside three turns of about its
    length from other conversations of the kind; a turn without three is left out.

    In open conversations every turn of the assistant counts; in the others the last one, as the
    turns before it may be about something else.
    """
    return [choice for kind in KINDS for choice in _choices(conversations, kind, items)]


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
    # By text: an answer that several people gave is right after each of their conversations
    by_text = {normalised(turn.text): turn for turn in turns}
    chosen = []
    for turn in turns[:items]:
        wrong = _wrong(turn, by_text)
        if len(wrong) == ENDINGS - 1:
            context = turn.conversation.messages[: turn.number]
            chosen.append(Choice(kind, context, (turn.text, *wrong)))
    return chosen


def _wrong(turn: _Turn, by_text: dict[str, _Turn]) -> list[str]:
    own, length = normalised(turn.text), len(turn.text)
    foreign = (text for text, other in by_text.items() if other.owner != turn.owner)
    others = [(abs(len(text) - length), text) for text in foreign if text != own]
    # Of about the same length, since a short text is likelier as a whole
    near = [text for _, text in heapq.nsmallest(NEAREST, others)]
    near.sort(key=lambda text: _hash(f"{turn.id}\0{text}"))
    return [by_text[text].text for text in near[: ENDINGS - 1]]


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text)


def score_endings(
    model: GPT,
    tokenizer: Tokenizer,
    choices: Sequence[Choice],
    system: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each ending after its conversation, and by itself, each with its EOS. Both
    (choices, ENDINGS), in nats.

    Args:
        model: in eval mode.
    """
    context = model.config.block_size
    nothing = prompt_tokens(with_system([], system), tokenizer)
    windows: list[Window] = []
    for choice in choices:
        endings = [[*tokenizer.encode(neutralise(text)), EOS] for text in choice.endings]
        # At most half of the context, so that the conversation has the other half
        longest = min(context // 2, max(map(len, endings)))
        messages = with_system(choice.context, system)
        conversation = prompt_ids(messages, tokenizer, context, longest)
        for ending in endings:
            scored = ending[:longest]
            for before in (conversation, nothing):
                ids = np.array([*before, *scored][-context - 1 :])
                windows.append(Window(len(windows), ids, len(ids) - 1 - len(scored)))
    nats = scoring.sums(model, windows).reshape(len(choices), ENDINGS, 2)
    return nats[..., 0], nats[..., 1]


def figures(choices: Sequence[Choice], after: np.ndarray, alone: np.ndarray) -> dict[str, Any]:
    """share: of the choices in which the conversation makes the right ending likelier than any
    other, compared with how likely it is by itself (domain-conditional PMI, Holtzman et al. 2021).
    per_byte: share in which it is the likeliest per byte. kinds: share, of each kind of
    conversation. Guessing gets a quarter; a tie is wrong.

    Args:
        after, alone: as score_endings() gives them.
    """
    sizes = np.array([[len(text.encode()) for text in choice.endings] for choice in choices])
    right = _first_is_least(after - alone)
    per_byte = int(_first_is_least(after / sizes).sum())
    kinds = np.array([choice.kind for choice in choices])
    by_kind = {kind: right[kinds == kind] for kind in KINDS if (kinds == kind).any()}
    return {
        **intervals.share(int(right.sum()), len(choices)),
        "per_byte": per_byte / len(choices),
        "kinds": {kind: intervals.share(int(own.sum()), len(own)) for kind, own in by_kind.items()},
    }


def _first_is_least(nats: np.ndarray) -> np.ndarray:
    is_least: np.ndarray = nats[:, 0] < nats[:, 1:].min(axis=1)
    return is_least
