"""The conversations inside the package chitchat-dataset."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from antimatter.data.documents import CONVERSATION, SEPARATOR, Document, write_parquet
from antimatter.data.sources import chitchat
from antimatter.data.sources.embedded import embedded
from antimatter.errors import UserError


def conversation(*messages: tuple[str, str]) -> dict[str, Any]:
    """Messages (sender, text), as the package has them."""
    return {"messages": [[{"sender": sender, "text": text}] for sender, text in messages]}


def test_successive_messages_are_one_turn_with_a_full_stop_between_them() -> None:
    first = [("a", "hello"), ("a", "how are you?"), ("a", "i am")]
    turns = chitchat.turns(conversation(*first, ("b", "fine\nthanks "), ("b", " ")))
    assert turns == ["hello. how are you? i am", "fine thanks"]


def test_the_last_turn_is_answered_and_both_must_speak() -> None:
    assert chitchat.turns(conversation(("a", "1"), ("b", "2"), ("a", "3"))) == ["1", "2"]
    assert chitchat.turns(conversation(("a", "1"), ("a", "2"))) == []
    assert chitchat.turns(conversation(("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"))) == []
    assert chitchat.turns({"messages": []}) == []


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """chitchat-dataset 0.9.0 with two conversations, of which one is too short."""
    (tmp_path / "chitchat_dataset").mkdir()
    info = tmp_path / "chitchat_dataset-0.9.0.dist-info"
    info.mkdir()
    four = conversation(("a", "one"), ("b", "two"), ("a", "three \u00e9"), ("b", "four"))
    content = {"x": four, "y": conversation(("a", "one"), ("b", "two"))}
    (tmp_path / "chitchat_dataset/dataset.json").write_text(json.dumps(content))
    (tmp_path / "chitchat_dataset/__init__.py").write_text("raise SystemExit('imported')")
    metadata = "Metadata-Version: 2.1\nName: chitchat-dataset\nVersion: 0.9.0\nLicense: MIT\n"
    (info / "METADATA").write_text(metadata)
    names = ("chitchat_dataset/__init__.py", "chitchat_dataset/dataset.json")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"chitchat-dataset": "0.9.0"}


def test_a_conversation_is_a_document_of_its_kind(packages: dict[str, str], tmp_path: Path) -> None:
    documents = list(embedded(packages, workers=1))
    text = SEPARATOR.join(["one", "two", "three \u00e9", "four"])
    name = "chitchat-dataset"
    assert documents == [Document(f"{name}/x", text, f"{name} 0.9.0", "MIT", CONVERSATION)]
    write_parquet(documents, tmp_path / "raw", file_mb=1)
    (row,) = pq.read_table(tmp_path / "raw/00000.parquet").to_pylist()
    assert Document(**row) == documents[0]


def test_a_package_without_its_data_is_an_error(packages: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "chitchat_dataset-0.9.0.dist-info/RECORD").write_text("chitchat_dataset/x.py,,\n")
    with pytest.raises(UserError, match=r"chitchat-dataset 0\.9\.0 holds no dataset\.json"):
        list(embedded(packages, workers=1))
