"""Conversations are fetched from a hub on loopback: complete, resumed, and the same with any number
of workers.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import hub_server
from helpers.hub_reader import Reader
from helpers.hub_server import Fault, Hub, Repository

from antimatter.chat import hub_conversations
from antimatter.chat.config import ConversationHub
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.tasks.config import TasksRuntime

ROWS = 60  # of each of three files
CARD = """---
dataset_info:
  features:
  - name: messages
    list:
    - {name: content, dtype: string}
    - {name: role, dtype: string}
  - {name: source, dtype: string}
---
"""
TALK = ConversationHub(
    name="owner/talk",
    config="default",
    split="train",
    revision="1" * 40,
    column="messages",
    licence="apache-2.0",
    weight=1.0,
    most=0,
)
CALLED = replace(TALK, name="owner/called")


def messages(file: int, row: int) -> list[dict[str, str]]:
    texts = (f"Is this {row} of {file}?", " ".join(f"{file * row + n:x}" for n in range(60)))
    roles = ("user", "assistant")
    return [{"content": text, "role": role} for text, role in zip(texts, roles, strict=True)]


def parquet(rows: list[list[dict[str, str]]]) -> bytes:
    out = io.BytesIO()
    table = pa.table({"messages": rows, "source": ["made"] * len(rows)})
    pq.write_table(table, out, row_group_size=20, compression="none")
    return out.getvalue()


def talk() -> Repository:
    rows = {file: [messages(file, row) for row in range(ROWS)] for file in range(3)}
    train = {f"data/train-{file}-of-3.parquet": parquet(rows[file]) for file in rows}
    return Repository(TALK.revision, {"README.md": CARD.encode(), **train})


def called() -> Repository:
    """JSON, whose rows differ in their keys, and of which some are not conversations."""
    good = messages(0, 0)
    rows = [
        [*good, good[0]],
        [good[0], {"role": "tool", "content": "5"}],
        [good[0], {"role": "assistant", "content": " "}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}],
        [good[0] | {"name": "Ann"}, good[1]],
    ]
    lines = "".join(json.dumps({"messages": row, "n": 1}) + "\n" for row in rows)
    return Repository(TALK.revision, {"train.jsonl": lines.encode()})


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub_server.running({TALK.name: talk(), CALLED.name: called()}) as server:
        yield server


def fetch_small(
    folder: Path, runtime: TasksRuntime, *data_sets: ConversationHub, lanes: int = 16
) -> list[list[Path]]:
    hub_conversations.LANES, hub_conversations.FILE_MB = lanes, 0.005
    return hub_conversations.fetch(data_sets, folder, runtime)


class Fetch:
    """Fetches in the reader's process."""

    def __init__(self, server: Hub, reader: Reader, runtime: TasksRuntime) -> None:
        self.server, self.reader, self.runtime = server, reader, runtime

    def __call__(self, folder: Path, *data_sets: ConversationHub, **options: Any) -> Any:
        self.server.requests.clear()
        return self.reader(partial(fetch_small, **options), folder, self.runtime, *data_sets)


@pytest.fixture
def fetch(server: Hub, reader: Reader, runtime: TasksRuntime, no_faults: None) -> Fetch:
    return Fetch(server, reader, runtime)


def contents(paths: list[Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


def test_every_conversation_comes_once_and_in_order(fetch: Fetch, tmp_path: Path) -> None:
    (paths,) = fetch(tmp_path, TALK)
    assert len(paths) > 3
    dropped = Counter[str]()
    conversations = list(hub_conversations.read(paths, dropped))
    expected = [
        tuple(Message(one["role"], one["content"]) for one in messages(file, row))
        for file in range(3)
        for row in range(ROWS)
    ]
    assert [conversation.messages for conversation in conversations] == expected and not dropped
    assert len({conversation.id for conversation in conversations}) == 3 * ROWS
    assert conversations[-1].id == f"owner/talk/default/train/2:{ROWS}"
    sources = {(one.source, one.kind, one.licence) for one in conversations}
    assert sources == {("owner/talk", "open", "apache-2.0")}


def test_finished_files_are_not_fetched_again(fetch: Fetch, tmp_path: Path) -> None:
    (whole,) = fetch(tmp_path / "whole", TALK, lanes=1)
    expected = contents(whole)
    fetch.server.faults = [Fault("GET /cdn/.*train-1", 1, status=403)]
    with pytest.raises(UserError, match=r"^conversations\.hub: the hub refuses .*train-1-of-3"):
        fetch(tmp_path / "part", TALK, lanes=1)
    begun = {path.name: path.stat().st_ino for path in tmp_path.glob("part/*/*.parquet")}
    assert 0 < len(begun) < len(expected)
    (resumed,) = fetch(tmp_path / "part", TALK, lanes=1)
    assert contents(resumed) == expected
    assert begun.items() <= {path.name: path.stat().st_ino for path in resumed}.items()
    # Another weight is another use of the same rows
    assert fetch(tmp_path / "part", replace(TALK, weight=2.0), lanes=1) == [resumed]
    assert not fetch.server.requests


def test_each_lane_gives_its_share_of_the_most(fetch: Fetch, tmp_path: Path) -> None:
    few, many = replace(TALK, most=5), replace(TALK, name="owner/many", most=1000)
    fetch.server.repositories[many.name] = talk()
    paths_of_few, paths_of_many = fetch(tmp_path, few, many)
    ids = [one.id for one in hub_conversations.read(paths_of_few, Counter())]
    assert [name.rpartition("/")[2] for name in ids] == ["0:1", "1:1", "1:2", "2:1", "2:2"]
    assert sum(pq.read_table(path).num_rows for path in paths_of_many) == 3 * ROWS
    assert re.match("conversations: owner/many .* 180 of the 1,000 ", fetch.reader.output)


def test_other_rows_are_counted_by_their_reason(fetch: Fetch, tmp_path: Path) -> None:
    ((path,),) = fetch(tmp_path, CALLED)
    dropped = Counter[str]()
    (conversation,) = hub_conversations.read([path], dropped)
    texts = [message["content"] for message in messages(0, 0)]
    assert conversation.messages == (Message("user", texts[0]), Message("assistant", texts[1]))
    assert dropped == {
        "its last message is the user's, without an answer": 1,
        "message has the role 'tool'": 1,
        "message (assistant) is empty": 2,
    }
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 4), path)
    with pytest.raises(UserError, match=r"none of 4 rows of owner/called is a con.*set column"):
        list(hub_conversations.read([path], dropped))


def test_a_data_set_without_rows_is_an_error(fetch: Fetch, tmp_path: Path) -> None:
    empty = json.dumps([]).encode()
    fetch.server.repositories["owner/empty"] = Repository(TALK.revision, {"train.json": empty})
    with pytest.raises(UserError, match=r"owner/empty holds no row: set split"):
        fetch(tmp_path, replace(TALK, name="owner/empty"))


def test_a_temporary_fault_is_reported_with_this_stage(fetch: Fetch, tmp_path: Path) -> None:
    fetch.server.faults = [Fault("GET /cdn/", 1, status=503)]
    fetch(tmp_path, TALK)
    path = "owner/talk/data/train-0-of-3.parquet"
    line = f"conversations: {path}: HTTP 503 Service Unavailable; try 2 of 20"
    assert fetch.reader.output.startswith(line)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"column": "talk"}, "has no column `talk`: set column to one of messages, source"),
        ({"column": "source"}, "column `source` holds string, .* a list of messages: set column"),
        ({"split": "test"}, "has no split test: set split to one of train"),
    ],
)
def test_an_unknown_name_is_reported_with_the_known_ones(
    fetch: Fetch, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=rf"^conversations\.hub: owner/talk:? {words}") as caught:
        fetch(tmp_path, replace(TALK, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "talk"}, "name must be owner/name .* got 'talk'"),
        ({"revision": "main"}, "revision of owner/talk must be a whole commit.* got 'main'"),
        ({"column": ""}, "column of owner/talk must not be empty"),
        ({"licence": ""}, "licence of owner/talk must not be empty"),
        ({"weight": 0.0}, "weight must be above 0, got 0"),
        ({"most": -1}, "most must be at least 0, got -1"),
    ],
)
def test_bad_parameters_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(TALK, **change)


def test_a_data_set_is_named_once(tmp_path: Path, runtime: TasksRuntime) -> None:
    with pytest.raises(UserError, match=r"hub names owner/talk, default, train twice"):
        hub_conversations.fetch([TALK, replace(TALK, weight=2.0)], tmp_path, runtime)
