import json

import numpy as np
import pytest

from antimatter import files
from antimatter.data import inspection
from antimatter.data.shards.reader import DOCUMENT, DOCUMENTS, SPLITS, Shards
from antimatter.data.special_tokens import BOS, EOS
from antimatter.report import data


class Letters:
    """Stands for a tokenizer: the letter of each id, nothing for the special ones."""

    def decode(self, ids):
        return "".join(chr(ord("a") + i) for i in ids if i > EOS)


@pytest.fixture
def shards(tmp_path):
    """Three documents to train on in two files, one to validate, written by hand."""
    documents = {
        "train": [[[BOS, 3, 4, EOS, BOS, 5, EOS]], [[BOS, 6, 6, 6, EOS]]],
        "validation": [[[BOS, 7, EOS]]],
    }
    splits, counts = {}, np.zeros(10, np.uint64)
    for split in SPLITS:
        entries = []
        for number, rows in enumerate(documents[split]):
            path = tmp_path / f"{split}-{number:05d}.npy"
            ids = np.array(rows[0], np.uint16)
            np.save(path, ids)
            entries.append(
                {
                    "name": path.name,
                    "tokens": len(ids),
                    "documents": rows[0].count(BOS),
                    "sha256": files.sha256(path),
                }
            )
            counts += np.bincount(ids, minlength=10).astype(np.uint64) * (split == "train")
        totals = {key: sum(entry[key] for entry in entries) for key in ("tokens", "documents")}
        splits[split] = {**totals, "bytes": 7, "files": entries}
    np.save(tmp_path / "token_counts.npy", counts)
    np.save(tmp_path / DOCUMENTS, np.array([(0, 7)], DOCUMENT))
    known = {"name": DOCUMENTS, "sha256": files.sha256(tmp_path / DOCUMENTS), "sources": ["tests"]}
    files.write_json(
        tmp_path / "index.json",
        {"vocab_size": 10, "bos": BOS, "eos": EOS, "splits": splits, "documents": known},
    )
    return tmp_path


def test_whole_shards_are_told_to_be_whole(shards):
    train, validation = inspection.verify(shards)
    assert train.startswith("train: 12 tokens, 3 documents") and validation.startswith(
        "validation: 3 tokens, 1 documents"
    )


def rewrite(path, ids, folder):
    """Other tokens under a checksum that fits."""
    np.save(path, np.array(ids, np.uint16))
    index = files.read_json(folder / "index.json")
    for entry in index["splits"]["train"]["files"]:
        if entry["name"] == path.name:
            entry["sha256"] = files.sha256(path)
    files.write_json(folder / "index.json", index)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (
            [BOS, 6, 6, 11, EOS],
            r"train-00001\.npy is damaged \(it holds the id 11, the vocabulary has 10\)",
        ),
        (
            [BOS, 6, EOS, BOS, EOS],
            r"train-00001\.npy is damaged \(the index says 1 documents, it has 2 beginnings and 2 ends\)",
        ),
        ([BOS, 6, 6, 9, EOS], r"token_counts\.npy is damaged \(train has other counts\)"),
    ],
)
def test_damage_is_named(shards, ids, words):
    rewrite(shards / "train-00001.npy", ids, shards)
    with pytest.raises(ValueError, match=words + ".*dvc repro shards"):
        list(inspection.verify(shards))


def test_documents_that_do_not_add_up_are_found(shards):
    index = files.read_json(shards / "index.json")
    np.save(shards / DOCUMENTS, np.array([(0, 8)], DOCUMENT))
    with pytest.raises(
        ValueError, match=r"validation_documents\.npy is damaged \(its sha256 is not"
    ):
        list(inspection.verify(shards))
    index["documents"]["sha256"] = files.sha256(shards / DOCUMENTS)
    files.write_json(shards / "index.json", index)
    with pytest.raises(
        ValueError,
        match=r"validation_documents\.npy is damaged \(the index says 7 bytes of text, it has 8\)",
    ):
        list(inspection.verify(shards))


def test_a_changed_bit_is_found(shards):
    content = bytearray((shards / "train-00001.npy").read_bytes())
    content[-4] ^= 1
    (shards / "train-00001.npy").write_bytes(content)
    with pytest.raises(ValueError, match="its sha256 is not"):
        list(inspection.verify(shards))


def test_excerpts_are_whole_documents_and_the_same_for_the_same_seed(shards):
    texts = [text.split("\n")[-1] for text in inspection.excerpts(shards, Letters(), 40, seed=1)]
    assert set(texts[:40]) == {"de", "f", "ggg"} and set(texts[40:]) == {"h"}
    assert list(inspection.excerpts(shards, Letters(), 3, seed=1)) == list(
        inspection.excerpts(shards, Letters(), 3, seed=1)
    )
    assert len(list(Shards(shards).documents("train"))) == 3


def test_examples_are_shown_by_reason(tmp_path):
    rows = [
        {"reason": "language", "id": f"a/{n}", "source": "web", "text": f"Guten Tag {n}"}
        for n in range(3)
    ]
    rows.append(
        {
            "reason": "near_duplicate",
            "id": "b",
            "source": "web",
            "text": "one",
            "repeats": "c",
            "repeated_text": "two",
        }
    )
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [text.count("Guten Tag") for text in inspection.dropped(tmp_path, "language", 2)] == [
        1,
        1,
    ]
    assert "\n".join(inspection.dropped(tmp_path, "near_duplicate", 5)).endswith(
        "--- b, from web\none\n--- repeats c\ntwo"
    )
    with pytest.raises(
        ValueError,
        match=r"nothing was dropped for 'langauge': the reasons are language, near_duplicate",
    ):
        list(inspection.dropped(tmp_path, "langauge", 1))
    with pytest.raises(FileNotFoundError, match=r"dvc repro cleaned"):
        list(inspection.dropped(tmp_path / "absent", "language", 1))


def test_the_table_of_reasons_adds_up(tmp_path):
    report = {
        "documents_in": 4,
        "documents_out": 2,
        "bytes_in": 1000,
        "bytes_out": 600,
        "bytes_trimmed": 100,
    }
    files.write_json(
        tmp_path / "cleaned.json",
        {**report, "dropped": {"language": 2}, "dropped_bytes": {"language": 300}},
    )
    lines = list(inspection.reasons(tmp_path / "cleaned.json"))
    assert [line.split()[-1] for line in lines[1:4]] == ["60.0%", "10.0%", "30.0%"]
    assert len(lines) == 5
    turns = {"turns_in": 8, "turns_changed": 6, "turns_dropped": {"biography": 2}}
    files.write_json(
        tmp_path / "cleaned.json", {**files.read_json(tmp_path / "cleaned.json"), **turns}
    )
    more = list(inspection.reasons(tmp_path / "cleaned.json"))
    assert more[:5] == lines
    assert [line.split()[-2:] for line in more[6:]] == [
        ["8", "100.0%"],
        ["6", "75.0%"],
        ["2", "25.0%"],
    ]


def test_token_frequencies_fall_with_the_rank():
    counts = np.array([0, 5, 100, 1, 7, 7])
    assert list(data.zipf(counts)) == [(1, 100), (2, 7), (3, 7), (4, 5), (5, 1)]


def test_examples_of_web_text_are_shown_whatever_ends_their_lines(tmp_path):
    """U+2028, U+2029, U+0085 and others end a line for str.splitlines(), and none in a file of JSON lines."""
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"
    examples = [
        {"reason": reason, "id": "1", "source": "web", "text": text} for reason in ("short", "long")
    ]
    (tmp_path / "examples.jsonl").write_text(
        "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
    )
    assert list(inspection.dropped(tmp_path, "short", 5)) == [f"\n--- 1, from web\n{text}"]
