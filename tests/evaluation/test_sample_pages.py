"""Pages of texts, read by the YAML library that DVC reads them with."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from antimatter import params
from antimatter.evaluation import pages

TEXTS = [
    "",
    "a line",
    "two\nlines",
    "two\n\n lines, the second indented",
    "  indented",
    "# no comment",
    "- no: list",
    "'quoted\" {no: map} [no list] &a *b !c %d @e `f`",
    "null",
    "yes",
    "1e5",
    "---\n...\n--- x",
    "ends in a colon:",
    "\N{BOY} ∎ \N{SNOWMAN}\N{VARIATION SELECTOR-16} \ufffd",
    "\ufeffa mark",
    "not the end\u2028of a\x85line",
    "controls \x00\x07\x1b[31m\x7f\x9f and \rthose",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_and_a_caption_are_read_as_they_were_written(tmp_path: Path, text: str) -> None:
    content = {"heading": {"first": text, "second": "after it"}, "third": "at the end"}
    page = tmp_path / "page.yaml"
    pages.write(page, ["About."], content)
    assert YAML(typ="safe", pure=True).load(page) == content
    assert params.load(page) == content


def test_spaces_that_nobody_sees_are_left_out(tmp_path: Path) -> None:
    pages.write(tmp_path / "page.yaml", ["About."], {"a": "1 \n2\t\n\tthree\n\n"})
    text = (tmp_path / "page.yaml").read_text()
    assert text == "# About.\na: |-\n  1\n  2\n          three\n"


def test_long_comments_are_wrapped_and_lines_of_a_text_are_not(tmp_path: Path) -> None:
    long = "word " * 50 + "end"
    pages.write(tmp_path / "page.yaml", [long, "next"], {long: long})
    *comment, next_one, key, mark, text = (tmp_path / "page.yaml").read_text().splitlines()
    assert " ".join(line.removeprefix("# ") for line in comment) == long
    assert max(map(len, comment)) <= 100 and next_one == "# next"
    assert [key, mark, text] == [f"? {long}", ": |-", f"  {long}"]


def test_a_caption_that_is_taken_gets_a_number() -> None:
    texts: dict[str, str] = {}
    for text in "abc":
        pages.add(texts, "seed 1", text)
    assert texts == {"seed 1": "a", "seed 1 (2)": "b", "seed 1 (3)": "c"}


def test_columns_are_aligned() -> None:
    rows = [("measure", "base", "tuned"), ("who it is", "0.000", "0.918"), ("n", "1", "")]
    assert pages.columns(rows) == (
        "measure    base   tuned\n"  #
        "who it is  0.000  0.918\n"
        "n          1"
    )
