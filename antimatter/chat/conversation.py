"""A conversation: the stage `conversations` collects them, to tune on and to evaluate with."""

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
    # Selects the measures of its answers: persona, open, passage, recall, question, grounded or
    # refusal
    kind: str
    messages: tuple[Message, ...]
    licence: str
    # All conversations of a group are on one side of the split
    group: str = ""
    # None: a hash of the group decides. Sources that ask in several phrasings mark some of them
    held_out: bool | None = None
    # Of the last answer, for evaluation: texts of which it must contain one, in lower case
    expected: tuple[str, ...] = ()
    # Of a persona: the id of the topic that the last turn asks
    topic: str = ""
    more: dict[str, Any] = field(default_factory=dict)


def problem(messages: Sequence[Message]) -> str:
    """The reason why a model cannot learn from these messages, for an error; empty if it can."""
    has_system = bool(messages) and messages[0].role == "system"
    for number, message in enumerate(messages, 1):
        if not message.text.strip():
            return f"message {number} ({message.role}) is empty"
    for number, message in enumerate(messages[has_system:]):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            place = number + has_system + 1
            return f"message {place} is the {message.role}'s where the {expected}'s belongs"
    if len(messages) == has_system:
        return "it holds no turn of a user"
    if messages[-1].role == "user":
        return "its last message is the user's, without an answer"
    return ""
