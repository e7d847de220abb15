"""A persona that is based on another one: what it changes, and what it leaves as it is."""

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
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"based_on": "base.yaml", **values}))
    return persona.read(path, FACTS)


def test_without_a_change_it_is_the_same(tmp_path: Path) -> None:
    mine = read(tmp_path)
    assert mine == persona.read(tmp_path / "base.yaml", FACTS)
    files = [tmp_path / "mine.yaml", tmp_path / "base.yaml"]
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


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"based_on": "nobody.yaml"}, r"mine\.yaml: based_on must name a persona file .*'nobody"),
        ({"based_on": 3}, r"based_on must name a persona file"),
        ({"based_on": "mine.yaml"}, r"mine\.yaml is based on another file"),
        ({"without": ["shoes"]}, r"without names `shoes`, no topic or part of base\.yaml"),
        ({"without": "shop"}, r"without must be a list .*'shop'"),
        ({"topics": [{"part": "talk"}]}, r"a topic must have an id"),
        ({"topics": [{"id": "new", "part": "talk"}]}, r"topic `new`: held_out is missing"),
        ({"facts": ["Bob"]}, r"facts must be `key: value`, got \['Bob'\]"),
        ({"color": "red"}, r"mine\.yaml: unknown key `color`"),
    ],
)
def test_a_bad_change_is_one_line(tmp_path: Path, values: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        read(tmp_path, **values)


def test_the_persona_for_ones_own_text_says_nothing_of_python() -> None:
    path = Path("prompts/persona-own.yaml")
    own = persona.read(path, FACTS)
    assert path.read_text().isascii()
    answers = [own.greeting, *own.starters]
    answers += [answer for topic in own.topics for answer in topic.answers]
    wrong = ("python", "numpy", "pandas", "librar", "function", "documentation")
    assert not [text for text in answers if any(word in text.lower() for word in wrong)]
