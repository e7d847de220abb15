"""What `antimatter inspect` shows: drop reasons with examples, and the state of the shards."""

import json

import numpy as np
import pytest

from antimatter import files
from antimatter.data import inspection
from antimatter.data.shards import frequencies
from antimatter.data.shards.reader import DOCUMENT, DOCUMENTS, SPLITS
from antimatter.data.special_tokens import BOS, EOS
from antimatter.errors import UserError


class Letters:
    """A tokenizer that decodes each id to a letter, and the special ones to nothing."""

    def decode(self, ids):
        return "".join(chr(ord("a") + i) for i in ids if i > EOS)


@pytest.fixture
def shards(tmp_path):
    """Three documents to train on in two files, one to validate, written by hand."""
    tokens = {
        "train": [[BOS, 3, 4, EOS, BOS, 5, EOS], [BOS, 6, 6, 6, EOS]],
        "validation": [[BOS, 7, EOS]],
    }
    splits = {}
    for split in SPLITS:
        entries = []
        for number, ids in enumerate(tokens[split]):
            path = tmp_path / f"{split}-{number:05d}.npy"
            np.save(path, np.array(ids, np.uint16))
            entry = {"name": path.name, "tokens": len(ids), "documents": ids.count(BOS)}
            entries.append(entry | {"sha256": files.sha256(path)})
        totals = {key: sum(entry[key] for entry in entries) for key in ("tokens", "documents")}
        splits[split] = {**totals, "bytes": 7, "files": entries}
    counts = np.bincount(np.concatenate(tokens["train"]), minlength=10)
    np.save(tmp_path / "token_counts.npy", counts.astype(np.uint64))
    np.save(tmp_path / DOCUMENTS, np.array([(0, 7)], DOCUMENT))
    digest = files.sha256(tmp_path / DOCUMENTS)
    documents = {"name": DOCUMENTS, "sha256": digest, "sources": ["tests"]}
    index = {"vocab_size": 10, "bos": BOS, "eos": EOS, "splits": splits, "documents": documents}
    files.write_json(tmp_path / "index.json", index)
    return tmp_path


def test_intact_shards_are_reported_with_their_size(shards):
    train, validation = inspection.verify(shards)
    assert train.startswith("train: 12 tokens, 3 documents")
    assert validation.startswith("validation: 3 tokens, 1 document, ")


def rewrite(path, ids, folder):
    """Writes other tokens, with their checksum in the index."""
    np.save(path, np.array(ids, np.uint16))
    index = files.read_json(folder / "index.json")
    for entry in index["splits"]["train"]["files"]:
        if entry["name"] == path.name:
            entry["sha256"] = files.sha256(path)
    files.write_json(folder / "index.json", index)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([BOS, 6, 6, 11, EOS], r"train-00001\.npy .* 11, .* 10\)"),
        ([BOS, 6, EOS, BOS, EOS], r"train-00001\.npy .* 1 document.* 2\)"),
        ([6, BOS, 6, 6, EOS], r"train-00001\.npy .* 1 document"),
        ([BOS, 6, 6, 9, EOS], r"token_counts\.npy .*train"),
    ],
)
def test_damage_is_named(shards, ids, found):
    rewrite(shards / "train-00001.npy", ids, shards)
    with pytest.raises(UserError, match=f"{found}.*`dvc repro shards`"):
        list(inspection.verify(shards))


def test_wrong_totals_are_found(shards):
    index = files.read_json(shards / "index.json")
    index["splits"]["train"]["documents"] = 4
    files.write_json(shards / "index.json", index)
    with pytest.raises(UserError, match=r"index\.json .*train has 12 tokens in 3 documents"):
        list(inspection.verify(shards))


def test_documents_that_do_not_add_up_are_found(shards):
    index = files.read_json(shards / "index.json")
    np.save(shards / DOCUMENTS, np.array([(0, 8)], DOCUMENT))
    with pytest.raises(UserError, match=r"validation_documents\.npy .*sha256"):
        list(inspection.verify(shards))
    index["documents"]["sha256"] = files.sha256(shards / DOCUMENTS)
    files.write_json(shards / "index.json", index)
    with pytest.raises(UserError, match=r"validation_documents\.npy .* 7 bytes .* 8\)"):
        list(inspection.verify(shards))


def test_a_changed_bit_is_found(shards):
    content = bytearray((shards / "train-00001.npy").read_bytes())
    content[-4] ^= 1
    (shards / "train-00001.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"train-00001\.npy .*sha256"):
        list(inspection.verify(shards))


def test_excerpts_are_whole_documents_and_the_same_for_the_same_seed(shards):
    def excerpts(seed):
        return list(inspection.excerpts(shards, Letters(), 40, seed))

    texts = [text.split("\n")[-1] for text in excerpts(1)]
    assert set(texts[:40]) == {"de", "f", "ggg"} and set(texts[40:]) == {"h"}
    assert excerpts(1) == excerpts(1) != excerpts(2)


def example(reason, id, text, **more):
    return {"reason": reason, "id": id, "source": "web", "text": text, **more}


def write_examples(folder, *examples):
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in examples)
    (folder / "examples.jsonl").write_text("".join(lines), encoding="utf-8")


def test_examples_are_shown_by_reason(tmp_path):
    german = [example("language", f"a/{n}", f"Guten Tag {n}") for n in range(3)]
    copy = example("near_duplicate", "b", "one", repeats="c", repeated_text="two")
    write_examples(tmp_path, *german, copy)
    assert list(inspection.dropped(tmp_path, "language", 2)) == [
        "\n--- a/0, from web\nGuten Tag 0",
        "\n--- a/1, from web\nGuten Tag 1",
    ]
    one, other = inspection.dropped(tmp_path, "near_duplicate", 5)
    assert one == "\n--- b, from web\none"
    assert other.startswith("--- ") and other.endswith(" c\ntwo")
    with pytest.raises(UserError, match=r"'langauge': .*language, near_duplicate"):
        list(inspection.dropped(tmp_path, "langauge", 1))
    with pytest.raises(UserError, match=r"examples\.jsonl .*`dvc repro cleaned`"):
        list(inspection.dropped(tmp_path / "absent", "language", 1))
    for damage in ('{"reason": ', "null", "[]", "{}", '{"reason": []}'):
        (tmp_path / "examples.jsonl").write_text(damage)
        with pytest.raises(UserError, match=r"examples\.jsonl .*`dvc checkout"):
            list(inspection.dropped(tmp_path, "language", 1))


def test_the_table_of_reasons_adds_up(tmp_path):
    report = {"documents_in": 4, "documents_out": 2}
    report |= {"bytes_in": 1000, "bytes_out": 600, "bytes_trimmed": 100}
    report |= {"dropped": {"language": 2}, "dropped_bytes": {"language": 300}}
    path = tmp_path / "summary.json"
    files.write_json(path, report)
    lines = list(inspection.reasons(path))
    assert [line.split()[-1] for line in lines[1:4]] == ["60.0%", "10.0%", "30.0%"]
    assert len(lines) == 5
    turns = {"turns_in": 8, "turns_changed": 6, "turns_dropped": {"biography": 2}}
    files.write_json(path, report | turns)
    more = list(inspection.reasons(path))
    assert more[:5] == lines
    shares = [line.split()[-2:] for line in more[6:]]
    assert shares == [["8", "100.0%"], ["6", "75.0%"], ["2", "25.0%"]]


def test_token_frequencies_fall_with_the_rank():
    counts = np.array([0, 5, 100, 1, 7, 7])
    assert list(frequencies.by_rank(counts)) == [(1, 100), (2, 7), (3, 7), (4, 5), (5, 1)]


def test_examples_may_hold_any_line_separator(tmp_path):
    """U+2028, U+2029, U+0085 and others end a line for str.splitlines(), but not in JSON lines."""
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"
    write_examples(tmp_path, example("short", "1", text), example("long", "1", text))
    assert list(inspection.dropped(tmp_path, "short", 5)) == [f"\n--- 1, from web\n{text}"]
