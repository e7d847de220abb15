"""Markdown loses its front matter, and nothing else that is between rulers."""

from pathlib import Path

import pytest
from helpers.own_reader import texts
from helpers.own_texts import ENGLISH, GERMAN

ENTRIES = [
    f"Monday. {ENGLISH}",
    f"## Tuesday\n\n- milk\n- bread\n\n{GERMAN}",
    "Dear diary: it rained.\nWe stayed at home.",
    "Note: we left early,\nand came back late.",
    "# Only a heading",
    "- one\n- two",
    "Weather: sunny\n\n- swim",
]


@pytest.mark.parametrize("first", range(len(ENTRIES)))
@pytest.mark.parametrize("ruler", ["---", "+++"])
def test_entries_between_rulers_are_text(tmp_path: Path, first: int, ruler: str) -> None:
    entries = ENTRIES[first:] + ENTRIES[:first]
    text = f"{ruler}\n" + f"\n{ruler}\n".join(entries) + "\n"
    (tmp_path / "a.md").write_text(text)
    assert texts(tmp_path) == [text]


@pytest.mark.parametrize(
    "fields",
    [
        "title: A\ntags: [b, c]\n",
        "# written by hand\ntitle: >\n  Two\n  lines\ntags:\n- b\n- c\n\ndate: 2020-01-02\n",
        "title: Part 1: The ferry\ntags:\n  - b\n",
        "date: 2020-02-30\n",
        '"title": A\n',
        "",
    ],
)
def test_fields_before_the_text_are_left_out(tmp_path: Path, fields: str) -> None:
    (tmp_path / "a.md").write_text(f"---\n{fields}---\n\n{ENGLISH}\n\n---\n\n{GERMAN}\n")
    assert texts(tmp_path) == [f"{ENGLISH}\n\n---\n\n{GERMAN}\n"]
