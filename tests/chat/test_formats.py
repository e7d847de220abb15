"""Conversations in files: each shape and packing gives the same messages, each fault one line."""

import gzip
import io
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import own_texts

from antimatter.chat import formats
from antimatter.chat.config import ConversationFiles
from antimatter.chat.conversation import Conversation
from antimatter.chat.template import Message
from antimatter.data.sources import encodings, json_rows
from antimatter.errors import UserError

KEY = "conversations.files"
TURNS = (Message("user", "Naïve?\nYes"), Message("assistant", 'A "quote" \\ 日本語'))
ASKED, ANSWERED = (message.text for message in TURNS)
SYSTEM = Message("system", "Be short.")


def openai(*messages: Message) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def sharegpt(*roles: str) -> list[dict[str, str]]:
    texts = (ASKED, ANSWERED) if len(roles) == 2 else (SYSTEM.text, ASKED, ANSWERED)
    return [{"from": role, "value": text} for role, text in zip(roles, texts, strict=True)]


SHAPES: dict[str, tuple[dict[str, Any], tuple[Message, ...]]] = {
    "openai": ({"messages": openai(SYSTEM, *TURNS, *TURNS)}, (SYSTEM, *TURNS, *TURNS)),
    "parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
                {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
            ]
        },
        (Message("user", "a\nb"), Message("assistant", "c")),
    ),
    "sharegpt": ({"conversations": sharegpt("system", "human", "gpt")}, (SYSTEM, *TURNS)),
    "sharegpt, other roles": ({"conversations": sharegpt("user", "Assistant")}, TURNS),
    "sharegpt, old": (
        {"items": sharegpt("human", "model"), "system": SYSTEM.text},
        (SYSTEM, *TURNS),
    ),
    "alpaca": ({"instruction": ASKED, "input": "", "output": ANSWERED, "system": None}, TURNS),
    "alpaca, input": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be short."},
        (SYSTEM, Message("user", "Add.\n\n1, 2"), Message("assistant", "3")),
    ),
    "completion": ({"prompt": ASKED, "completion": ANSWERED}, TURNS),
    "completion, messages": (
        {"prompt": openai(SYSTEM, *TURNS, TURNS[0]), "completion": openai(TURNS[1])},
        (SYSTEM, *TURNS, *TURNS),
    ),
    "response": ({"prompt": ASKED, "response": ANSWERED}, TURNS),
    "answer": ({"question": ASKED, "answer": ANSWERED}, TURNS),
}


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows: list[Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def parquet(rows: list[Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


PACKINGS: dict[str, Callable[[list[Any]], bytes]] = {
    "a.jsonl": lines,
    "a.jsonl.zst": lambda rows: zstd(lines(rows)),
    "a.json": array,
    "b.json": lines,
    "c.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "d.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "e.json": lambda rows: json.dumps(rows).encode("utf-16"),
    "a.zip": lambda rows: own_texts.archive({"a.jsonl": lines(rows)}),
    "a.json.gz": lambda rows: gzip.compress(array(rows)),
    "a.parquet": parquet,
}


def read(path: Path) -> list[Conversation]:
    return list(formats.read(ConversationFiles(pattern=str(path), licence="MIT", weight=1.0), KEY))


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_in_each_packing_is_the_same_conversation(tmp_path: Path, shape: str) -> None:
    row, messages = SHAPES[shape]
    rows = [row | {"id": number, "score": 0.5} for number in (1, 2)]
    for name, pack in PACKINGS.items():
        path = tmp_path / name
        path.write_bytes(pack(rows))
        first, second = read(path)
        assert first == Conversation(f"{path}:1", str(path), "open", messages, "MIT"), name
        assert (second.id, second.messages) == (f"{path}:2", messages)


def test_rows_of_one_file_may_have_different_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([row for row, _ in SHAPES.values()]).replace(b"\n", b"\n\n", 1))
    conversations = read(path)
    assert [one.messages for one in conversations] == [messages for _, messages in SHAPES.values()]
    assert [one.id.rpartition(":")[2] for one in conversations[:2]] == ["1", "3"]  # lines, not rows


def test_the_files_of_a_pattern_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(lines([{"prompt": name, "completion": "x"}]))
    conversations = read(tmp_path / "*.jsonl")
    assert [one.messages[0].text for one in conversations] == ["a.jsonl", "b.jsonl"]
    assert {one.source for one in conversations} == {str(tmp_path / "*.jsonl")}


@pytest.mark.parametrize("start", ["", "["])
def test_a_text_of_windows_is_that_of_linux(tmp_path: Path, start: str) -> None:
    row = r'{"prompt": " \ufeffone\r\ntwo \r\n", "completion": "half \ud83d, whole \ud83d\ude00"}'
    end = "]" if start else ""
    (tmp_path / "a.json").write_bytes(f"\ufeff{start}{row}{end}\r\n".encode())
    ((asked, answered),) = (one.messages for one in read(tmp_path / "a.json"))
    assert (asked.text, answered.text) == ("\ufeffone\ntwo", "half ?, whole 😀")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_an_array_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    values: list[Any] = [row for row, _ in SHAPES.values()]
    values += [{"n": [-1.5e-3, True, None, "\\", '"', "\ud83d\ude00", {}]}, "]", [[]]]
    for text in (json.dumps(values), json.dumps(values, indent=2, ensure_ascii=False) + "\n", "[]"):
        expected = json.loads(text)
        assert list(json_rows.elements(io.StringIO(text))) == expected
    whole = json.dumps([{"a": [1, "b"]}, {}])
    for end in range(1, len(whole)):
        with pytest.raises(json.JSONDecodeError):
            list(json_rows.elements(io.StringIO(whole[:end])))


@pytest.mark.parametrize("pack", [lines, array])
def test_a_file_is_not_held_in_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pack: Callable[[list[Any]], bytes],
) -> None:
    for module in (json_rows, encodings):
        monkeypatch.setattr(module, "CHUNK", 10_000)
    path = tmp_path / "a.json"
    path.write_bytes(pack([{"prompt": "x" * 40_000, "completion": "y"}] * 50))
    config = ConversationFiles(pattern=str(path), licence="MIT", weight=1.0)
    tracemalloc.start()
    try:
        assert sum(1 for _ in formats.read(config, KEY)) == 50
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


GOOD = {"prompt": "good", "completion": "good"}
USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
IMAGE = {"role": "user", "content": [{"type": "image_url"}]}
FILES: dict[str, tuple[str, bytes, str]] = {
    "ending": ("a.docx", b"", r" has an unknown ending: .*\.jsonl.*\.parquet"),
    "text": ("a.txt", b"a", " has an unknown ending"),
    "empty": ("a.jsonl", b"\n", r" holds no conversation: .*conversations\.files"),
    "empty array": ("a.json", b"[ ]", " holds no conversation"),
    "empty table": ("a.parquet", parquet([]), " holds no conversation"),
    "torn line": ("a.jsonl", lines([GOOD]) + b"{", ", line 2 is not JSON"),
    "torn array": ("a.json", array([GOOD])[:-1], ", row 2 is not JSON"),
    "no comma": ("a.json", b'[{"prompt": "a", "response": "b"} {', ", row 2 is not JSON"),
    "bad element": ("a.json", array([GOOD])[:-1] + b",{a" + b" " * 99, ", row 2 is not JSON"),
    "rubbish": ("a.jsonl", bytes(range(128, 256)), " is not text"),
    "zeros": ("a.json", b"\0" * 50, " is not text"),
    "gzip": ("a.jsonl.gz", b"no gzip", " cannot be read"),
    "parquet": ("a.parquet", b"no parquet", " cannot be read"),
    "no object": ("a.json", b"[5]", ", row 1: 5 is not an object"),
    "shape": ("a.jsonl", lines([GOOD, {"a": 1, "b": 2}]), ", line 2: its keys are a, b; known"),
    "columns": ("a.parquet", parquet([{"a": 1, "prompt": "b"}]), ", row 1: its keys are a, prompt"),
}
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "no list": ({"messages": "hello"}, "`messages` must be a list of messages, got 'hello'"),
    "no message": ({"items": ["hello"]}, "message 1 must have role and content.*got 'hello'"),
    "no text": ({"prompt": 7, "completion": "a"}, "`prompt` must be text, got 7"),
    "image": ({"messages": [IMAGE, BOT]}, "message 1 .user. has a part that is no .*'image_url'"),
    "tool": ({"messages": [USER, BOT | {"role": "tool"}]}, "message 2 has the role 'tool'"),
    "function": ({"conversations": sharegpt("human", "function_call")}, "role 'function_call'"),
    "call": ({"messages": [USER, BOT | {"tool_calls": [{}]}]}, "message 2 calls a tool .`tool_ca"),
    "order": ({"messages": [USER, USER, BOT]}, "message 2 is the user's where the assistant's"),
    "answer first": ({"messages": [BOT, USER]}, "message 1 is the assistant's where the user's"),
    "two systems": ({"messages": openai(SYSTEM, *TURNS), "system": "b"}, "message 2 is the system"),
    "blank turn": ({"messages": [USER, BOT | {"content": " \r\n"}]}, "message 2 .assistant. is em"),
    "null": ({"question": "a", "answer": None}, "message 2 .assistant. is empty"),
    "user last": ({"messages": [USER, BOT, USER]}, "its last message is the user's"),
    "nothing": ({"messages": []}, "it holds no turn"),
}
SECOND = ", line 2: .*"
IN_ROWS = {name: ("a.jsonl", lines([GOOD, row]), SECOND + w) for name, (row, w) in ROWS.items()}
FAULTS = FILES | IN_ROWS


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_its_place(tmp_path: Path, fault: str) -> None:
    name, content, words = FAULTS[fault]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name))}{words}") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"conversations\.files: .*no\*\.jsonl matches no"):
        read(tmp_path / "no*.jsonl")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": 0.0}, "weight must .* 0, got 0"),
        ({"weight": float("nan")}, "weight must .* 0, got nan"),
        ({"licence": ""}, "licence must not be empty"),
        ({"pattern": ""}, "pattern must not be empty"),
    ],
)
def test_invalid_parameters_are_refused(change: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"pattern": "a", "licence": "MIT", "weight": 1.0}
    with pytest.raises(ValueError, match=words):
        ConversationFiles(**values | change)
