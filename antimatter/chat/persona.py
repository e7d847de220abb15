"""The persona: who the model says that it is. A user writes it in one file, prompts/persona.yaml.

A topic of that file has phrasings to ask it with, answers, and held-out phrasings, which no
conversation for training uses. antimatter/chat/persona_conversations.py makes the conversations.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from antimatter import params
from antimatter.chat.template import neutralise
from antimatter.errors import UserError

SLOT = re.compile(r"<([^<>]*)>")

_FILE_KEYS = ("system", "greeting", "starters", "facts", "slots", "topics")
_TOPIC_KEYS = ("id", "part", "ask", "held_out", "answer")
_OPTIONAL_KEYS = ("expect", "after")
# Of a file that changes another one
_BASE_KEYS = ("based_on", "without")
# The only file that others may be based on: dvc.yaml names it, so DVC sees its edits
BASE = "persona.yaml"
_TWICE = "two topics have this id: rename one of them"
_STARTERS = 3  # as many as fit on the chat page

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_FACT = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Topic:
    """One thing to ask: facts filled in, alternatives expanded, <slot>s still open."""

    id: str
    part: str  # identity, ability, greeting, ...: evaluation reports by part
    ask: tuple[tuple[str, ...], ...]  # for each line of `ask`, all phrasings of its pattern
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
    often: dict[str, int]  # by part: how many times as many conversations as for the other parts

    @cached_property
    def by_id(self) -> dict[str, Topic]:
        return {topic.id: topic for topic in self.topics}

    @cached_property
    def openers(self) -> dict[str, list[Topic]]:
        """The topics that can follow anything, by part."""
        by_part: dict[str, list[Topic]] = {}
        for topic in self.topics:
            if not topic.after:
                by_part.setdefault(topic.part, []).append(topic)
        return by_part

    @cached_property
    def untrained(self) -> frozenset[str]:
        """Every held-out phrasing with every value of its slots, folded."""
        texts = [text for topic in self.topics for text in topic.held_out]
        return frozenset(fill for text in texts for fill in _fills(text, self.slots))

    def chat_settings(self) -> dict[str, Any]:
        """The values that a chat with the model needs."""
        return {
            "system": self.system,
            "greeting": self.greeting,
            "starters": list(self.starters),
        }


def fold(text: str) -> str:
    """The text as phrasings are compared: lower case, words alone."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower().replace("'", "")).split())


def _fills(text: str, slots: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """The text with every value of its slots, folded."""
    names = sorted(set(SLOT.findall(text)))
    if not names:
        yield fold(text)
        return
    # A private letter stands for a slot, because folding takes brackets away
    marks = [chr(0x4E00 + i) for i in range(len(names))]
    folded = fold(SLOT.sub(lambda match: marks[names.index(match[1])], text))
    options = [[fold(value) for value in slots[name]] for name in names]
    for values in itertools.product(*options):
        filled = folded
        for mark, value in zip(marks, values, strict=True):
            filled = filled.replace(mark, value)
        yield filled


# ---- reading the file


def read(path: Path, facts: Mapping[str, str]) -> Persona:
    """Reads a persona file.

    Args:
        facts: the program's facts about the model: `parameters`, `context`, `trained_on`. They are
            added to the facts of the file and override them.

    Raises:
        UserError: the file is missing or is not a persona; one line names the file, the topic, the
            value and the fix.
    """
    base = _base(path)
    try:
        return _read(path, _merged(path), facts)
    except UserError:
        if base is not None:
            _read(base, params.load(base), facts)  # raises for a fault of that file
        raise


def _read(path: Path, values: dict[str, Any], facts: Mapping[str, str]) -> Persona:
    _check_keys(str(path), values, _FILE_KEYS, ("often", *_BASE_KEYS))
    checker = _Checker(facts={}, slots={})
    for key, value in _mapping(f"{path}: facts", values["facts"]).items():
        checker.facts[key] = checker.text(f"{path}: facts.{key}", value)
    checker.facts.update(facts)
    system = checker.text(f"{path}: system", values["system"])
    greeting = checker.text(f"{path}: greeting", values["greeting"])
    starters = checker.texts(f"{path}: starters", values["starters"])
    if len(starters) != _STARTERS:
        raise UserError(f"{path}: starters holds {len(starters)} texts: write {_STARTERS}")
    # After the texts above, which have no slots
    for key, value in _mapping(f"{path}: slots", values["slots"]).items():
        checker.slots[key] = checker.texts(f"{path}: slots.{key}", value)
    if not isinstance(values["topics"], list) or not values["topics"]:
        raise UserError(f"{path}: topics must be a list of topics, got {values['topics']!r}")
    topics: dict[str, Topic] = {}
    for number, entry in enumerate(values["topics"], 1):
        topic = _topic(path, number, entry, checker, topics)
        topics[topic.id] = topic
    often = _often(path, values.get("often", {}), {topic.part for topic in topics.values()})
    persona = Persona(system, greeting, starters, checker.slots, tuple(topics.values()), often)
    _check_phrasings(path, persona)
    return persona


def files_of(path: Path) -> list[Path]:
    """The file, and the one that it is based on, if any."""
    base = _base(path)
    return [path] if base is None else [path, base]


def _base(path: Path) -> Path | None:
    """The file that a file is based on."""
    values = params.load(path)
    if "based_on" not in values:
        if "without" in values:
            raise UserError(f"{path}: without needs another file: add `based_on: {BASE}`")
        return None
    base, name = path.parent / BASE, values["based_on"]
    if name != BASE or path.name == BASE:
        fix = f"put the file beside {BASE} under another name, or remove the key"
        raise UserError(f"{path}: based_on must be {BASE}, in the same folder, got {name!r}: {fix}")
    if not base.is_file():
        raise UserError(f"{path}: based_on names {base}, which is missing: copy it there")
    if "based_on" in params.load(base):
        raise UserError(f"{base}: based_on is not for the file that others are based on: remove it")
    return base


def _merged(path: Path) -> dict[str, Any]:
    """The values of a file. What it does not say is as in the file that it is based on: its facts
    and slots are added to those of that file, its topics replace those with the same id, and
    `without` names topics and parts to leave out.
    """
    own, base_path = params.load(path), _base(path)
    if base_path is None:
        return own
    base = params.load(base_path)
    values = {**base, **{key: own[key] for key in own if key not in _BASE_KEYS}}
    for key in ("facts", "slots"):
        added = _mapping(f"{path}: {key}", own.get(key, {}))
        values[key] = {**_mapping(f"{base_path}: {key}", base.get(key, {})), **added}
    topics = _by_id(base_path, base)
    names = topics.keys() | {topic.get("part") for topic in topics.values()}
    without = own.get("without", [])
    if not isinstance(without, list) or not all(isinstance(name, str) for name in without):
        raise UserError(f"{path}: without must be a list of topics and parts, got {without!r}")
    for name in without:
        if name not in names:
            fault = f"without names `{name}`, no topic or part of {base_path}"
            raise UserError(f"{path}: {fault}: remove it")
    left_out = {id for id, topic in topics.items() if {id, topic.get("part")} & {*without}}
    for id, topic in _by_id(path, own).items():
        if id in left_out | {*without}:
            raise UserError(f"{path}: topic `{id}` is also left out by without: remove one of them")
        replaced = topics.get(id, {})
        # What is expected of the old answers says nothing of new ones
        kept = {key: replaced[key] for key in replaced if key != "expect" or "answer" not in topic}
        topics[id] = {**kept, **topic}
    return values | {"topics": [topic for id, topic in topics.items() if id not in left_out]}


def _by_id(path: Path, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    topics = values.get("topics", [])
    if not isinstance(topics, list):
        raise UserError(f"{path}: topics must be a list of topics, got {topics!r:.60}")
    by_id: dict[str, dict[str, Any]] = {}
    for topic in topics:
        if not isinstance(topic, dict) or not isinstance(topic.get("id"), str):
            raise UserError(f"{path}: a topic must have an id, got {topic!r:.60}")
        if topic["id"] in by_id:
            raise UserError(f"{path}: topic `{topic['id']}`: {_TWICE}")
        by_id[topic["id"]] = topic
    return by_id


@dataclass(frozen=True)
class _Checker:
    """Checks the texts of a file and fills their facts in."""

    facts: dict[str, str]
    slots: dict[str, tuple[str, ...]]

    def text(self, where: str, value: Any) -> str:
        if not isinstance(value, str):
            raise UserError(f"{where} must be text, got {value!r}: put it in quotes")
        if not value.strip():
            raise UserError(f"{where} holds an empty text {value!r}: write it or remove it")
        if neutralise(value) != value:
            raise UserError(f"{where}: {value!r} holds a special token of the model: remove it")
        self._check_names(where, value, "fact", _FACT.findall(value), self.facts)
        self._check_names(where, value, "slot", SLOT.findall(value), self.slots)
        filled = _FACT.sub(lambda match: self.facts[match[1]], value)
        # "{team} made me." where the fact is "the Antimatter team"
        return filled[:1].upper() + filled[1:] if value.startswith("{") else filled

    def texts(self, where: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise UserError(f"{where} must be a list of texts, got {value!r}: write one or more")
        return tuple(self.text(where, item) for item in value)

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
    checker: _Checker,
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
    id = checker.text(f"{where}: id", entry["id"])
    if id in above:
        raise UserError(f"{where}: {_TWICE}")
    after = checker.texts(f"{where}: after", entry["after"]) if "after" in entry else ()
    for name in after:
        if name not in above:
            raise UserError(f"{where}: after names `{name}`: write the id of a topic above it")
    patterns = checker.texts(f"{where}: ask", entry["ask"])
    answers = checker.texts(f"{where}: answer", entry["answer"])
    # An answer itself, with or without the mark at its end
    expect = tuple(text.rstrip(".!?") or text for text in answers)
    if "expect" in entry:
        expect = checker.texts(f"{where}: expect", entry["expect"])
    topic = Topic(
        id=id,
        part=checker.text(f"{where}: part", entry["part"]),
        ask=tuple(alternatives(f"{where}: ask", pattern) for pattern in patterns),
        held_out=checker.texts(f"{where}: held_out", entry["held_out"]),
        answers=answers,
        expect=tuple(text.lower() for text in expect),
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
        UserError: its brackets do not match or hold no alternatives.
    """
    # re.split puts the contents of the brackets at the odd places
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
    repeated = {name for text in topic.answers + topic.expect for name in SLOT.findall(text)}
    for name in sorted(repeated):
        before = [ask for id in topic.after for ask in above[id].phrasings]
        if before and all(f"<{name}>" in text for text in before):
            continue
        for text in (*topic.phrasings, *topic.held_out):
            if f"<{name}>" not in text:
                raise UserError(f"{where}: {text!r} lacks the <{name}> of the answers: add it")


def _check_phrasings(path: Path, persona: Persona) -> None:
    """No trained phrasing is held out, and none asks two topics unless the turn before decides."""
    topic_of: dict[str, str] = {}
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
                other = topic_of.setdefault(text, topic.id)
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
    often = _mapping(f"{path}: often", value)
    for part, times in often.items():
        if part not in parts:
            known = ", ".join(sorted(parts))
            raise UserError(f"{path}: often names the part `{part}`, no topic has it: use {known}")
        if type(times) is not int or times < 1:
            raise UserError(f"{path}: often.{part} must be a whole number from 1, got {times!r}")
    return often


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be `key: value`, got {value!r}: see prompts/persona.yaml")
    return value
