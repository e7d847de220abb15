"""The conversations inside a package, and which packages the embedded corpus looks at."""

import dataclasses
import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from antimatter import params
from antimatter.data.documents import CONVERSATION, SEPARATOR, Document, write_parquet
from antimatter.data.sources import chitchat, collect
from antimatter.data.sources.config import RawConfig
from antimatter.data.sources.embedded import embedded

ROOT = Path(__file__).parents[2]
# What serves, stores, schedules and tests: an update of it must change no byte of data/raw
TOOLS = {"aiohttp", "dvc", "dvc-s3", "flask", "mypy", "playwright", "pytest", "ray", "transformers"}


def conversation(*messages):
    """Of messages (sender, text), as the package has it."""
    return {"messages": [[{"sender": sender, "text": text}] for sender, text in messages]}


def test_successive_messages_are_one_turn_with_a_full_stop_between_them():
    first = [("a", "hello"), ("a", "how are you?"), ("a", "i am")]
    found = chitchat.turns(conversation(*first, ("b", "fine\nthanks "), ("b", " ")))
    assert found == ["hello. how are you? i am", "fine thanks"]


def test_the_last_turn_is_answered_and_both_must_speak():
    assert chitchat.turns(conversation(("a", "1"), ("b", "2"), ("a", "3"))) == ["1", "2"]
    assert chitchat.turns(conversation(("a", "1"), ("a", "2"))) == []
    assert chitchat.turns(conversation(("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"))) == []
    assert chitchat.turns({"messages": []}) == []


@pytest.fixture
def packages(tmp_path, monkeypatch):
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


def test_a_conversation_is_a_document_of_its_kind(packages, tmp_path):
    found = list(embedded(packages, workers=1))
    text = SEPARATOR.join(["one", "two", "three \u00e9", "four"])
    name = "chitchat-dataset"
    assert found == [Document(f"{name}/x", text, f"{name} 0.9.0", "MIT", CONVERSATION)]
    write_parquet(found, tmp_path / "raw", file_mb=1)
    (row,) = pq.read_table(tmp_path / "raw/00000.parquet").to_pylist()
    assert Document(**row) == found[0]


def test_a_package_without_its_data_is_an_error(packages, tmp_path):
    (tmp_path / "chitchat_dataset-0.9.0.dist-info/RECORD").write_text("chitchat_dataset/x.py,,\n")
    with pytest.raises(ValueError, match=r"chitchat-dataset 0\.9\.0 holds no dataset\.json"):
        list(embedded(packages, workers=1))


def test_the_corpus_asks_for_no_other_package(packages, tmp_path, monkeypatch, runtime):
    asked = []
    ask = importlib.metadata.distribution

    def spy(name):
        asked.append(name)
        return ask(name)

    monkeypatch.setattr(importlib.metadata, "distribution", spy)
    given = {**packages, "filelock": importlib.metadata.version("filelock")}
    config = params.read(RawConfig, "raw", ROOT / "params.yaml")
    config = dataclasses.replace(config, packages=given)
    asked.clear()
    collect.write(config, tmp_path / "raw", tmp_path / "work", runtime)
    assert asked == list(given)


@pytest.mark.parametrize("name", ["params.yaml", "presets/nano.yaml", "presets/300m.yaml"])
def test_the_corpus_depends_on_no_tool(name):
    packages = params.read(RawConfig, "raw", ROOT / name).packages
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = {re.split(r"[\[<>=]", line)[0] for line in project["optional-dependencies"]["dev"]}
    assert not {*packages} & (tools | TOOLS)
    pinned = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert {f"{package}=={version}" for package, version in packages.items()} <= {*pinned}
