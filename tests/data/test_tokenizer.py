"""The tokenizer against Hugging Face's, on prose and on text of every kind of characters."""

import dataclasses
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from antimatter import files
from antimatter.data import tokenizer as tok
from antimatter.data.special_tokens import BOS, EOS, PAD
from antimatter.data.tokenizer import Tokenizer
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.errors import UserError

SENTENCE = (
    "The quick brown fox doesn't jump over 1,234 lazy dogs; "
    "naïve café owners (日本語) said: don't!\n\n\tWhy?  "
)
FOXES = "foxes and dogs, dogs and foxes"
CONFIG = TokenizerConfig(initial="", vocab_size=300, train_mb=1)


def corpus(folder, documents):
    folder.mkdir()
    sources = [f"book {i % 2}" for i in range(len(documents))]
    table = pa.table({"source": sources, "text": documents})
    pq.write_table(table, folder / "00000.parquet")
    return folder


def train(root, documents, config=CONFIG, workers=1):
    return tok.train(corpus(root / "cleaned", documents), root / "tokenizer", config, workers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    train(root, [SENTENCE * 3, FOXES])
    return root / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.load(folder)


def dirty_strings():
    """Text that nobody wrote: every plane of Unicode, control characters, odd white space."""
    generator = random.Random(0)
    ranges = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    yield from ("", " ", "\n", "\x00", "\r\n\t ", "don't DON'T 'S's", "a\u00a0b\u2003c\u3000d")
    yield from ("e\u0301 é", "👩‍👩‍👧 flag 🇩🇪", "\ufeffx", "١٢٣ ४५", "a" * 1000)
    for _ in range(300):
        length = generator.randrange(1, 40)
        yield "".join(chr(generator.randrange(*generator.choice(ranges))) for _ in range(length))
    pieces = [
        " ",
        "  ",
        "\n",
        "'s",
        "'",
        "é",
        "the",
        "Fox",
        "12",
        "½",
        "_",
        "-",
        "[EOS]",
        "ß",
        "字",
    ]
    for _ in range(300):
        yield "".join(generator.choices(pieces, k=20))


@pytest.mark.parametrize("run", [" ", "-", "a", "é", "\n"])
def test_a_document_with_a_long_run_is_learnt_from_in_seconds(tmp_path, run):
    """The trainer's time is quadratic in the length of a piece: uncut, this takes many minutes."""
    documents = [SENTENCE * 3, f"left {run * 400_000} right", FOXES]
    report = train(tmp_path, documents, dataclasses.replace(CONFIG, train_mb=100))
    assert report["sample_bytes"] == sum(len(document.encode()) for document in documents)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    ids = tokenizer.encode_array(documents[1])
    assert tokenizer.decode(ids.tolist()) == documents[1]


def test_white_space_too_long_for_the_regex_engine_is_encoded(tokenizer):
    for text in (
        " " * 999_999,
        f"left {' ' * 1_500_000} right\n{chr(10) * 1_200_000}end",
        " " * 100_000 + "x",
        " " * 100_001 + "x",
    ):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_array(text).tolist() == ids


def test_only_long_pieces_change_what_is_learnt(tmp_path):
    """Without them tokenizer.json equals what the library alone learns, with the usual
    pre-tokenizer.
    """
    documents = [SENTENCE * 3, f"{'x' * 999} {FOXES}"]
    train(tmp_path, documents)
    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(tok.SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    plain.train_from_iterator(documents, trainer)
    learnt = (tmp_path / "tokenizer/tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(learnt) == json.loads(plain.to_str())


def test_text_survives_the_round_trip(tokenizer):
    for text in (SENTENCE, *dirty_strings()):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_array(text).tolist() == ids
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_ids_equal_those_of_hugging_face(folder, tokenizer):
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    # A literal [EOS] is text
    theirs.encode_special_tokens = True
    for text in (SENTENCE, *dirty_strings()):
        assert tokenizer.encode(text) == theirs.encode(text).ids


def test_no_text_encodes_to_a_special_token(tokenizer):
    for name in ("[PAD]", "[BOS]", "[EOS]", "<|endoftext|>"):
        assert not {PAD, BOS, EOS} & set(tokenizer.encode(f"a {name} b"))
    assert (PAD, BOS, EOS) == (0, 1, 2)
    assert tokenizer.decode([BOS, *tokenizer.encode("fox"), EOS, PAD]) == "fox"


def test_half_a_character_decodes_to_the_replacement_character(tokenizer):
    byte = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xe6")
    assert tokenizer.decode([byte]) == "\ufffd"


def test_training_is_deterministic(tmp_path, folder, tokenizer):
    train(tmp_path, [SENTENCE * 3, FOXES])
    again = (tmp_path / "tokenizer/tokenizer.json").read_bytes()
    assert again == (folder / "tokenizer.json").read_bytes()
    assert tokenizer.vocab_size == CONFIG.vocab_size


def test_the_sample_has_the_requested_size_and_comes_from_every_file(tmp_path):
    paths = []
    for number in range(4):
        documents = [f"{number} {row} " + "word " * (row % 50) for row in range(2000)]
        paths.append(corpus(tmp_path / str(number), documents) / "00000.parquet")
    drawn = [[row for rows in tok.sample([path], 0.1) for row in rows] for path in paths]
    assert all(150 < len(rows) < 250 for rows in drawn)
    half = {text for rows in tok.sample(paths, 0.5) for _, text in rows}
    # A larger sample holds the smaller one
    assert {text for rows in drawn for _, text in rows} < half
    assert sum(len(rows) for rows in tok.sample(paths, 1.0)) == 8000


def test_the_report_counts_the_sample_by_source(tmp_path, tokenizer):
    texts = {"book 0": SENTENCE * 3, "book 1": FOXES}
    report = train(tmp_path, list(texts.values()), workers=2)
    sizes = {source: len(text.encode()) for source, text in texts.items()}
    tokens = {source: len(tokenizer.encode(text)) for source, text in texts.items()}
    expected = {source: sizes[source] / tokens[source] for source in texts}
    assert report["bytes_per_token_by_source"] == expected
    assert report["bytes_per_token"] == sum(sizes.values()) / sum(tokens.values())
    assert report["sample_bytes"] == sum(sizes.values())


def test_text_too_poor_for_the_vocabulary_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size is 300.* 26\d tokens"):
        train(tmp_path, ["aaaa bbbb"])


def test_an_empty_or_damaged_corpus_is_an_error(tmp_path):
    (tmp_path / "cleaned").mkdir()
    with pytest.raises(UserError, match=r"cleaned .*\.parquet.*`dvc repro cleaned`"):
        tok.train(tmp_path / "cleaned", tmp_path / "tokenizer", CONFIG, workers=1)
    (tmp_path / "cleaned" / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"00000\.parquet.*`dvc repro --force cleaned`"):
        tok.train(tmp_path / "cleaned", tmp_path / "tokenizer", CONFIG, workers=1)


def test_a_vocabulary_without_room_for_the_bytes_is_an_error():
    with pytest.raises(UserError, match=r"vocab_size .* 262 .*got 261"):
        TokenizerConfig(initial="", vocab_size=261, train_mb=1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "no key model"),
        ("[]", "an object"),
        ("{", "JSON"),
        ('{"model": {"vocab": {"a": 0}}}', r"\[PAD\]=0"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, reason):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=rf"tokenizer\.json .*{reason}"):
        Tokenizer.load(tmp_path)
    # Also by its own name, whatever that is
    (tmp_path / "tokenizer.json").rename(tmp_path / "words.json")
    with pytest.raises(UserError, match=rf"words\.json .*{reason}"):
        Tokenizer.load(tmp_path / "words.json")


def test_a_kept_tokenizer_is_written_as_the_one_that_was_trained(tmp_path):
    report = train(tmp_path, [SENTENCE * 3, FOXES])
    trained, cleaned = tmp_path / "tokenizer", tmp_path / "cleaned"
    # As a folder for transformers has it
    theirs = json.loads((trained / "tokenizer.json").read_text())
    theirs["post_processor"] = {"type": "TemplateProcessing"}
    theirs["truncation"] = {"max_length": 8}
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(theirs))
    recorded = files.digest(files.fingerprint(trained, "*"))
    for number, given in enumerate((trained, trained / "tokenizer.json", tmp_path / "hf")):
        folder = tmp_path / str(number)
        assert tok.keep(given, cleaned, folder, CONFIG, workers=1) == report
        written = (folder / "tokenizer.json").read_bytes()
        assert written == (trained / "tokenizer.json").read_bytes()
    assert tok.digest(tmp_path / "hf" / "tokenizer.json") == recorded
    other = dataclasses.replace(CONFIG, vocab_size=301)
    with pytest.raises(UserError, match=r"300 tokens, but tokenizer\.vocab_size is 301: set it to"):
        tok.keep(trained, cleaned, tmp_path / "x", other, workers=1)
