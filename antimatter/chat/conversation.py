"""A conversation: what `conversations` collects, tuning learns from, and evaluation asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from antimatter.chat.template import Message


@dataclass(frozen=True)
class Conversation:
    """Turns of a user and an assistant in alternation, the user's first and the assistant's last,
    perhaps after a system text.
    """

    id: str  # unique within its source
    source: str  # persona, chitchat, documentation, or a file or data set as people would cite it
    # What its answers are measured by: persona, open, recall, question, grounded or refusal
    kind: str
    messages: tuple[Message, ...]
    licence: str
    # What belongs together: all conversations of a group are on one side of the split
    group: str = ""
    # None: a hash of the group decides. Of what is asked in several phrasings some are marked
    held_out: bool | None = None
    # Of the last answer, for evaluation: texts of which it must contain one, in lower case
    expected: tuple[str, ...] = ()
    # Of a persona: the seed that it was made of
    topic: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def problem(messages: Sequence[Message]) -> str:
    """Why these messages are no conversation to learn from, in words for an error; empty if they
    are one.
    """
    is_led = bool(messages) and messages[0].role == "system"
    for number, message in enumerate(messages, 1):
        if not message.text.strip():
            return f"message {number} ({message.role}) is empty"
    for number, message in enumerate(messages[is_led:]):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            place = number + is_led + 1
            return f"message {place} is the {message.role}'s where the {expected}'s belongs"
    if len(messages) == is_led:
        return "it holds no turn of a user"
    return (
        ""
        if messages[-1].role == "assistant"
        else "its last message is the user's, without an answer"
    )
