import dataclasses
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from antimatter.data import tokenizer as tok
from antimatter.data.special_tokens import BOS, EOS, PAD
from antimatter.data.tokenizer import Tokenizer
from antimatter.data.tokenizer_config import TokenizerConfig

SENTENCE = "The quick brown fox doesn't jump over 1,234 lazy dogs; naïve café owners (日本語) said: don't!\n\n\tWhy?  "
CONFIG = TokenizerConfig(vocab_size=300, train_mb=1)


def corpus(folder, documents):
    folder.mkdir()
    pq.write_table(
        pa.table({"source": [f"book {i % 2}" for i in range(len(documents))], "text": documents}),
        folder / "00000.parquet",
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    tok.train(
        corpus(root / "cleaned", [SENTENCE * 3, "foxes and dogs, dogs and foxes"]),
        root / "tokenizer",
        CONFIG,
        workers=1,
    )
    return root / "tokenizer"


def dirty_strings():
    """Text that no one wrote: every plane of Unicode, control characters, broken white space."""
    generator = random.Random(0)
    ranges = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    hand_made = [
        "",
        " ",
        "\n",
        "\x00",
        "\r\n\t ",
        "don't DON'T 'S's",
        "a\u00a0b\u2003c\u3000d",
        "e\u0301 é",
        "👩‍👩‍👧 flag 🇩🇪",
        "\ufeffx",
        "١٢٣ ४५",
        "a" * 1000,
    ]
    yield from hand_made
    for _ in range(300):
        yield "".join(
            chr(generator.randrange(*generator.choice(ranges)))
            for _ in range(generator.randrange(1, 40))
        )
    for _ in range(300):
        yield "".join(
            generator.choice(
                [
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
            )
            for _ in range(20)
        )


@pytest.mark.parametrize("run", [" ", "-", "a", "é", "\n"])
def test_a_long_run_in_one_document_is_learnt_from_in_no_time(tmp_path, run):
    """The trainer's time grows with the square of a piece: uncut, this takes many minutes."""
    documents = [SENTENCE * 3, f"left {run * 400_000} right", "foxes and dogs, dogs and foxes"]
    report = tok.train(
        corpus(tmp_path / "cleaned", documents),
        tmp_path / "tokenizer",
        dataclasses.replace(CONFIG, train_mb=100),
        workers=1,
    )
    assert report["sample_bytes"] == sum(len(document.encode()) for document in documents)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    ids = tokenizer.encode_array(documents[1])
    assert tokenizer.decode(ids.tolist()) == documents[1]


def test_blanks_that_the_regex_engine_gives_up_at_are_encoded(folder):
    tokenizer = Tokenizer.load(folder)
    for text in (
        " " * 999_999,
        f"left {' ' * 1_500_000} right\n{chr(10) * 1_200_000}end",
        " " * 100_000 + "x",
        " " * 100_001 + "x",
    ):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_array(text).tolist() == ids


def test_only_pieces_that_are_too_long_are_learnt_otherwise(tmp_path):
    """tokenizer.json is what the library alone makes of text without such pieces, and names the usual pre-tokenizer."""
    documents = [SENTENCE * 3, "x" * 999 + " foxes and dogs, dogs and foxes"]
    tok.train(corpus(tmp_path / "cleaned", documents), tmp_path / "tokenizer", CONFIG, workers=1)
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
    assert json.loads((tmp_path / "tokenizer/tokenizer.json").read_text()) == json.loads(
        plain.to_str()
    )


def test_text_survives_the_round_trip(folder):
    tokenizer = Tokenizer.load(folder)
    for text in (SENTENCE, *dirty_strings()):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_array(text).tolist() == ids
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_ids_equal_those_of_hugging_face(folder):
    tokenizer = Tokenizer.load(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True  # a literal [EOS] is text
    for text in (SENTENCE, *dirty_strings()):
        assert tokenizer.encode(text) == theirs.encode(text).ids


def test_special_tokens_are_no_text(folder):
    tokenizer = Tokenizer.load(folder)
    for name in ("[PAD]", "[BOS]", "[EOS]", "<|endoftext|>"):
        assert not {PAD, BOS, EOS} & set(tokenizer.encode(f"a {name} b"))
    assert (PAD, BOS, EOS) == (0, 1, 2)
    assert tokenizer.decode([BOS, *tokenizer.encode("fox"), EOS, PAD]) == "fox"


def test_half_a_character_decodes_to_the_replacement_character(folder):
    tokenizer = Tokenizer.load(folder)
    byte = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xe6")
    assert tokenizer.decode([byte]) == "\ufffd"


def test_training_is_deterministic(tmp_path, folder):
    tok.train(
        corpus(tmp_path / "cleaned", [SENTENCE * 3, "foxes and dogs, dogs and foxes"]),
        tmp_path / "tokenizer",
        CONFIG,
        workers=1,
    )
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
    assert Tokenizer.load(folder).vocab_size == CONFIG.vocab_size


def test_the_sample_is_of_the_size_asked_for_and_from_everywhere(tmp_path):
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


def test_the_report_counts_the_sample_by_source(tmp_path, folder):
    report = tok.train(
        corpus(tmp_path / "cleaned", [SENTENCE * 3, "foxes and dogs, dogs and foxes"]),
        tmp_path / "tokenizer",
        CONFIG,
        workers=2,
    )
    tokenizer = Tokenizer.load(folder)
    sizes = {"book 0": len((SENTENCE * 3).encode()), "book 1": 30}
    tokens = {
        "book 0": len(tokenizer.encode(SENTENCE * 3)),
        "book 1": len(tokenizer.encode("foxes and dogs, dogs and foxes")),
    }
    assert report["bytes_per_token_by_source"] == {
        source: sizes[source] / tokens[source] for source in sizes
    }
    assert report["bytes_per_token"] == sum(sizes.values()) / sum(tokens.values())
    assert report["sample_bytes"] == sum(sizes.values())


def test_text_too_poor_for_the_vocabulary_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"tokenizer\.vocab_size is 300, but the text yields only 26\d tokens"
    ):
        tok.train(
            corpus(tmp_path / "cleaned", ["aaaa bbbb"]), tmp_path / "tokenizer", CONFIG, workers=1
        )


def test_a_vocabulary_without_room_for_the_bytes_is_an_error():
    with pytest.raises(ValueError, match="vocab_size must be at least 262"):
        TokenizerConfig(vocab_size=261, train_mb=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a tokenizer of this pipeline"),
        ("{", "is not JSON"),
        ('{"model": {"vocab": {"a": 0}}}', "PAD"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)
