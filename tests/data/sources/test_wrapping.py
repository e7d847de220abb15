"""Hard-wrapped prose becomes paragraphs again; what ends its lines by meaning does not change."""

import re
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
    "text",
    [PROSE, ENGLISH, GERMAN, " ".join([ARABIC] * 3), f"{GERMAN}\n\n{RUSSIAN} {RUSSIAN}"],
    ids=len,
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


def test_chinese_with_numbers_and_names_is_joined_without_a_space() -> None:
    text = (CHINESE + "到了2020年，Antimatter 的作者说：“好。”然后他走了。") * 3
    lines = [text[start : start + 36] for start in range(0, len(text), 36)]
    assert "".join(unwrapped("\n".join(lines)).split("\n")) == text


def even_lines(words: str, width: int, mark: str = "") -> str:
    """Verse whose lines are of nearly the same length, by its words alone."""
    letters = re.sub(r"[^\w\s]", "", words)
    return "\n".join(f"{line}{mark}" for line in textwrap.wrap(letters, width))


HINDI = (
    "नदी के किनारे एक छोटा सा गाँव था जहाँ लोग सुबह जल्दी उठते थे और खेतों में काम करते थे "
    "शाम को वे पेड़ के नीचे बैठकर कहानियाँ सुनते थे और बच्चे पानी में कंकड़ फेंकते थे "
)
PERSIAN = (
    "در کنار رودخانه دهکده‌ای بود که مردمش صبح زود برمی‌خاستند و در باغ‌ها کار می‌کردند "
    "شب‌ها زیر درخت می‌نشستند و قصه می‌گفتند و کودکان سنگ در آب می‌انداختند "
)
THAI = "แม่น้ำสายเล็กไหลผ่านหมู่บ้านที่ผู้คนตื่นแต่เช้าและออกไปทำงานในทุ่งนาทุกวัน"


@pytest.mark.parametrize("width", [32, 38, 60])
@pytest.mark.parametrize("mark", ["", "،", "۔", "।"])
@pytest.mark.parametrize("words", [ARABIC * 3, HINDI * 4, PERSIAN * 4, ENGLISH.lower()], ids=len)
def test_verse_without_capitals_keeps_its_lines(words: str, mark: str, width: int) -> None:
    verse = even_lines(words, width, mark)
    assert unwrapped(verse) == verse
    stanzas = "\n\n".join([verse] * 4)
    assert unwrapped(stanzas) == stanzas


def test_verse_within_a_wrapped_book_keeps_its_lines() -> None:
    verse = even_lines(PERSIAN * 2, 72)
    assert verse.count("\n") >= 3
    wrapped = "\n\n".join(textwrap.fill(text, 72) for text in PROSE.split("\n\n"))
    assert unwrapped(f"{wrapped}\n\n{verse}") == f"{PROSE}\n\n{verse}"


def test_a_list_of_titles_keeps_its_lines() -> None:
    titles = [re.sub(r"[^\w ]", "", text)[:44].lower() for text in own_texts.prose(60)]
    assert unwrapped("\n".join(titles)) == "\n".join(titles)


def test_thai_lines_never_get_a_space() -> None:
    wrapped = "\n\n".join(textwrap.fill(text, 40) for text in PROSE.split("\n\n"))
    text = unwrapped(f"{wrapped}\n\n{THAI[:39]}\n{THAI[39:]}")
    assert " " not in text.split("\n\n")[-1]


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
