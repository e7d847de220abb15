"""The persona: its file, and the conversations that are made of it."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from antimatter.chat import persona
from antimatter.chat.conversation import Conversation, problem
from antimatter.chat.persona import Persona
from antimatter.chat.persona_conversations import (
    for_evaluation,
    for_training,
    with_persona_turns,
)
from antimatter.chat.template import Message

FACTS = {
    "parameters": "1.7 million",
    "context": "256 tokens",
    "trained_on": "many texts",
    "kind": "a very small language model",
    "hardware": "an ordinary CPU",
    "duration": "a few minutes",
}
PER_TOPIC = 12


def small() -> dict[str, Any]:
    return {
        "system": "You are kind.",
        "greeting": "Hello! I am {name}.",
        "starters": ["Who are you?", "Hi", "Bye"],
        "facts": {"name": "Bob"},
        "slots": {"country": ["France", "New Zealand"], "friend": ["Ann", "Sue", "Tim"]},
        "topics": [
            {
                "id": "name",
                "part": "identity",
                "ask": ["(who|what) are you (now|)?", "Say {name}'s size"],
                "held_out": ["Your name, please."],
                "answer": ["I am {name}, with {parameters} weights."],
                "expect": ["I am {name}"],
            },
            {
                "id": "capital",
                "part": "unknown",
                "ask": ["What is the capital of <country>?"],
                "held_out": ["Name <country>'s capital."],
                "answer": ["I do not know <country>."],
                "expect": ["know <country>"],
            },
            {
                "id": "hello",
                "part": "greeting",
                "ask": ["My name is <friend>."],
                "held_out": ["I am <friend>."],
                "answer": ["Hello, <friend>!"],
                "expect": ["hello"],
            },
            {
                "id": "recall",
                "part": "talk",
                "after": ["hello"],
                "ask": ["What is my name?"],
                "held_out": ["Do you know my name?"],
                "answer": ["It is <friend>."],
                "expect": ["<friend>"],
            },
        ],
    }


def read(folder: Path, values: dict[str, Any]) -> Persona:
    path = folder / "who.yaml"
    path.write_text(yaml.safe_dump(values))
    return persona.read(path, FACTS)


@pytest.fixture(scope="module")
def real() -> Persona:
    return persona.read(Path("prompts/persona.yaml"), FACTS)


@pytest.mark.parametrize(
    ("pattern", "phrasings"),
    [
        ("Hi.", ("Hi.",)),
        ("(tell me|say) more", ("Tell me more", "Say more")),
        ("(Do|Is) (a|b)?", ("Do a?", "Do b?", "Is a?", "Is b?")),
        ("How are you (now|) ?", ("How are you now?", "How are you?")),
        ("A(b|b)", ("Ab",)),
    ],
)
def test_alternatives_expand_to_all(pattern: str, phrasings: tuple[str, ...]) -> None:
    assert persona.alternatives("", pattern) == phrasings


@pytest.mark.parametrize("pattern", ["(a|b", "a|b", "a)", "(a)", "((a|b)|c)"])
def test_brackets_that_are_no_alternatives_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"who: .*write alternatives as \(a\|b\)"):
        persona.alternatives("who", pattern)


def test_facts_are_filled_in_and_those_of_the_program_win(tmp_path: Path) -> None:
    values = small()
    values["facts"]["parameters"] = "three"
    who = read(tmp_path, values)
    assert who.topics[0].answers == ("I am Bob, with 1.7 million weights.",)
    assert who.topics[0].phrasings[-1] == "Say Bob's size"
    assert who.topics[0].expect == ("i am bob",)
    assert who.chat_settings() == {
        "system": "You are kind.",
        "greeting": "Hello! I am Bob.",
        "starters": ["Who are you?", "Hi", "Bye"],
    }


def edit(topic: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda file: file["topics"][topic].update(values)


BAD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda file: file.update(sistem="x"), "unknown key `sistem`"),
    (lambda file: file.pop("greeting"), "key `greeting` is missing"),
    (lambda file: file.update(starters=["Hi", "Bye"]), "starters holds 2 texts: write 3"),
    (lambda file: file.update(greeting="Hello <country>"), "greeting: .*unknown slot `country`"),
    (lambda file: file.update(system=" "), "system holds an empty text"),
    (lambda file: file.update(topics=[]), "topics must be a list"),
    (lambda file: file.update(slots=["a"]), "slots must be `key: value`"),
    (lambda file: file["slots"].update(country=[]), "slots.country must be a list"),
    (edit(0, answers=["x"]), "`name`: unknown key `answers`"),
    (lambda file: file["topics"][0].pop("part"), "`name`: key `part` is missing"),
    (lambda file: file["topics"][0].pop("id"), "topic 1: key `id` is missing"),
    (edit(1, id="name"), "`name`: two topics have this id"),
    (edit(0, held_out=[]), "`name`: .*a persona without held-out phrasings"),
    (lambda file: file["topics"][0].pop("held_out"), "a persona without held-out phrasings"),
    (edit(0, held_out=["WHO are you"]), "`name`: 'Who are you.' is trained and held out"),
    (edit(0, held_out=["capital"], ask=["Name France's capital!"]), "trained and held out"),
    (edit(0, held_out=["Who|what"]), r"`name`: 'Who\|what': .*write one text for each"),
    (edit(0, ask=["What is the capital of France"]), "`capital`: .*also asks topic `name`"),
    (edit(0, ask=["Who (is it"]), "`name`: ask: .*write alternatives"),
    (edit(0, ask=[]), "`name`: ask must be a list"),
    (edit(0, ask=["Hi", 5]), "`name`: ask must be text, got 5: put it in quotes"),
    (edit(0, ask=["Hi", ""]), "`name`: ask holds an empty text"),
    (edit(0, ask=["Hi [EOS] there"]), "`name`: ask: .*holds a special token"),
    (edit(0, ask=["Hi {nam}"]), "`name`: ask: .*unknown fact `nam`; known: .*name"),
    (edit(1, ask=["Where is <town>"]), "`capital`: ask: .*unknown slot `town`; known: country"),
    (edit(0, answer=["I am it."]), "`name`: answer 'I am it.' contains no `expect`"),
    (edit(1, ask=["Which capital?"]), "`capital`: 'Which capital.' lacks the <country>"),
    (edit(1, held_out=["Which capital?"]), "`capital`: 'Which capital.' lacks the <country>"),
    (edit(3, after=["name"]), "`recall`: .* lacks the <friend>"),
    (edit(3, after=["later"]), "`recall`: after names `later`: write the id of a topic above"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_a_bad_file_is_one_line_with_the_file_and_the_topic(
    tmp_path: Path,
    spoil: Callable[[dict[str, Any]], Any],
    message: str,
) -> None:
    values = small()
    spoil(values)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, values)
    assert str(error.value).startswith(str(tmp_path / "who.yaml"))
    assert "\n" not in str(error.value)


def test_every_topic_is_asked_alone_and_later_on(tmp_path: Path) -> None:
    who = read(tmp_path, small())
    conversations = for_training(who, PER_TOPIC, seed=1)
    assert len(conversations) == 2 * PER_TOPIC * len(who.topics)
    assert len({one.id for one in conversations}) == len(conversations)
    for one in conversations:
        assert problem(one.messages) == ""
        assert (one.kind, one.group, one.held_out) == ("persona", one.id, False)
        is_longer = one.id.endswith("/turns") or one.topic == "recall"
        assert (len(one.messages) > 2) == is_longer
        # The last turn is that of the topic
        assert any(text in one.messages[-1].text.lower() for text in one.expected)


def test_an_answer_repeats_what_the_user_gave(tmp_path: Path) -> None:
    who = read(tmp_path, small())
    friends = set()
    for one in for_training(who, PER_TOPIC, seed=1) + for_evaluation(who):
        if one.topic == "recall":
            name, question = (message.text.lower() for message in one.messages[-4:-1:2])
            friend = one.messages[-1].text.removeprefix("It is ").rstrip(".")
            friends.add(friend)
            assert name.rstrip(".") == f"my name is {friend}".lower()
            assert "my name" in question
    assert friends == {"Ann", "Sue", "Tim"}


def test_the_conversations_depend_on_the_file_and_the_seed_alone(tmp_path: Path) -> None:
    first, second = (read(tmp_path, small()) for _ in range(2))
    conversations = for_training(first, PER_TOPIC, seed=1)
    assert conversations == for_training(second, PER_TOPIC, seed=1)
    assert conversations != for_training(second, PER_TOPIC, seed=2)
    # A larger number adds to them and changes none
    longer = {one.id: one for one in for_training(first, PER_TOPIC + 1, seed=1)}
    assert all(longer[one.id] == one for one in conversations)


def test_held_out_phrasings_are_asked_as_they_are_written(tmp_path: Path) -> None:
    who = read(tmp_path, small())
    name, capital, _, recall = for_evaluation(who)
    assert [message.text for message in name.messages] == [
        "Your name, please.",
        "I am Bob, with 1.7 million weights.",
    ]
    assert (name.held_out, name.topic, name.more) == (True, "name", {"part": "identity"})
    country = capital.expected[0].removeprefix("know ")
    assert country in {"france", "new zealand"}
    assert country in capital.messages[0].text.lower()
    assert recall.messages[-2].text == "Do you know my name?"
    assert len(recall.messages) == 4


def test_an_opening_does_not_make_a_held_out_phrasing(tmp_path: Path) -> None:
    values = small()
    values["topics"] = values["topics"][:1]
    values["topics"][0].update(
        ask=["Who are you?"],
        held_out=["Hi, who are you?", "hello who are you"],
    )
    conversations = for_training(read(tmp_path, values), 200, seed=1)
    assert {one.messages[0].text for one in conversations} == {
        "Who are you?",
        "Who are you",
        "who are you",
    }


def test_turns_of_the_persona_surround_another_conversation(real: Persona) -> None:
    own = (Message("user", "What is it?"), Message("assistant", "It is a test."))
    others = [Conversation(str(n), "docs", "recall", own, "BSD", held_out=True) for n in range(200)]
    longer = [with_persona_turns(real, one, seed=1) for one in others]
    turns = [len(one.messages) // 2 for one in longer]
    assert 130 < turns.count(1) < 170 and 12 < turns.count(2) < 38 and set(turns) == {1, 2, 4}
    for before, after in zip(others, longer, strict=True):
        assert after.messages[-2:] == own and problem(after.messages) == ""
        assert replace(after, messages=own) == before
    trained = [with_persona_turns(real, replace(one, held_out=False), seed=1) for one in others]
    closed = [one for one in trained if one.messages[-2:] != own]
    assert 20 < len(closed) < 48
    assert all(own[0] in one.messages and problem(one.messages) == "" for one in closed)
    assert longer == [with_persona_turns(real, one, seed=1) for one in others]
    assert longer != [with_persona_turns(real, one, seed=2) for one in others]


def test_a_share_of_the_phrasings_is_typed_carelessly(real: Persona) -> None:
    questions = [one.messages[0].text for one in for_training(real, 2, seed=1)]
    lower = sum(text == text.lower() for text in questions) / len(questions)
    bare = sum(text[-1].isalnum() for text in questions) / len(questions)
    greeted = sum(bool(re.match("(Hi|Hello)[,!] ", text)) for text in questions) / len(questions)
    assert 0.1 < lower < 0.3
    assert 0.15 < bare < 0.35
    assert 0.05 < greeted < 0.3


def test_the_real_persona_is_complete_plain_and_short(real: Persona) -> None:
    assert len(real.topics) >= 220
    assert sum(topic.part == "identity" for topic in real.topics) >= 45
    assert real.system == "You are a helpful AI assistant created by the Antimatter team."
    assert min(len(topic.held_out) for topic in real.topics) >= 2
    # A second answer of every topic costs a small model more than it brings (docs/log.md)
    assert min(len(topic.answers) for topic in real.topics if topic.part == "identity") >= 2
    assert Path("prompts/persona.yaml").read_text().isascii()
    for topic in real.topics:
        for answer in topic.answers:
            assert len(answer.split()) <= 40
            assert any(text in answer.lower() for text in topic.expect)


def test_no_held_out_phrasing_of_the_real_persona_is_trained(real: Persona) -> None:
    unseen = {persona.fold(one.messages[-2].text) for one in for_evaluation(real)}
    conversations = for_training(real, 8, seed=1)
    messages = [message for one in conversations for message in one.messages]
    trained = {persona.fold(message.text) for message in messages if message.role == "user"}
    assert not trained & unseen
    later = {one.topic for one in conversations if len(one.messages) > 2}
    assert later == {topic.id for topic in real.topics}
