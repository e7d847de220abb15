"""A persona that is based on another one: what it changes, and what it leaves as it is."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from antimatter.chat import persona
from antimatter.chat.persona import Persona
from antimatter.errors import UserError

FACTS = dict.fromkeys(("parameters", "context", "trained_on", "kind", "hardware", "duration"), "x")
BASE = {
    "system": "You are kind.",
    "greeting": "Hello! I am {name}.",
    "starters": ["Who are you?", "Hi", "Bye"],
    "facts": {"name": "Bob", "team": "us"},
    "slots": {"color": ["red", "blue"]},
    "often": {"identity": 3},
    "topics": [
        {
            "id": id,
            "part": part,
            "ask": [f"{ask}?"],
            "held_out": [f"{ask}, please."],
            "answer": [answer],
            "expect": [answer],
        }
        for id, part, ask, answer in (
            ("name", "identity", "Who are you", "I am {name} of {team}"),
            ("color", "talk", "Do you like <color>", "I like <color>"),
            ("shop", "shop", "Do you sell shoes", "No"),
            ("price", "shop", "What does it cost", "Nothing"),
        )
    ],
}


def read(folder: Path, **values: Any) -> Persona:
    (folder / "persona.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"based_on": "persona.yaml", **values}))
    return persona.read(path, FACTS)


def test_without_a_change_it_is_the_same(tmp_path: Path) -> None:
    mine = read(tmp_path)
    assert mine == persona.read(tmp_path / "persona.yaml", FACTS)
    files = [tmp_path / "mine.yaml", tmp_path / "persona.yaml"]
    assert persona.files_of(files[0]) == files
    assert persona.files_of(files[1]) == files[1:]


def test_what_it_says_replaces_what_the_base_says(tmp_path: Path) -> None:
    added = BASE["topics"][0] | {
        "id": "age",
        "ask": ["How old are you?"],
        "held_out": ["Your age?"],
    }
    mine = read(
        tmp_path,
        greeting="Hi from {name}!",
        facts={"name": "Robin"},
        slots={"color": ["green"]},
        without=["shop"],
        topics=[{"id": "color", "answer": ["<color> is fine"], "expect": ["fine"]}, added],
    )
    assert mine.greeting == "Hi from Robin!"
    assert list(mine.by_id) == ["name", "color", "age"]
    assert mine.by_id["name"].answers == ("I am Robin of us",)
    assert mine.by_id["color"].answers == ("<color> is fine",)
    assert mine.by_id["color"].held_out == ("Do you like <color>, please.",)
    assert mine.slots == {"color": ("green",)}
    assert mine.often == {"identity": 3}


def test_new_answers_without_expect_are_expected_themselves(tmp_path: Path) -> None:
    new = {"id": "age", "part": "talk", "ask": ["Age?"], "held_out": ["Your age?"]}
    mine = read(
        tmp_path,
        facts={"name": "Robin"},
        topics=[
            {"id": "name", "answer": ["It is {name}!", "My name: {name}."]},
            {"id": "color", "ask": ["<color>, is it fine?"]},
            new | {"answer": ["..."]},
        ],
    )
    assert mine.by_id["name"].expect == ("it is robin", "my name: robin")
    assert mine.by_id["color"].expect == ("i like <color>",)
    assert mine.by_id["age"].expect == ("...",)


def test_the_example_of_the_documentation_is_a_persona(tmp_path: Path) -> None:
    text = Path("docs/conversations.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(based_on: .*?)```", text, re.DOTALL)
    for name in ("persona.yaml", "mine.yaml"):
        shutil.copy("prompts/persona.yaml", tmp_path / name)
    (tmp_path / "mine.yaml").write_text(example)
    base, mine = (persona.read(tmp_path / name, FACTS) for name in ("persona.yaml", "mine.yaml"))
    assert mine.greeting.startswith("Hello! I am Robin")
    assert "my family" in mine.system and "Antimatter" not in mine.system
    assert mine.by_id["abilities"].expect == ("i know a little of the text of my owner",)
    left_out = {topic.id for topic in base.topics if topic.part == "library"}
    assert left_out and base.by_id.keys() - mine.by_id.keys() == left_out


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"based_on": "nobody.yaml"}, r"mine\.yaml: based_on must be persona\.yaml, .*'nobody"),
        ({"based_on": "sub/persona.yaml"}, r"based_on must be persona\.yaml"),
        ({"based_on": "../persona.yaml"}, r"based_on must be persona\.yaml"),
        ({"based_on": "./persona.yaml"}, r"based_on must be persona\.yaml"),
        ({"based_on": 3}, r"based_on must be persona\.yaml"),
        ({"based_on": "mine.yaml"}, r"based_on must be persona\.yaml"),
        ({"without": ["shoes"]}, r"without names `shoes`, no topic or part of .*persona\.yaml"),
        ({"without": "shop"}, r"without must be a list .*'shop'"),
        ({"topics": [{"part": "talk"}]}, r"a topic must have an id"),
        ({"topics": [{"id": "new", "part": "talk"}]}, r"topic `new`: held_out is missing"),
        ({"facts": ["Bob"]}, r"mine\.yaml: facts must be `key: value`, got \['Bob'\]"),
        ({"color": "red"}, r"mine\.yaml: unknown key `color`.*based_on, without"),
        ({"topics": [{"id": "name"}, {"id": "name"}]}, r"mine\.yaml: topic `name`: two topics"),
        ({"topics": [{"id": "color"}], "without": ["color"]}, r"topic `color` is also left out"),
        ({"topics": [{"id": "shop"}], "without": ["shop"]}, r"topic `shop` is also left out"),
        # By its part
        ({"topics": [{"id": "price"}], "without": ["shop"]}, r"topic `price` is also left out"),
    ],
)
def test_a_bad_change_is_one_line(tmp_path: Path, values: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        read(tmp_path, **values)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"colour": "red"}, r"unknown key `colour`"),
        ({"facts": 3}, r"facts must be `key: value`"),
        ({"topics": [{"id": "new"}]}, r"topic `new`: held_out is missing"),
        ({"topics": [BASE["topics"][0]] * 2}, r"topic `name`: two topics have this id"),
        ({"topics": [BASE["topics"][0] | {"ask": ["(a"]}]}, r"topic `name`: ask"),
        ({"based_on": "persona.yaml"}, r"based_on is not for the file"),
    ],
)
def test_a_fault_of_the_base_is_one_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], fault: str
) -> None:
    for key, value in values.items():
        monkeypatch.setitem(BASE, key, value)
    with pytest.raises(UserError, match=rf"[/\\]persona\.yaml: {fault}"):
        read(tmp_path)


def test_what_a_base_needs_is_one_line(tmp_path: Path) -> None:
    read(tmp_path)
    (tmp_path / "persona.yaml").unlink()
    with pytest.raises(UserError, match=r"based_on names .*persona\.yaml, which is missing"):
        persona.read(tmp_path / "mine.yaml", FACTS)
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(BASE | {"without": ["shop"]}))
    with pytest.raises(UserError, match=r"alone\.yaml: without needs .* `based_on: persona\.yaml`"):
        persona.read(tmp_path / "alone.yaml", FACTS)


def test_the_persona_for_ones_own_text_says_nothing_of_python() -> None:
    path = Path("prompts/persona-own.yaml")
    own = persona.read(path, FACTS)
    assert path.read_text().isascii()
    answers = [own.greeting, *own.starters]
    answers += [answer for topic in own.topics for answer in topic.answers]
    wrong = ("python", "numpy", "pandas", "librar", "function", "documentation")
    assert not [text for text in answers if any(word in text.lower() for word in wrong)]
