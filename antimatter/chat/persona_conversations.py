"""The conversations that are made of a persona: to tune on, and to ask in the evaluation.

Every choice is a hash of the seed and of the place that it is made for, so the same file gives the
same conversations.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from xxhash import xxh3_64_intdigest

from antimatter.chat.conversation import Conversation
from antimatter.chat.persona import SLOT, Persona, Topic, fold
from antimatter.chat.template import Message

T = TypeVar("T")
Turn = tuple[Topic, str]  # a topic and the phrasing that asks it

# Of 100 phrasings: as written, lower case without final punctuation, that without apostrophes,
# without final punctuation; the rest get an opening
_AS_WRITTEN, _LOWER, _BARE, _OPEN_ENDED = 60, 70, 75, 80
_FIRST_OPENINGS = ("Hi, ", "Hello, ", "Hello! ", "Hi! ")
_LATER_OPENINGS = ("And ", "Ok, ", "So, ")
_REQUEST = re.compile(r"(Tell|Explain|Describe|Give|Show|Say|Help|Write|Let|Name|List)\b")


def for_training(persona: Persona, per_topic: int, seed: int) -> list[Conversation]:
    """For each topic, `per_topic` conversations that ask it alone and as many of two turns and more
    that ask it later; for a part in `often`, that many times as many.
    """
    conversations = []
    for topic in persona.topics:
        orders = [_shuffled(line, seed, topic.id) for line in topic.ask]
        for number in range(per_topic * persona.often.get(topic.part, 1)):
            key = (seed, topic.id, number)
            # Every line in turn, so that each is trained as often as the others
            turns, line = divmod(number, len(orders))
            order = orders[line]
            alone = [*_lead(persona, topic, key), (topic, order[turns % len(order)])]
            # From the other end: other phrasings, where a line has many
            longer = _longer(persona, (topic, order[-1 - turns % len(order)]), key)
            id = f"{topic.id}/{number}"
            conversations.append(_conversation(persona, id, alone, key))
            conversations.append(_conversation(persona, f"{id}/turns", longer, (*key, "turns")))
    return conversations


def for_evaluation(persona: Persona) -> list[Conversation]:
    """One conversation for each held-out phrasing, as it is written."""
    conversations = []
    for topic in persona.topics:
        for number, ask in enumerate(topic.held_out):
            key = ("held_out", topic.id, number)
            id = "/".join(map(str, key))
            turns = [*_lead(persona, topic, key), (topic, ask)]
            conversations.append(_conversation(persona, id, turns, key, held_out=True))
    return conversations


def with_persona_turns(persona: Persona, conversation: Conversation, seed: int) -> Conversation:
    """A conversation about something else, with turns of the persona around it: one in four begins
    with some, and of those to learn from one in six ends with a thanks or a good-bye. So a model
    learns to follow when the subject changes.
    """
    key = (seed, conversation.id, "led")
    turns = [
        _asked(_pick(_pick(list(persona.openers.values()), *key, n), *key, n, "topic"), *key, n)
        for n in range(_pick((0, 0, 0, 0, 0, 0, 1, 3), *key))
    ]
    messages = _conversation(persona, conversation.id, turns, key).messages if turns else ()
    messages += conversation.messages
    farewells = _farewells(persona)
    if farewells and not conversation.held_out and _hash(*key, "leaves") % 6 == 0:
        leave = _asked(_pick(farewells, *key, "leave"), *key, "farewell")
        messages += _conversation(persona, conversation.id, [leave], (*key, "leaves")).messages
    return replace(conversation, messages=messages)


# ---- the turns of a conversation


def _lead(persona: Persona, topic: Topic, key: tuple[Any, ...]) -> list[Turn]:
    """The turns that must come before a topic, none for most."""
    if not topic.after:
        return []
    before = persona.by_id[_pick(topic.after, *key, "after")]
    key = (*key, topic.id)
    return [*_lead(persona, before, key), _asked(before, *key, "lead")]


def _longer(persona: Persona, turn: Turn, key: tuple[Any, ...]) -> list[Turn]:
    """One to five turns, the given one, and in one case of six a thanks or a good-bye."""
    topic = turn[0]
    openers, farewells = persona.openers, _farewells(persona)
    greetings = _without(topic, openers.get("greeting", []))
    turns: list[Turn] = []
    if greetings and _hash(*key, "greets") % 5 == 0:
        turns.append(_asked(_pick(greetings, *key, "greet"), *key, "greeting"))
    others = _pick((1, 1, 1, 1, 2, 4), *key, "others")
    if turns and _hash(*key, "asks") % 2:
        others -= 1
    for number in range(others):
        here = (*key, number)
        related = _without(topic, openers.get(topic.part, []))
        if not related or _hash(*here, "related") % 2:
            related = _without(topic, [other for part in openers.values() for other in part])
        # Empty where a file has one topic
        if related:
            turns.append(_asked(_pick(related, *here, "other"), *here, "other"))
    turns += [*_lead(persona, topic, key), turn]
    if farewells and topic not in farewells and _hash(*key, "leaves") % 6 == 0:
        turns.append(_asked(_pick(farewells, *key, "leave"), *key, "farewell"))
    return turns


def _farewells(persona: Persona) -> list[Topic]:
    return persona.openers.get("thanks", []) + persona.openers.get("goodbye", [])


def _without(topic: Topic, topics: Sequence[Topic]) -> list[Topic]:
    return [other for other in topics if other.id != topic.id]


def _asked(topic: Topic, *key: Any) -> Turn:
    return topic, _pick(_pick(topic.ask, *key, "line"), *key, "ask")


# ---- their texts


def _conversation(
    persona: Persona,
    id: str,
    turns: Sequence[Turn],
    key: tuple[Any, ...],
    held_out: bool = False,
) -> Conversation:
    messages: list[Message] = []
    expected: list[str] = []
    for place, (topic, phrasing) in enumerate(turns):
        here = (*key, place)
        texts = (phrasing, _pick(topic.answers, *here, "answer"), *topic.expect)
        # One value for the whole conversation, so that a later answer can come back to it
        ask, answer, *expected = _filled(texts, persona.slots, key)
        if phrasing not in topic.held_out:
            ask = _typed(ask, place == 0, persona.untrained, here)
        messages += [Message("user", ask), Message("assistant", answer)]
    return Conversation(
        id=id,
        source="persona",
        kind="persona",
        messages=tuple(messages),
        licence="mit",
        group=id,
        held_out=held_out,
        expected=tuple(text.lower() for text in expected),
        topic=turns[-1][0].id,
        more={"part": turns[-1][0].part},
    )


def _typed(text: str, is_first: bool, untrained: frozenset[str], key: tuple[Any, ...]) -> str:
    """The text as some people type it; unchanged where that would be a held-out phrasing."""
    share = _hash(*key, "typed") % 100
    bare = text.rstrip("?.!")
    if share < _AS_WRITTEN:
        return text
    if share < _LOWER:
        typed = bare.lower()
    elif share < _BARE:
        typed = bare.lower().replace("'", "")
    elif share < _OPEN_ENDED:
        typed = bare
    else:
        typed = _opened(text, is_first, key)
    return text if not typed or fold(typed) in untrained else typed


def _opened(text: str, is_first: bool, key: tuple[Any, ...]) -> str:
    """The text with a word before it, where it is a request or a whole question."""
    lowered = text if re.match(r"I\b", text) else text[:1].lower() + text[1:]
    if _REQUEST.match(text):
        return f"Please {lowered}"
    if not text.endswith("?") or len(text.split()) < 3:
        return text
    opening = _pick(_FIRST_OPENINGS if is_first else _LATER_OPENINGS, *key, "opening")
    return opening + (text if opening.endswith("! ") else lowered)


def _filled(
    texts: Sequence[str],
    slots: Mapping[str, tuple[str, ...]],
    key: tuple[Any, ...],
) -> list[str]:
    """The texts with a value for each <slot>, the same in all of them."""
    return [SLOT.sub(lambda match: _pick(slots[match[1]], *key, match[1]), text) for text in texts]


# ---- choices


def _shuffled(texts: Sequence[str], *key: Any) -> list[str]:
    return sorted(texts, key=lambda text: _hash(*key, text))


def _pick(options: Sequence[T], *key: Any) -> T:
    return options[_hash(*key) % len(options)]


def _hash(*key: Any) -> int:
    return xxh3_64_intdigest("\0".join(map(str, key)))
