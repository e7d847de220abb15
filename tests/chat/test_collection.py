"""The conversations of all sources as rows: weights, the split, and equal bytes for any number of
workers.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import gguf_model

from antimatter import files
from antimatter.chat import collection, held_out
from antimatter.chat.collection import Weighted
from antimatter.chat.config import ConversationsConfig, PassagesConfig, PersonaConfig, WeightConfig
from antimatter.chat.conversation import Conversation
from antimatter.chat.persona import Persona
from antimatter.chat.template import Message
from antimatter.data.special_tokens import ASSISTANT, BEGINS, BOS, EOS, PAD, SYSTEM

CONTEXT = 128
CONFIG = ConversationsConfig(
    persona=PersonaConfig(file="who.yaml", per_topic=1, weight=1.0, facts={"kind": "a model"}),
    weights=WeightConfig(dialogues=1.0, questions=1.0, grounded=1.0),
    passages=PassagesConfig(weight=0.0, words=50, prompts=()),
    files=(),
    hub=(),
    system_share=0.5,
    held_out=0.2,
    max_similarity=0.5,
    seed=1,
)
WHO = Persona("Be kind.", "Hello!", ("a", "b", "c"), {}, (), {})
WORDS = (
    "red green blue warm cold tall short round flat quick slow loud soft old new bright dark"
).split()


def conversation(number: int, **changes: Any) -> Conversation:
    """Of words that no other has in this order."""
    random = np.random.default_rng(number)
    question, answer = (" ".join(random.choice(WORDS, 3)) for _ in range(2))
    messages = (Message("user", f"{question}?"), Message("assistant", f"{answer} {number}."))
    values = {
        "id": f"c/{number}",
        "source": "s",
        "kind": "open",
        "messages": messages,
        "licence": "mit",
    }
    return Conversation(**values | changes)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection") / "tokenizer"
    gguf_model.save_tokenizer(folder)
    return folder


def write(folder: Path, tokenizer: Path, *sources: Weighted, workers: int = 1) -> dict[str, Any]:
    return collection.write(sources, WHO, tokenizer, CONTEXT, CONFIG, folder, workers, {"a": "b"})


def rows(folder: Path, split: str) -> Iterator[list[int]]:
    for row in np.load(folder / f"{split}_tokens.npy"):
        yield [int(id) for id in row if id != PAD]


def test_any_number_of_workers_leaves_the_same_bytes(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "CHUNK", 7)
    reports = []
    for workers in (1, 2):
        source = Weighted([conversation(n) for n in range(60)], 1.0)
        reports.append(write(tmp_path / str(workers), tokenizer, source, workers=workers))
    assert reports[0] == reports[1]
    one, two = (sorted(path for path in (tmp_path / n).iterdir()) for n in ("1", "2"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    index = files.read_json(tmp_path / "1/index.json")
    for name, entry in index["files"].items():
        assert files.sha256(tmp_path / "1" / name) == entry["sha256"]


def test_a_weight_is_the_number_of_copies_of_a_conversation(
    tmp_path: Path, tokenizer: Path
) -> None:
    def source(weight: float) -> Weighted:
        name = str(weight)
        conversations = [
            conversation(n, source=name, id=f"{name}/{n}", held_out=n < 2) for n in range(200)
        ]
        return Weighted(conversations, weight)

    sources = map(source, (0.25, 1.0, 2.5))
    report = write(tmp_path / "out", tokenizer, *sources)["sources"]
    tokens = {w: report[w]["tokens"] for w in ("0.25", "1.0", "2.5")}
    assert tokens["0.25"] / tokens["1.0"] == pytest.approx(0.25, abs=0.1)
    assert tokens["2.5"] / tokens["1.0"] == pytest.approx(2.5, abs=0.2)
    answers = sum(row.count(ASSISTANT) for row in rows(tmp_path / "out", "train"))
    assert answers == pytest.approx(198 * 3.75, rel=0.1)


def test_a_group_and_what_is_alike_are_on_one_side(tmp_path: Path, tokenizer: Path) -> None:
    plain = [conversation(n, group=f"g{n // 2}") for n in range(100)]
    copies = [conversation(n, id=f"copy/{n}", group=f"other{n}") for n in range(20)]
    report = write(tmp_path / "out", tokenizer, Weighted([*plain, *copies], 1.0))
    unseen = held_out.read(tmp_path / "out" / held_out.NAME)
    sides: dict[str, set[bool]] = {}
    for one in [*plain, *copies]:
        is_unseen = one.id in {other.id for other in unseen}
        sides.setdefault(one.group, set()).add(is_unseen)
        sides.setdefault(" ".join(message.text for message in one.messages), set()).add(is_unseen)
    assert all(len(side) == 1 for side in sides.values())
    assert report["look_alikes"] > 0


def test_half_of_the_training_begins_with_the_system_text_and_nothing_held_out_does(
    tmp_path: Path, tokenizer: Path
) -> None:
    write(tmp_path / "out", tokenizer, Weighted([conversation(n) for n in range(200)], 1.0))
    ids = [id for row in rows(tmp_path / "out", "train") for id in row]
    arrays = (
        np.load(tmp_path / "out" / f"train_{name}.npy").ravel() for name in ("tokens", "marks")
    )
    # Whether the opening that each conversation shares has a system text
    with_system, has_one = [], False
    for id, mark in zip(*arrays, strict=True):
        has_one = id == SYSTEM or (has_one and id != BOS)
        with_system += [has_one] if mark & BEGINS else []
    assert len(with_system) == ids.count(ASSISTANT)
    assert np.mean(with_system) == pytest.approx(0.5, abs=0.1)
    assert SYSTEM not in [id for row in rows(tmp_path / "out", "held_out") for id in row]
    assert ids.count(EOS) == ids.count(ASSISTANT)


def test_every_conversation_is_listed_with_its_source_and_licence(
    tmp_path: Path, tokenizer: Path
) -> None:
    conversations = [conversation(n, licence=f"l{n}") for n in range(30)]
    write(tmp_path / "out", tokenizer, Weighted(conversations, 1.0))
    listed = pq.read_table(tmp_path / "out" / collection.TABLE).to_pylist()
    expected = [(one.id, one.licence) for one in conversations]
    assert [(row["id"], row["licence"]) for row in listed] == expected
    first = {"role": "user", "content": conversations[0].messages[0].text}
    assert json.loads(listed[0]["messages"])[0] == first


def test_what_is_too_long_is_counted_and_what_is_no_conversation_is_named(
    tmp_path: Path, tokenizer: Path
) -> None:
    long = (Message("user", "red " * 150), Message("assistant", "yes"))
    conversations = [*(conversation(n) for n in range(30)), conversation(99, messages=long)]
    report = write(tmp_path / "out", tokenizer, Weighted(conversations, 1.0))
    assert report["sources"]["s"]["too_long"] == 1
    silent = conversation(98, messages=(Message("user", "hi"), Message("assistant", " ")))
    with pytest.raises(ValueError, match=r"c/98 of s: message 2 \(assistant\) is empty"):
        write(tmp_path / "other", tokenizer, Weighted([silent], 1.0))
    with pytest.raises(ValueError, match="no conversation is held out"):
        write(tmp_path / "third", tokenizer, Weighted([conversation(1, held_out=False)], 1.0))
