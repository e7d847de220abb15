"""A long text becomes documents of bounded size that begin where its parts begin."""

import pytest
from helpers import own_texts
from helpers.own_texts import ARABIC, CHINESE, ENGLISH

from antimatter.data.sources import pieces

BOOK = "\n\n".join(
    f"CHAPTER {n}\n\n" + "\n\n".join(own_texts.prose(40, seed=n)) for n in range(1, 21)
)


@pytest.mark.parametrize("kb", [0.1, 1, 4, 20])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BOOK, id="book"),
        pytest.param(BOOK.replace("\n\n", "\n"), id="lines"),
        pytest.param(BOOK.replace("\n", " "), id="one line"),
        pytest.param(CHINESE * 100, id="Chinese"),
        pytest.param(ARABIC * 100, id="Arabic"),
        pytest.param("é" * 50_000, id="no spaces"),
        pytest.param("😀" * 9_999 + " " * 9_999 + "\n" * 9_999, id="spaces"),
    ],
)
def test_pieces_are_no_longer_than_the_limit_and_lose_no_character(text: str, kb: float) -> None:
    cut = list(pieces.split(text, kb))
    assert max(len(piece.encode()) for piece in cut) <= kb * 1000
    assert "".join(cut).replace("\n", "") == text.replace("\n", "")
    # And few enough
    assert len(cut) <= 3 * len(text.encode()) / (kb * 1000) + 1


@pytest.mark.parametrize("kb", [0, 1000])
def test_a_text_within_the_limit_is_the_same(kb: float) -> None:
    assert list(pieces.split(f"\n\n{BOOK}\n\n", kb)) == [f"\n\n{BOOK}\n\n"]


@pytest.mark.parametrize(
    "heading",
    [
        "Chapter {n}",
        "CHAPTER {n}. A title",
        "## Part {n}",
        "Kapitel {n}",
        "第{n}章 河水",
        "ACT {n}",
    ],
)
def test_pieces_begin_at_headings(heading: str) -> None:
    chapters = [
        heading.format(n=n) + "\n\n" + "\n\n".join(own_texts.prose(9, seed=n)) for n in range(50)
    ]
    for n, piece in enumerate(pieces.split("\n\n".join(chapters), 3.5)):
        assert piece == chapters[n]


def test_small_parts_share_a_piece_and_a_long_part_has_equal_ones() -> None:
    small = "\n\n".join(f"# Part {n}\n\n{ENGLISH}" for n in range(30))
    cut = list(pieces.split(small, 4))
    assert all(piece.startswith("# Part") for piece in cut) and len(cut) == 4
    long = list(pieces.split("\n\n".join(own_texts.prose(100)), 4))
    sizes = [len(piece) for piece in long]
    assert min(sizes) > 0.7 * max(sizes)


def test_a_comment_in_code_is_no_heading() -> None:
    code = "```\n" + "\n\n".join(f"# step {n}\nprint({n})" for n in range(30)) + "\n```"
    text = "\n\n".join([f"# One\n\n{ENGLISH}", code, f"# Two\n\n{ENGLISH * 3}"])
    assert [piece[:7] for piece in pieces.split(text, 1.6)] == ["# One\n\n", "# Two\n\n"]


def test_sentences_are_kept_together_in_a_long_line() -> None:
    for piece in pieces.split(" ".join(own_texts.prose(200)), 2):
        assert piece[0].isupper() and piece.rstrip().endswith(".")
