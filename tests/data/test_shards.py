import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antimatter.data import encode
from antimatter.data import tokenizer as tok
from antimatter.data.encode import ShardsConfig
from antimatter.data.shards import SPLITS, Shards
from antimatter.data.tokenizer import BOS, EOS, Tokenizer, TokenizerConfig

CONFIG = ShardsConfig(tokens_per_file=500, validation_fraction=0.2, seed=0)
TEXTS = [f"Document number {n} says [EOS] and then some more, {'again ' * (n % 7)}until it ends." for n in range(60)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    tok.train(corpus(root / "cleaned", TEXTS), root / "tokenizer", TokenizerConfig(vocab_size=280, train_mb=1))
    return Tokenizer.load(root / "tokenizer")


def corpus(folder, documents):
    folder.mkdir()
    half = len(documents) // 2
    for number, part in enumerate((documents[:half], documents[half:])):
        pq.write_table(pa.table({"text": part}), folder / f"{number:05d}.parquet")
    return folder


@pytest.fixture
def written(tmp_path, tokenizer):
    encode.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path / "shards", CONFIG, workers=2)
    return tmp_path / "shards"


def test_every_document_is_found_again(written, tokenizer):
    found = [tokenizer.decode(ids) for split in SPLITS for ids in Shards(written).documents(split)]
    assert sorted(found) == sorted(TEXTS)


def test_documents_stand_between_bos_and_eos_within_one_file(written):
    for split in SPLITS:
        for ids in Shards(written).split(split):
            assert ids.dtype == np.uint16 and len(ids) <= CONFIG.tokens_per_file
            assert ids[0] == BOS and ids[-1] == EOS
            assert np.array_equal(np.flatnonzero(ids == BOS)[1:], np.flatnonzero(ids == EOS)[:-1] + 1)


def test_the_index_counts_what_is_there(written, tokenizer):
    opened = Shards(written)
    assert opened.vocab_size == tokenizer.vocab_size == 280
    assert len(opened.split("train")) > 1
    for split in SPLITS:
        texts = [text for text in TEXTS if encode.split_of(text, CONFIG) == split]
        assert opened.tokens(split) == sum(map(len, opened.split(split))) == sum(len(tokenizer.encode(text)) + 2 for text in texts)
        assert opened.bytes(split) == sum(len(text.encode()) for text in texts)
        assert opened.index["splits"][split]["documents"] == len(texts)
    assert np.array_equal(opened.token_counts(), np.bincount(np.concatenate(opened.split("train")), minlength=280))


def test_equal_documents_never_stand_on_both_sides(tmp_path, tokenizer):
    encode.write(corpus(tmp_path / "cleaned", TEXTS * 3), tokenizer, tmp_path / "shards", CONFIG, workers=1)
    train, validation = ({ids.tobytes() for ids in Shards(tmp_path / "shards").documents(split)} for split in SPLITS)
    assert train and validation and not train & validation


def test_threads_do_not_change_the_bytes(tmp_path, written, tokenizer):
    encode.write(tmp_path / "cleaned", tokenizer, tmp_path / "again", CONFIG, workers=1)
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((written / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_a_truncated_file_is_named_with_its_tokens(written):
    path = written / "train-00000.npy"
    tokens = Shards(written).index["splits"]["train"]["files"][0]["tokens"]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        ValueError, match=rf"train-00000\.npy is damaged, expected {tokens} tokens of uint16, found {tokens - 5}.*dvc repro shards.*dvc checkout"
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


def test_an_empty_split_is_an_error(tmp_path, tokenizer):
    tiny = ShardsConfig(tokens_per_file=500, validation_fraction=1e-9, seed=0)
    with pytest.raises(ValueError, match=r"shards\.validation_fraction = 1e-09 leaves no validation document of 60"):
        encode.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path / "shards", tiny, workers=1)


def test_a_document_longer_than_a_file_is_an_error(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"exceeds shards\.tokens_per_file = 10"):
        tiny = ShardsConfig(tokens_per_file=10, validation_fraction=0.5, seed=0)
        encode.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path / "shards", tiny, workers=1)


def test_a_vocabulary_beyond_uint16_is_an_error(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 65_537)
    with pytest.raises(ValueError, match=r"65,537.*tokenizer\.vocab_size"):
        encode.write(tmp_path, tokenizer, tmp_path / "shards", CONFIG, workers=1)
