"""Conversations are fetched from a hub on loopback: whole, resumed, and the same by any workers."""

import io
import json
import multiprocessing
import os
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
from helpers.hub_server import Fault, Repository
from test_hub import Reader, serve

from antimatter.chat import hub_conversations
from antimatter.chat.config import ConversationHub
from antimatter.chat.template import Message
from antimatter.tasks.config import EngineRuntime

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
    train = {f"data/train-{n}-of-3.parquet": parquet(held) for n, held in rows.items()}
    return Repository(TALK.revision, {"README.md": CARD.encode(), **train})


def called() -> Repository:
    """JSON, whose rows differ in their keys, and of which some are no conversations."""
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
def server() -> Iterator[hub_server.Hub]:
    with hub_server.running({TALK.name: talk(), CALLED.name: called()}) as server:
        yield server


@pytest.fixture(scope="module")
def reader(server: hub_server.Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A process that fetches: the hub's address is read once, at import."""
    home = tmp_path_factory.mktemp("home")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, home / "stderr"), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", server.url)
        patch.setenv("HF_HOME", str(home))
        process.start()
    theirs.close()
    yield Reader(process, ours, home / "stderr")
    ours.close()
    process.join()


def fetched(
    folder: Path,
    runtime: EngineRuntime,
    *data_sets: ConversationHub,
    lanes: int = 16,
) -> list[list[Path]]:
    hub_conversations.LANES, hub_conversations.FILE_MB = lanes, 0.005
    return hub_conversations.fetch(data_sets, folder, runtime)


class Calls:
    """Fetches in a process of its own."""

    def __init__(self, server: hub_server.Hub, reader: Reader, runtime: EngineRuntime) -> None:
        self.server, self.reader, self.runtime = server, reader, runtime

    def __call__(self, folder: Path, *data_sets: ConversationHub, **options: Any) -> Any:
        self.server.requests.clear()
        self.reader.ask(partial(fetched, **options), folder, self.runtime, *data_sets)
        return self.reader.answer()


@pytest.fixture
def fetch(server: hub_server.Hub, reader: Reader, runtime: EngineRuntime) -> Iterator[Calls]:
    yield Calls(server, reader, runtime)
    server.faults.clear()


def contents(paths: list[Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


def test_every_conversation_comes_once_and_in_order(fetch: Calls, tmp_path: Path) -> None:
    (paths,) = fetch(tmp_path, TALK)
    assert len(paths) > 3
    dropped = Counter[str]()
    found = list(hub_conversations.read(paths, dropped))
    expected = [messages(file, row) for file in range(3) for row in range(ROWS)]
    said = [[{"content": m.text, "role": m.role} for m in one.messages] for one in found]
    assert said == expected and not dropped
    assert len({one.id for one in found}) == 3 * ROWS
    assert found[-1].id == f"owner/talk/default/train/2:{ROWS}"
    sources = {(one.source, one.kind, one.licence) for one in found}
    assert sources == {("owner/talk", "open", "apache-2.0")}


def test_what_is_fetched_is_not_fetched_again(fetch: Calls, tmp_path: Path) -> None:
    (whole,) = fetch(tmp_path / "whole", TALK, lanes=1)
    expected = contents(whole)
    fetch.server.faults = [Fault("GET /cdn/.*train-1", 1, status=403)]
    with pytest.raises(OSError, match=r"^conversations\.hub: the hub refuses .*train-1-of-3"):
        fetch(tmp_path / "part", TALK, lanes=1)
    begun = {path.name: path.stat().st_ino for path in tmp_path.glob("part/*/*.parquet")}
    assert 0 < len(begun) < len(expected)
    (resumed,) = fetch(tmp_path / "part", TALK, lanes=1)
    assert contents(resumed) == expected
    assert begun.items() <= {path.name: path.stat().st_ino for path in resumed}.items()
    # Another weight is another use of the same rows
    assert fetch(tmp_path / "part", replace(TALK, weight=2.0), lanes=1) == [resumed]
    assert not fetch.server.requests


def test_each_lane_gives_its_share_of_the_most(fetch: Calls, tmp_path: Path) -> None:
    few, many = replace(TALK, most=5), replace(TALK, name="owner/many", most=1000)
    fetch.server.repositories[many.name] = talk()
    of_few, of_many = fetch(tmp_path, few, many)
    ids = [one.id for one in hub_conversations.read(of_few, Counter())]
    assert [name.rpartition("/")[2] for name in ids] == ["0:1", "1:1", "1:2", "2:1", "2:2"]
    assert sum(pq.read_table(path).num_rows for path in of_many) == 3 * ROWS
    assert fetch.reader.said.startswith("conversations: owner/many gave 180 of the 1,000 ")


def test_what_is_no_conversation_is_counted_by_its_reason(fetch: Calls, tmp_path: Path) -> None:
    ((path,),) = fetch(tmp_path, CALLED)
    dropped = Counter[str]()
    (found,) = hub_conversations.read([path], dropped)
    texts = [message["content"] for message in messages(0, 0)]
    assert found.messages == (Message("user", texts[0]), Message("assistant", texts[1]))
    assert dropped == {
        "its last message is the user's, without an answer": 1,
        "message has the role 'tool'": 1,
        "message (assistant) is empty": 2,
    }
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 4), path)
    with pytest.raises(ValueError, match=r"none of 4 rows of owner/called is a con.*set column"):
        list(hub_conversations.read([path], dropped))


def test_a_data_set_without_rows_is_an_error(fetch: Calls, tmp_path: Path) -> None:
    empty = json.dumps([]).encode()
    fetch.server.repositories["owner/empty"] = Repository(TALK.revision, {"train.json": empty})
    with pytest.raises(ValueError, match=r"owner/empty holds no row: set split"):
        fetch(tmp_path, replace(TALK, name="owner/empty"))


def test_a_fault_that_passes_is_told_as_one_of_this_stage(fetch: Calls, tmp_path: Path) -> None:
    fetch.server.faults = [Fault("GET /cdn/", 1, status=503)]
    fetch(tmp_path, TALK)
    asked = "owner/talk/data/train-0-of-3.parquet"
    said = f"conversations: {asked}: HTTP 503 Service Unavailable; try 2 of 20"
    assert fetch.reader.said.startswith(said)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"column": "talk"}, "has no column `talk`: set column to one of messages, source"),
        ({"column": "source"}, "column `source` holds string, which is no list of messages: set c"),
        ({"split": "test"}, "has no split test: set split to one of train"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    fetch: Calls,
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(ValueError, match=rf"^conversations\.hub: owner/talk:? {words}") as caught:
        fetch(tmp_path, replace(TALK, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "talk"}, "name must be owner/name .* got 'talk'"),
        ({"revision": "main"}, "revision of owner/talk must be a whole commit.* got 'main'"),
        ({"column": ""}, "column of owner/talk must not be empty"),
        ({"licence": ""}, "licence of owner/talk must not be empty"),
        ({"weight": 0.0}, "weight of owner/talk must exceed 0, got 0"),
        ({"most": -1}, "most of owner/talk must be 0, for all, or more; got -1"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TALK, **change)


def test_a_data_set_is_named_once(tmp_path: Path, runtime: EngineRuntime) -> None:
    with pytest.raises(ValueError, match=r"hub names owner/talk, default, train twice"):
        hub_conversations.fetch([TALK, replace(TALK, weight=2.0)], tmp_path, runtime)
