from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antimatter.chat.template import Message, tokens
from antimatter.data import tokenizer as tok
from antimatter.data.cleaning import duplicates
from antimatter.data.cleaning.config import NearDuplicatesConfig
from antimatter.data.documents import SEPARATOR
from antimatter.data.shards import writer
from antimatter.data.shards.config import ShardsConfig
from antimatter.data.shards.reader import DOCUMENTS, SPLITS, Shards
from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.data.tokenizer_config import TokenizerConfig

CONFIG = ShardsConfig(tokens_per_file=500, validation_fraction=0.2, max_similarity=1.0, seed=0)
NEAR = NearDuplicatesConfig(enabled=True, ngram=5, bands=20, rows=6, seed=1)
TEXTS = [
    f"Document number {n} says [EOS] and then some more, {'again ' * (n % 7)}until it ends."
    for n in range(60)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    tok.train(
        corpus(root / "cleaned", TEXTS),
        root / "tokenizer",
        TokenizerConfig(vocab_size=280, train_mb=1),
        workers=1,
    )
    return root / "tokenizer"


def corpus(folder, documents, kind="text"):
    folder.mkdir()
    half = len(documents) // 2
    for number, part in enumerate((documents[:half], documents[half:])):
        sketches, sources = [sketch(text) for text in part], [source_of(text) for text in part]
        ids = [f"{number}/{i}" for i in range(len(part))]
        columns = {"id": ids, "source": sources, "text": part, "sketch": sketches}
        pq.write_table(
            pa.table({**columns, "kind": [kind] * len(part)}), folder / f"{number:05d}.parquet"
        )
    return folder


def source_of(text):
    """Some name that the text alone decides; é, as a name may be anything."""
    return ("tests 1.0", "a café", "zebra")[text.count("again") % 3]


def sketch(text):
    return duplicates.signature(text.lower().split(), NEAR).astype(np.uint8).tobytes()


@pytest.fixture
def written(tmp_path, tokenizer, runtime):
    writer.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path, CONFIG, runtime)
    return tmp_path / "shards"


def test_every_document_is_found_again(written, tokenizer):
    decode = Tokenizer.load(tokenizer).decode
    found = [decode(ids) for split in SPLITS for ids in Shards(written).documents(split)]
    assert sorted(found) == sorted(TEXTS)


def test_a_conversation_is_rendered_as_for_the_chat(tmp_path, tokenizer, runtime):
    """One document each, whatever its turns say, and split as text is."""
    texts = [
        SEPARATOR.join([f"Who is {n}?", f"Number {n}. [EOS]", "[USER] Why?", "So."])
        for n in range(60)
    ]
    writer.write(
        corpus(tmp_path / "cleaned", texts, "conversation"), tokenizer, tmp_path, CONFIG, runtime
    )
    encoder, opened = Tokenizer.load(tokenizer), Shards(tmp_path / "shards")
    for split in SPLITS:
        expected = []
        for text in texts:
            messages = [
                Message(("user", "assistant")[i % 2], turn)
                for i, turn in enumerate(text.split(SEPARATOR))
            ]
            if writer.is_candidate(text, CONFIG) == (split == "validation"):
                expected.append(tokens(messages, encoder).ids)
        assert [ids.tolist() for ids in opened.documents(split)] == expected
        assert opened.bytes(split) == sum(
            len(text.encode())
            for text in texts
            if writer.is_candidate(text, CONFIG) == (split == "validation")
        )


def test_documents_stand_between_bos_and_eos_within_one_file(written):
    for split in SPLITS:
        for ids in Shards(written).split(split):
            assert ids.dtype == np.uint16 and len(ids) <= CONFIG.tokens_per_file
            assert ids[0] == BOS and ids[-1] == EOS
            assert np.array_equal(
                np.flatnonzero(ids == BOS)[1:], np.flatnonzero(ids == EOS)[:-1] + 1
            )


def test_the_index_counts_what_is_there(written, tokenizer):
    opened, encoder = Shards(written), Tokenizer.load(tokenizer)
    assert opened.vocab_size == encoder.vocab_size == 280
    assert len(opened.split("train")) > 1
    for split in SPLITS:
        texts = [
            text for text in TEXTS if writer.is_candidate(text, CONFIG) == (split == "validation")
        ]
        assert (
            opened.tokens(split)
            == sum(map(len, opened.split(split)))
            == sum(len(encoder.encode(text)) + 2 for text in texts)
        )
        assert opened.bytes(split) == sum(len(text.encode()) for text in texts)
        assert opened.index["splits"][split]["documents"] == len(texts)
    assert np.array_equal(
        opened.token_counts(), np.bincount(np.concatenate(opened.split("train")), minlength=280)
    )


def test_each_document_of_validation_is_known_by_its_source_and_bytes(written, tokenizer):
    opened, decode = Shards(written), Tokenizer.load(tokenizer).decode
    texts = [decode(ids) for ids in opened.documents("validation")]
    assert opened.sources() == sorted({source_of(text) for text in texts})
    found = opened.validation_documents()
    assert [opened.sources()[place] for place in found["source"]] == [
        source_of(text) for text in texts
    ]
    assert found["bytes"].tolist() == [len(text.encode()) for text in texts]
    # Else this would show little
    assert len(opened.split("validation")) > 1 and len(opened.sources()) == 3


def test_shards_without_the_documents_still_train_and_say_what_is_missing(written):
    np.save(written / DOCUMENTS, np.load(written / DOCUMENTS)[:-1])
    with pytest.raises(
        ValueError,
        match=r"validation_documents\.npy is damaged, expected \d+ documents of 3 sources: .*dvc repro shards",
    ):
        Shards(written).validation_documents()
    (written / DOCUMENTS).unlink()
    opened = Shards(written)
    assert opened.tokens("train") > 0
    with pytest.raises(
        ValueError, match=r"validation_documents\.npy is missing or damaged: .*dvc repro shards"
    ):
        opened.validation_documents()


def test_equal_documents_never_stand_on_both_sides(tmp_path, tokenizer, runtime):
    writer.write(corpus(tmp_path / "cleaned", TEXTS * 3), tokenizer, tmp_path, CONFIG, runtime)
    train, validation = (
        {ids.tobytes() for ids in Shards(tmp_path / "shards").documents(split)} for split in SPLITS
    )
    assert train and validation and not train & validation


def test_near_copies_never_stand_on_both_sides(tmp_path, tokenizer, runtime):
    """Pairs that differ in one word of forty, the candidates for validation mostly without their twin: each pair ends on one side."""
    random = np.random.default_rng(0)
    words = np.array([f"w{n}" for n in range(5000)])
    originals = [random.choice(words, 40) for _ in range(200)]
    twins = [np.concatenate((original[:20], ["changed"], original[21:])) for original in originals]
    texts = [f"{number} {' '.join(text)}" for number, text in enumerate([*originals, *twins])]
    config = replace(CONFIG, max_similarity=0.5, tokens_per_file=100_000)
    sides = {text: writer.is_candidate(text, config) for text in texts}
    apart = sum(sides[texts[i]] != sides[texts[i + 200]] for i in range(200))
    assert apart > 40  # the hash alone would part them
    metrics = writer.write(
        corpus(tmp_path / "cleaned", texts), tokenizer, tmp_path, config, runtime
    )
    decode = Tokenizer.load(tokenizer).decode
    validation = {
        int(decode(ids).split()[0]) % 200
        for ids in Shards(tmp_path / "shards").documents("validation")
    }
    train = {
        int(decode(ids).split()[0]) % 200 for ids in Shards(tmp_path / "shards").documents("train")
    }
    assert validation and not validation & train
    assert metrics["look_alikes"] == apart


def test_a_chain_of_likeness_is_followed_to_its_end():
    """a, for train, resembles b, b resembles c, c not a: with b the candidate c goes to train as well."""
    random = np.random.default_rng(0)
    a = random.integers(0, 256, 120, dtype=np.uint8)
    b, c = a.copy(), a.copy()
    b[80:], c[40:] = (
        random.integers(0, 256, 40, dtype=np.uint8),
        random.integers(0, 256, 80, dtype=np.uint8),
    )
    c[80:] = b[80:]
    far = random.integers(0, 256, 120, dtype=np.uint8)
    ones = np.ones(4, np.int64)
    part = writer.Part(
        Path(),
        ones,
        ones,
        np.array([True, True, False, True]),
        np.stack([c, b, a, far]),
        0 * ones,
        np.array(["tests"]),
    )
    writer.keep_to_validation([part], 0.5)
    assert part.candidate.tolist() == [False, False, False, True]


def test_workers_do_not_change_the_bytes(tmp_path, written, tokenizer, runtime):
    writer.write(
        tmp_path / "cleaned", tokenizer, tmp_path / "again", CONFIG, replace(runtime, workers=2)
    )
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again/shards").iterdir())
    assert all(
        (written / name).read_bytes() == (tmp_path / "again/shards" / name).read_bytes()
        for name in names
    )


def test_a_truncated_file_is_named_with_its_tokens(written):
    path = written / "train-00000.npy"
    tokens = Shards(written).index["splits"]["train"]["files"][0]["tokens"]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        ValueError,
        match=rf"train-00000\.npy is damaged, expected {tokens} tokens of uint16, found {tokens - 5}.*dvc repro shards.*dvc checkout",
    ):
        Shards(written)


def test_a_missing_or_foreign_file_is_named(written):
    np.save(written / "train-00000.npy", np.zeros(3, np.uint16))
    with pytest.raises(ValueError, match=r"train-00000\.npy is damaged.*found 3"):
        Shards(written)
    (written / "train-00000.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train-00000\.npy is damaged.*found 0"):
        Shards(written)
    (written / "train-00000.npy").unlink()
    with pytest.raises(ValueError, match=r"train-00000\.npy is missing, expected"):
        Shards(written)


def test_an_empty_split_is_an_error(tmp_path, tokenizer, runtime):
    tiny = ShardsConfig(tokens_per_file=500, validation_fraction=1e-9, max_similarity=1.0, seed=0)
    with pytest.raises(
        ValueError, match=r"shards\.validation_fraction = 1e-09 leaves no validation document of 60"
    ):
        writer.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path, tiny, runtime)


def test_a_document_longer_than_a_file_is_an_error(tmp_path, tokenizer, runtime):
    with pytest.raises(
        ValueError, match=r"the document 0/0 has 47 tokens, more than shards\.tokens_per_file = 10"
    ):
        tiny = ShardsConfig(tokens_per_file=10, validation_fraction=0.5, max_similarity=1.0, seed=0)
        writer.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path, tiny, runtime)


def test_a_vocabulary_beyond_uint16_is_an_error(tmp_path, tokenizer, runtime, monkeypatch):
    monkeypatch.setattr(writer, "MAX_VOCAB", 279)
    with pytest.raises(
        ValueError, match=r"ids below 279, the tokenizer has 280: lower tokenizer\.vocab_size"
    ):
        writer.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path, CONFIG, runtime)
