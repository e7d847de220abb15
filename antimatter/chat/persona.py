"""The persona: who the model says that it is. A user writes it in one file, prompts/persona.yaml.

A topic of that file has phrasings to ask it with, answers, and held-out phrasings. `conversations`
makes what tuning learns from; `held_out` makes what evaluation asks, and none of that is trained.
Every choice is a hash of the seed and of what is chosen for, so the same file gives the same
conversations.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from xxhash import xxh3_64_intdigest

from antimatter import params
from antimatter.chat.conversation import Conversation
from antimatter.chat.template import Message, neutralise
from antimatter.errors import UserError

T = TypeVar("T")
Turn = tuple["Topic", str]  # a topic and the phrasing that asks it

_FILE_KEYS = ("system", "greeting", "starters", "facts", "slots", "topics")
_TOPIC_KEYS = ("id", "part", "ask", "held_out", "answer", "expect")
_OPTIONAL_KEYS = ("after",)
_STARTERS = 3  # what the chat page has room for

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_FACT = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<([^<>]*)>")

# Of 100 phrasings: as written, lower case without final punctuation, that without apostrophes,
# without final punctuation; the rest get an opening
_AS_WRITTEN, _LOWER, _BARE, _OPEN_ENDED = 60, 70, 75, 80
_FIRST_OPENINGS = ("Hi, ", "Hello, ", "Hello! ", "Hi! ")
_LATER_OPENINGS = ("And ", "Ok, ", "So, ")
_REQUEST = re.compile(r"(Tell|Explain|Describe|Give|Show|Say|Help|Write|Let|Name|List)\b")


@dataclass(frozen=True)
class Topic:
    """One thing to ask: facts filled in, alternatives expanded, <slot>s in place."""

    id: str
    part: str  # identity, ability, greeting, ...: evaluation reports by part
    ask: tuple[tuple[str, ...], ...]  # for each line of `ask`, the phrasings that it stands for
    held_out: tuple[str, ...]
    answers: tuple[str, ...]
    expect: tuple[str, ...]  # in lower case; an answer is right if it contains one of them
    after: tuple[str, ...]  # ids; not empty: it is only asked directly after one of these topics

    @property
    def phrasings(self) -> list[str]:
        return [text for line in self.ask for text in line]


@dataclass(frozen=True)
class Persona:
    system: str
    greeting: str
    starters: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]
    topics: tuple[Topic, ...]
    often: dict[str, int]  # parts that are trained so many times as often as the others

    @cached_property
    def by_id(self) -> dict[str, Topic]:
        return {topic.id: topic for topic in self.topics}

    @cached_property
    def openers(self) -> dict[str, list[Topic]]:
        """The topics that can follow anything, by part."""
        found: dict[str, list[Topic]] = {}
        for topic in self.topics:
            if not topic.after:
                found.setdefault(topic.part, []).append(topic)
        return found

    @cached_property
    def untrained(self) -> frozenset[str]:
        """Every held-out phrasing with every value of its slots, folded."""
        texts = [text for topic in self.topics for text in topic.held_out]
        return frozenset(fill for text in texts for fill in _fills(text, self.slots))


# ---- reading


def read(path: Path, facts: Mapping[str, str]) -> Persona:
    """Reads a persona file.

    Args:
        facts: what the program knows about the model: `parameters`, `context`, `trained_on`. They
            join the facts of the file and win over them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a persona: one line names the file, the topic, the value, the fix.
    """
    values = params.load(path)
    _check_keys(str(path), values, _FILE_KEYS, ("often",))
    texts = _Texts(facts={}, slots={})
    for key, value in _mapping(f"{path}: facts", values["facts"]).items():
        texts.facts[key] = texts.one(f"{path}: facts.{key}", value)
    texts.facts.update(facts)
    system = texts.one(f"{path}: system", values["system"])
    greeting = texts.one(f"{path}: greeting", values["greeting"])
    starters = texts.some(f"{path}: starters", values["starters"])
    if len(starters) != _STARTERS:
        raise UserError(f"{path}: starters holds {len(starters)} texts: write {_STARTERS}")
    # After the texts above, which have no slots
    for key, value in _mapping(f"{path}: slots", values["slots"]).items():
        texts.slots[key] = texts.some(f"{path}: slots.{key}", value)
    if not isinstance(values["topics"], list) or not values["topics"]:
        raise UserError(f"{path}: topics must be a list of topics, got {values['topics']!r}")
    topics: dict[str, Topic] = {}
    for number, entry in enumerate(values["topics"], 1):
        topic = _topic(path, number, entry, texts, topics)
        topics[topic.id] = topic
    often = _often(path, values.get("often", {}), {topic.part for topic in topics.values()})
    persona = Persona(system, greeting, starters, texts.slots, tuple(topics.values()), often)
    _check_phrasings(path, persona)
    return persona


@dataclass(frozen=True)
class _Texts:
    """Checks the texts of a file and fills their facts in."""

    facts: dict[str, str]
    slots: dict[str, tuple[str, ...]]

    def one(self, where: str, value: Any) -> str:
        if not isinstance(value, str):
            raise UserError(f"{where} must be text, got {value!r}: put it in quotes")
        if not value.strip():
            raise UserError(f"{where} holds an empty text {value!r}: write it or remove it")
        if neutralise(value) != value:
            raise UserError(f"{where}: {value!r} holds a special token of the model: remove it")
        self._check_names(where, value, "fact", _FACT.findall(value), self.facts)
        self._check_names(where, value, "slot", _SLOT.findall(value), self.slots)
        filled = _FACT.sub(lambda match: self.facts[match[1]], value)
        # "{team} made me." where the fact is "the Antimatter team"
        return filled[:1].upper() + filled[1:] if value.startswith("{") else filled

    def some(self, where: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise UserError(f"{where} must be a list of texts, got {value!r}: write one or more")
        return tuple(self.one(where, item) for item in value)

    @staticmethod
    def _check_names(
        where: str,
        text: str,
        kind: str,
        names: Sequence[str],
        known: Mapping[str, Any],
    ) -> None:
        for name in names:
            if name not in known:
                choices = ", ".join(sorted(known)) or "none"
                raise UserError(f"{where}: {text!r}: unknown {kind} `{name}`; known: {choices}")


def _topic(
    path: Path,
    number: int,
    entry: Any,
    texts: _Texts,
    above: Mapping[str, Topic],
) -> Topic:
    where = f"{path}: topic {number}"
    if isinstance(entry, dict) and isinstance(entry.get("id"), str):
        where = f"{path}: topic `{entry['id']}`"
    entry = _mapping(where, entry)
    if not entry.get("held_out"):
        raise UserError(
            f"{where}: held_out is missing or empty, and a persona without held-out phrasings"
            " cannot be evaluated: add phrasings that are not in `ask`",
        )
    _check_keys(where, entry, _TOPIC_KEYS, _OPTIONAL_KEYS)
    id = texts.one(f"{where}: id", entry["id"])
    if id in above:
        raise UserError(f"{where}: id stands twice: rename one of the two topics")
    after = texts.some(f"{where}: after", entry["after"]) if "after" in entry else ()
    for name in after:
        if name not in above:
            raise UserError(f"{where}: after names `{name}`: write the id of a topic above it")
    patterns = texts.some(f"{where}: ask", entry["ask"])
    topic = Topic(
        id=id,
        part=texts.one(f"{where}: part", entry["part"]),
        ask=tuple(alternatives(f"{where}: ask", pattern) for pattern in patterns),
        held_out=texts.some(f"{where}: held_out", entry["held_out"]),
        answers=texts.some(f"{where}: answer", entry["answer"]),
        expect=tuple(text.lower() for text in texts.some(f"{where}: expect", entry["expect"])),
        after=after,
    )
    for text in (*topic.held_out, *topic.answers):
        if "|" in text:
            raise UserError(f"{where}: {text!r}: (a|b) is for `ask`: write one text for each")
    _check_answers(where, topic, above)
    return topic


def alternatives(where: str, pattern: str) -> tuple[str, ...]:
    """All phrasings of a pattern, in its order: `(tell me|say) more` is `Tell me more`, `Say more`.

    Raises:
        ValueError: its brackets do not match or hold no alternatives.
    """
    # re.split puts what the brackets hold at the odd places
    pieces = _ALTERNATIVES.split(pattern)
    inside, outside = pieces[1::2], "".join(pieces[::2])
    if re.search(r"[()|]", outside) or not all("|" in piece for piece in inside):
        raise UserError(f"{where}: {pattern!r}: write alternatives as (a|b), not nested")
    choices = [[piece] for piece in pieces]
    choices[1::2] = [piece.split("|") for piece in inside]
    texts = ["".join(choice) for choice in itertools.product(*choices)]
    spaced = [re.sub(r" ([?!.,])", r"\1", " ".join(text.split())) for text in texts]
    return tuple(dict.fromkeys(text[:1].upper() + text[1:] for text in spaced))


def _check_answers(where: str, topic: Topic, above: Mapping[str, Topic]) -> None:
    for answer in topic.answers:
        if not any(text in answer.lower() for text in topic.expect):
            raise UserError(f"{where}: answer {answer!r} contains no `expect`: change one of them")
    # An answer repeats a value that the user gave, in this turn or in the one before
    repeated = {name for text in topic.answers + topic.expect for name in _SLOT.findall(text)}
    for name in sorted(repeated):
        before = [ask for id in topic.after for ask in above[id].phrasings]
        if before and all(f"<{name}>" in text for text in before):
            continue
        for text in (*topic.phrasings, *topic.held_out):
            if f"<{name}>" not in text:
                raise UserError(f"{where}: {text!r} lacks the <{name}> of the answers: add it")


def _check_phrasings(path: Path, persona: Persona) -> None:
    """No trained phrasing is held out, and none asks two topics unless the turn before tells."""
    asked: dict[str, str] = {}
    for topic in persona.topics:
        where = f"{path}: topic `{topic.id}`"
        for ask in topic.phrasings:
            fills = list(_fills(ask, persona.slots))
            if not persona.untrained.isdisjoint(fills):
                # Case and punctuation do not make another phrasing
                raise UserError(f"{where}: {ask!r} is trained and held out: keep one of the two")
            if topic.after:
                continue
            for text in fills:
                other = asked.setdefault(text, topic.id)
                if other != topic.id:
                    raise UserError(
                        f"{where}: {ask!r} also asks topic `{other}`: remove it from one",
                    )


def _check_keys(
    where: str,
    values: Mapping[str, Any],
    required: Sequence[str],
    optional: Sequence[str] = (),
) -> None:
    for key in values:
        if key not in (*required, *optional):
            known = ", ".join((*required, *optional))
            raise UserError(f"{where}: unknown key `{key}`: remove it; known: {known}")
    for key in required:
        if key not in values:
            raise UserError(f"{where}: key `{key}` is missing: add it")


def _often(path: Path, value: Any, parts: Collection[str]) -> dict[str, int]:
    found = _mapping(f"{path}: often", value)
    for part, times in found.items():
        if part not in parts:
            known = ", ".join(sorted(parts))
            raise UserError(f"{path}: often names the part `{part}`, no topic has it: use {known}")
        if type(times) is not int or times < 1:
            raise UserError(f"{path}: often.{part} must be a whole number from 1, got {times!r}")
    return found


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be `key: value`, got {value!r}: see prompts/persona.yaml")
    return value


# ---- making conversations


def conversations(persona: Persona, per_topic: int, seed: int) -> list[Conversation]:
    """What tuning learns from: of each topic, `per_topic` conversations that ask it alone and as
    many of two turns and more that ask it later on; of a part in `often` that many times as many.
    """
    made = []
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
            made.append(_conversation(persona, id, alone, key))
            made.append(_conversation(persona, f"{id}/turns", longer, (*key, "turns")))
    return made


def led(persona: Persona, conversation: Conversation, seed: int) -> Conversation:
    """A conversation about something else. One in four then begins with turns of the persona's, and
    of those to learn from one in six ends with a thanks or a good-bye, so that a model learns to
    follow when the subject changes.
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


def held_out(persona: Persona) -> list[Conversation]:
    """What evaluation asks: one conversation for each held-out phrasing, as it is written."""
    made = []
    for topic in persona.topics:
        for number, ask in enumerate(topic.held_out):
            key = ("held_out", topic.id, number)
            turns = [*_lead(persona, topic, key), (topic, ask)]
            made.append(_conversation(persona, "/".join(map(str, key)), turns, key, held_out=True))
    return made


def known(persona: Persona) -> dict[str, Any]:
    """What a chat needs of it."""
    return {
        "system": persona.system,
        "greeting": persona.greeting,
        "starters": list(persona.starters),
    }


def fold(text: str) -> str:
    """The text as phrasings are compared: lower case, words alone."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower().replace("'", "")).split())


def _lead(persona: Persona, topic: Topic, key: tuple[Any, ...]) -> list[Turn]:
    """The turns that a topic must follow on, none for most."""
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
    """The text as some people type it; as it is where that would be a held-out phrasing."""
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
    return [_SLOT.sub(lambda match: _pick(slots[match[1]], *key, match[1]), text) for text in texts]


def _fills(text: str, slots: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """The text with every value of its slots, folded."""
    names = sorted(set(_SLOT.findall(text)))
    if not names:
        yield fold(text)
        return
    # A private letter stands for a slot, because folding takes brackets away
    marks = [chr(0x4E00 + i) for i in range(len(names))]
    folded = fold(_SLOT.sub(lambda match: marks[names.index(match[1])], text))
    options = [[fold(value) for value in slots[name]] for name in names]
    for values in itertools.product(*options):
        filled = folded
        for mark, value in zip(marks, values, strict=True):
            filled = filled.replace(mark, value)
        yield filled


def _shuffled(texts: Sequence[str], *key: Any) -> list[str]:
    return sorted(texts, key=lambda text: _hash(*key, text))


def _pick(options: Sequence[T], *key: Any) -> T:
    return options[_hash(*key) % len(options)]


def _hash(*key: Any) -> int:
    return xxh3_64_intdigest("\0".join(map(str, key)))
