"""JSON as programs export it: objects around the texts, and chats."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.own_reader import read, texts
from helpers.own_texts import ENGLISH, GERMAN, TEXTS

ROWS = [{"id": n, "text": text} for n, text in enumerate(TEXTS)]
ABOUT = "An export of all my notes, made on the last day of the year."


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "value",
    [
        {"about": ABOUT, "notes": ROWS},
        {"tags": [{"name": "a"}, {"name": "b"}], "notes": ROWS},
        {f"note {n}": row for n, row in enumerate(ROWS)},
        {f"note {n}": {"beschreibung": text} for n, text in enumerate(TEXTS)},
    ],
)
def test_texts_within_an_object_are_found(tmp_path: Path, value: Any, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    assert texts(tmp_path) == TEXTS


def test_of_two_lists_of_texts_the_longest_is_read_and_the_other_is_named(tmp_path: Path) -> None:
    value = {"drafts": [{"text": ENGLISH}], "notes": ROWS}
    (tmp_path / "a.json").write_text(json.dumps(value))
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == TEXTS
    (note,) = report.summary()["notes"]
    assert note == f"{tmp_path}/a.json: read `notes`, not `drafts`: write each list to a file"
    assert note in list(report.lines())


@pytest.mark.parametrize(
    "row",
    [
        {"body": GERMAN, "comments": [{"text": ENGLISH}, {"text": ENGLISH}]},
        {"beschreibung": ENGLISH, "tags": [{"name": "a"}]},
        {"header": {"id": 1, "lang": "en"}, "document": {"id": 1, "page": ENGLISH}},
    ],
)
def test_an_object_with_its_own_text_is_a_document(tmp_path: Path, row: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert len(texts(tmp_path)) == 1


LINK = {"type": "link", "text": "https://example.org"}
TELEGRAM = {
    "name": "Ines",
    "type": "personal_chat",
    "messages": [
        {"id": 1, "type": "service", "actor": "Ines", "text": ""},
        {"id": 2, "type": "message", "from": "Ines", "text": "Did you see "},
        {"id": 3, "type": "message", "from": "Jo", "text": ["I read ", LINK, " twice."]},
        {"id": 4, "type": "message", "from": "Jo", "text": [{"type": "bold", "text": "Yes!"}]},
        {"id": 5, "type": "message", "from": "Jo", "photo": "a.jpg", "text": 7},
    ],
}
CHAT = "Did you see \n\nI read https://example.org twice.\n\nYes!"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("value", "count"),
    [
        (TELEGRAM, 1),
        ({"about": ABOUT, "chats": {"about": ABOUT, "list": [TELEGRAM, TELEGRAM]}}, 2),
        ({"chats": {"list": [TELEGRAM]}, "left_chats": {"list": []}}, 1),
        ([TELEGRAM] * 3, 3),
    ],
)
def test_a_chat_of_telegram_is_a_document(
    tmp_path: Path, value: Any, count: int, indent: int | None
) -> None:
    (tmp_path / "result.json").write_text(json.dumps(value, indent=indent))
    assert texts(tmp_path) == [CHAT] * count


def test_a_message_of_several_parts_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(TELEGRAM))
    assert texts(tmp_path, column="messages[].text") == [CHAT]


def node(parent: str | None, role: str, *parts: Any) -> dict[str, Any]:
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [*parts]}}
    return {"message": message, "parent": parent}


def test_a_chat_of_chatgpt_is_its_messages_up_to_the_current_one(tmp_path: Path) -> None:
    mapping = {
        "d": node("b", "assistant", "The answer.", {"asset_pointer": "file"}),
        "root": {"message": None, "parent": None},
        "a": node("root", "system", ""),
        "b": node("a", "user", "The question."),
        "c": node("a", "user", "The question before it was edited."),
    }
    chat = {"title": "A chat", "mapping": mapping, "current_node": "d"}
    (tmp_path / "a.json").write_text(json.dumps([chat, chat]))
    assert texts(tmp_path) == ["The question.\n\nThe answer."] * 2
    del chat["current_node"]
    (tmp_path / "a.json").write_text(json.dumps(chat))
    assert [set(text.split("\n\n")) for text in texts(tmp_path)] == [
        {"The answer.", "The question.", "The question before it was edited."}
    ]
