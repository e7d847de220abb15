"""Token shards: written from cleaned text, read again, and checked for damage."""

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antimatter.chat.template import Message, tokens
from antimatter.data import inspection
from antimatter.data import tokenizer as tok
from antimatter.data.cleaning import duplicates
from antimatter.data.cleaning.config import NearDuplicatesConfig
from antimatter.data.documents import SEPARATOR
from antimatter.data.shards import writer
from antimatter.data.shards.config import ShardsConfig
from antimatter.data.shards.reader import DOCUMENTS, SPLITS, Shards
from antimatter.data.shards.split import is_candidate
from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.errors import UserError

CONFIG = ShardsConfig(tokens_per_file=500, validation_fraction=0.2, max_similarity=1.0, seed=0)
NEAR = NearDuplicatesConfig(enabled=True, ngram=5, bands=20, rows=6, seed=1)
TEXTS = [
    f"Document number {n} says [EOS] and then some more, {'again ' * (n % 7)}until it ends."
    for n in range(60)
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig(initial="", vocab_size=280, train_mb=1)
    tok.train(corpus(root / "cleaned", TEXTS), root / "tokenizer", config, workers=1)
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
    """A name that depends on the text alone; with é, because a name may have any character."""
    return ("tests 1.0", "a café", "zebra")[text.count("again") % 3]


def sketch(text):
    return duplicates.signature(text.lower().split(), NEAR).astype(np.uint8).tobytes()


@pytest.fixture
def written(tmp_path, tokenizer, runtime):
    writer.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path, CONFIG, runtime)
    return tmp_path / "shards"


def test_every_document_is_found_again(written, tokenizer):
    decode = Tokenizer.load(tokenizer).decode
    texts = [decode(ids) for split in SPLITS for ids in Shards(written).documents(split)]
    assert sorted(texts) == sorted(TEXTS)


def of_split(texts, split):
    return [text for text in texts if is_candidate(text, CONFIG) == (split == "validation")]


def test_a_conversation_is_rendered_as_for_the_chat(tmp_path, tokenizer, runtime):
    """One document each, whatever its turns say, and split like text."""
    turns = [[f"Who is {n}?", f"Number {n}. [EOS]", "[USER] Why?", "So."] for n in range(60)]
    texts = [SEPARATOR.join(conversation) for conversation in turns]
    cleaned = corpus(tmp_path / "cleaned", texts, "conversation")
    writer.write(cleaned, tokenizer, tmp_path, CONFIG, runtime)
    encoder, shards = Tokenizer.load(tokenizer), Shards(tmp_path / "shards")

    def rendered(text):
        roles = ("user", "assistant") * 2
        messages = zip(roles, text.split(SEPARATOR), strict=True)
        return tokens([Message(*message) for message in messages], encoder).ids

    for split in SPLITS:
        chosen = of_split(texts, split)
        assert [ids.tolist() for ids in shards.documents(split)] == list(map(rendered, chosen))
        assert shards.bytes(split) == sum(len(text.encode()) for text in chosen)
    # Each answer ends with EOS, and the check of the documents must not take these for ends
    assert len(list(inspection.verify(tmp_path / "shards"))) == 2


def test_documents_lie_between_bos_and_eos_within_one_file(written):
    for split in SPLITS:
        for ids in Shards(written).split(split):
            assert ids.dtype == np.uint16 and len(ids) <= CONFIG.tokens_per_file
            assert ids[0] == BOS and ids[-1] == EOS
            begins, ends = np.flatnonzero(ids == BOS), np.flatnonzero(ids == EOS)
            assert np.array_equal(begins[1:], ends[:-1] + 1)


def test_the_index_counts_tokens_documents_and_bytes(written, tokenizer):
    shards, encoder = Shards(written), Tokenizer.load(tokenizer)
    assert shards.vocab_size == encoder.vocab_size == 280
    assert len(shards.split("train")) > 1
    for split in SPLITS:
        texts = of_split(TEXTS, split)
        assert shards.tokens(split) == sum(map(len, shards.split(split)))
        assert shards.tokens(split) == sum(len(encoder.encode(text)) + 2 for text in texts)
        assert shards.bytes(split) == sum(len(text.encode()) for text in texts)
        assert shards.index["splits"][split]["documents"] == len(texts)
    counts = np.bincount(np.concatenate(shards.split("train")), minlength=280)
    assert np.array_equal(shards.token_counts(), counts)


def test_the_source_and_the_bytes_of_each_validation_document_are_known(written, tokenizer):
    shards, decode = Shards(written), Tokenizer.load(tokenizer).decode
    texts = [decode(ids) for ids in shards.documents("validation")]
    documents, names = shards.validation_documents(), shards.sources()
    assert names == sorted({source_of(text) for text in texts})
    assert [names[index] for index in documents["source"]] == [source_of(text) for text in texts]
    assert documents["bytes"].tolist() == [len(text.encode()) for text in texts]
    # Else this would prove little
    assert len(shards.split("validation")) > 1 and len(names) == 3


def test_damaged_validation_documents_are_named_and_do_not_prevent_training(written):
    np.save(written / DOCUMENTS, np.load(written / DOCUMENTS)[:-1])
    named = rf"{re.escape(DOCUMENTS)}.*\d+ documents of 3 sources.*`dvc repro shards`"
    with pytest.raises(UserError, match=named):
        Shards(written).validation_documents()
    (written / DOCUMENTS).unlink()
    shards = Shards(written)
    assert shards.tokens("train") > 0
    with pytest.raises(UserError, match=named):
        shards.validation_documents()


def test_damaged_token_counts_are_named(written):
    path = written / "token_counts.npy"
    for damage in (lambda: np.save(path, np.zeros(3, np.uint64)), path.unlink):
        damage()
        with pytest.raises(UserError, match=r"token_counts\.npy.* 280 .*`dvc repro shards`"):
            Shards(written).token_counts()


def test_a_damaged_cleaned_file_is_named(tmp_path, tokenizer, runtime):
    folder = corpus(tmp_path / "cleaned", TEXTS)
    (folder / "00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"00001\.parquet.*`dvc repro --force cleaned`"):
        writer.write(folder, tokenizer, tmp_path, CONFIG, runtime)


def test_equal_documents_are_always_in_the_same_split(tmp_path, tokenizer, runtime):
    writer.write(corpus(tmp_path / "cleaned", TEXTS * 3), tokenizer, tmp_path, CONFIG, runtime)
    train, validation = (
        {ids.tobytes() for ids in Shards(tmp_path / "shards").documents(split)} for split in SPLITS
    )
    assert train and validation and not train & validation


def test_near_copies_are_always_in_the_same_split(tmp_path, tokenizer, runtime):
    """Pairs that differ in one word of forty, of which the hash mostly draws only one document."""
    random = np.random.default_rng(0)
    words = np.array([f"w{n}" for n in range(5000)])
    originals = [random.choice(words, 40) for _ in range(200)]
    twins = [np.concatenate((original[:20], ["changed"], original[21:])) for original in originals]
    texts = [f"{number} {' '.join(text)}" for number, text in enumerate([*originals, *twins])]
    config = replace(CONFIG, max_similarity=0.5, tokens_per_file=100_000)
    candidate = [is_candidate(text, config) for text in texts]
    apart = sum(one != other for one, other in zip(candidate[:200], candidate[200:], strict=True))
    # The hash alone would separate them
    assert apart > 40
    cleaned = corpus(tmp_path / "cleaned", texts)
    metrics = writer.write(cleaned, tokenizer, tmp_path, config, runtime)
    decode, shards = Tokenizer.load(tokenizer).decode, Shards(tmp_path / "shards")
    train, validation = (
        {int(decode(ids).split()[0]) % 200 for ids in shards.documents(split)} for split in SPLITS
    )
    assert validation and not validation & train
    assert metrics["look_alikes"] == apart


def test_workers_do_not_change_the_bytes(tmp_path, written, tokenizer, runtime):
    again = tmp_path / "again"
    writer.write(tmp_path / "cleaned", tokenizer, again, CONFIG, replace(runtime, workers=2))
    one, two = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (written, again / "shards")
    )
    assert one == two and len(one) > 5


def test_a_truncated_file_is_named_with_its_tokens(written):
    path = written / "train-00000.npy"
    tokens = Shards(written).index["splits"]["train"]["files"][0]["tokens"]
    path.write_bytes(path.read_bytes()[:-10])
    named = rf"train-00000\.npy.* {tokens} .* {tokens - 5}: .*`dvc repro shards`.*`dvc checkout"
    with pytest.raises(UserError, match=named):
        Shards(written)


def test_a_missing_or_foreign_file_is_named(written):
    np.save(written / "train-00000.npy", np.zeros(3, np.uint16))
    with pytest.raises(UserError, match=r"train-00000\.npy .* found 3"):
        Shards(written)
    (written / "train-00000.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"train-00000\.npy .* found 0"):
        Shards(written)
    (written / "train-00000.npy").unlink()
    with pytest.raises(UserError, match=r"train-00000\.npy is missing"):
        Shards(written)


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:2]])
def test_neither_split_is_empty_if_there_are_two_documents(
    tmp_path, tokenizer, runtime, fraction, texts
):
    config = replace(CONFIG, validation_fraction=fraction)
    report = writer.write(corpus(tmp_path / "cleaned", texts), tokenizer, tmp_path, config, runtime)
    few, many = ("validation", "train") if fraction < 0.5 else ("train", "validation")
    assert report[few]["documents"] == 1
    assert report[many]["documents"] == len(texts) - 1


def test_an_empty_split_is_an_error(tmp_path, tokenizer, runtime):
    # Equal texts are always in the same split
    cleaned = corpus(tmp_path / "cleaned", 2 * TEXTS[:1])
    with pytest.raises(UserError, match=r"of 2 documents is left for .*shards\.max_similarity"):
        writer.write(cleaned, tokenizer, tmp_path, CONFIG, runtime)


def test_a_document_longer_than_a_file_is_an_error(tmp_path, tokenizer, runtime):
    tiny = replace(CONFIG, tokens_per_file=10)
    cleaned = corpus(tmp_path / "cleaned", TEXTS)
    with pytest.raises(UserError, match=r"0/0 has 47 tokens.*shards\.tokens_per_file = 10"):
        writer.write(cleaned, tokenizer, tmp_path, tiny, runtime)


def test_a_vocabulary_beyond_uint16_is_an_error(tmp_path, tokenizer, runtime, monkeypatch):
    monkeypatch.setattr(writer, "MAX_VOCAB", 279)
    with pytest.raises(UserError, match=r"279.* 280: .*tokenizer\.vocab_size"):
        writer.write(corpus(tmp_path / "cleaned", TEXTS), tokenizer, tmp_path, CONFIG, runtime)
