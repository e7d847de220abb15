"""Hard-wrapped prose becomes paragraphs again; what ends its lines by meaning does not change."""

import textwrap

import pytest
from helpers import own_texts
from helpers.own_texts import ARABIC, CHINESE, CODE, ENGLISH, GERMAN, LIST, POEM, RUSSIAN

from antimatter.data.sources import wrapping

PROSE = "\n\n".join(own_texts.prose(30))


def unwrapped(text: str) -> str:
    to = wrapping.width(text)
    return wrapping.join(text, to) if to else text


@pytest.mark.parametrize("width", [40, 60, 72, 80, 120])
@pytest.mark.parametrize(
    "text", [PROSE, ENGLISH, GERMAN, ARABIC, f"{GERMAN}\n\n{RUSSIAN} {RUSSIAN}"], ids=len
)
def test_wrapping_is_undone(text: str, width: int) -> None:
    wrapped = "\n\n".join(
        textwrap.fill(paragraph, width, break_on_hyphens=False) for paragraph in text.split("\n\n")
    )
    assert wrapped.count("\n") > text.count("\n")
    if wrapped.count("\n") - text.count("\n") >= wrapping.MIN_BREAKS:
        assert unwrapped(wrapped) == text


def test_wrapping_with_spaces_at_the_ends_is_undone() -> None:
    """As `fold -s` does it."""
    wrapped = "\n\n".join(textwrap.fill(text, 72) for text in PROSE.split("\n\n"))
    assert unwrapped(wrapped.replace("\n", " \n").replace(" \n \n", "\n\n")) == PROSE


def test_chinese_lines_are_joined_without_a_space() -> None:
    text = CHINESE * 3
    lines = [text[start : start + 35] for start in range(0, len(text), 35)]
    assert unwrapped("\n".join(lines)) == text


def test_indented_first_lines_begin_paragraphs() -> None:
    paragraphs = own_texts.prose(20)
    wrapped = "\n".join(textwrap.fill(text, 65, initial_indent="    ") for text in paragraphs)
    assert unwrapped(wrapped) == "\n".join(f"    {text}" for text in paragraphs)


def test_list_items_are_joined_each_for_itself() -> None:
    items = [f"- {text}" for text in own_texts.prose(20)]
    wrapped = "\n".join(textwrap.fill(item, 70, subsequent_indent="  ") for item in items)
    assert unwrapped(wrapped) == "\n".join(items)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(POEM, id="poem"),
        pytest.param("\n\n".join([POEM] * 30), id="poems"),
        pytest.param("\n\n".join([own_texts.PLAY] * 30), id="play"),
        pytest.param(CODE, id="code"),
        pytest.param("\n\n".join([CODE] * 30), id="much code"),
        pytest.param(LIST, id="list"),
        pytest.param(PROSE, id="a paragraph a line, with blank lines"),
        pytest.param(PROSE.replace("\n\n", "\n"), id="a paragraph a line"),
        pytest.param("\n".join([f"{s}." for s in PROSE.split(". ")]), id="a sentence a line"),
        pytest.param("\n".join(f"{n:8} {n * n:12} {n**3:20}" for n in range(99)), id="numbers"),
        pytest.param("\n".join(f"| {'cell ' * 8}| {n} |" for n in range(99)), id="table"),
        pytest.param("\n".join(f"> {'quoted words ' * 5}" for n in range(99)), id="quote"),
        pytest.param("one\ntwo\nthree\n", id="words"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_is_not_wrapped_prose_does_not_change(text: str) -> None:
    assert unwrapped(text) == text


@pytest.mark.parametrize(
    "other",
    [
        POEM,
        LIST,
        f"```\n{textwrap.fill(ENGLISH, 60)}\n```",
        "| a | b |\n|---|---|\n| c | d |",
        "12 Mill Lane\nHarbour Town\nThe Coast",
        "Contents\n\nThe ferry .......... 1\nThe bakery ......... 9",
        "# A heading\n\nAnother heading\n===============",
    ],
)
def test_other_parts_of_a_wrapped_book_do_not_change(other: str) -> None:
    wrapped = "\n\n".join(textwrap.fill(text, 72) for text in PROSE.split("\n\n"))
    assert unwrapped(f"{wrapped}\n\n{other}\n\n{wrapped}") == f"{PROSE}\n\n{other}\n\n{PROSE}"


def test_a_heading_directly_above_its_paragraph_remains_a_line() -> None:
    wrapped = "\n\n".join(textwrap.fill(text, 72) for text in PROSE.split("\n\n"))
    assert unwrapped(f"THE HARBOUR\n{wrapped}") == f"THE HARBOUR\n{PROSE}"


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        # The word occurs without a hyphen elsewhere
        ("remem-", "bered", "remembered"),
        # A soft hyphen shows at the end of a line only
        ("forgot\xad", "ten", "forgotten"),
        # Perhaps a compound, so it stays
        ("always well-", "kept", "always well-kept"),
        ("short- and long-", "term", "short- and long-term"),
        ("very short-", "and long", "very short- and long"),
        ("her harbour--", "alone", "her harbour--alone"),
    ],
)
def test_a_hyphen_is_removed_only_where_it_is_certain(before: str, after: str, joined: str) -> None:
    wrapped = textwrap.fill(" ".join(own_texts.prose(5)), 40)
    assert "remembered" in wrapped
    start = "nothing but a thermos and"
    text = unwrapped(f"{wrapped}\n\n{start} {before}\n{after}")
    assert text.split("\n\n")[1] == f"{start} {joined}"
