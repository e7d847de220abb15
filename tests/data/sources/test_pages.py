"""Web pages as people save them: no form of markup costs the text of the page."""

from pathlib import Path

import pytest
from helpers import own_texts
from helpers.own_reader import read, texts
from helpers.own_texts import ENGLISH, GERMAN

MANY = own_texts.prose(25)
PARAGRAPHS = "".join(f"<p>{text}</p>" for text in MANY)


@pytest.mark.parametrize(
    "page",
    [
        f"<body><form id=aspnetForm method=post><input type=hidden>{PARAGRAPHS}</form></body>",
        f"<head><title>A title</title><meta charset=utf-8><body>{PARAGRAPHS}</body>",
        f"<html><head><title>A title</title>{PARAGRAPHS}",
        f"<head><script>var a = 1</script><link href=x><div>{PARAGRAPHS}</div>",
        f"<article><p>{'We use cookies to count visits. ' * 9}</p></article>{PARAGRAPHS}",
        f"<main>{PARAGRAPHS}</main><p>{ENGLISH}</p>",
        f"<nav>{PARAGRAPHS}</nav>",
        f"<aside><div>{PARAGRAPHS}</div></aside><select><option>one</select>",
        f"<noscript>{PARAGRAPHS}</noscript>",
    ],
    ids=lambda page: page[:25],
)
def test_the_text_of_a_page_is_read_whatever_surrounds_it(tmp_path: Path, page: str) -> None:
    (tmp_path / "a.html").write_text(page)
    (text,) = texts(tmp_path)
    cookies = ["We use cookies to count visits. " * 9]
    before = [one.strip() for one in cookies if "cookies" in page]
    assert text.split("\n\n") == [*before, *MANY]


def test_text_at_the_end_of_a_head_begins_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f"<head><title>A title</title>\n{ENGLISH}")
    assert [text.strip() for text in texts(tmp_path)] == [ENGLISH]


def test_controls_of_a_form_are_no_text(tmp_path: Path) -> None:
    controls = "<button>Send</button><select><option>one<option>two</select><textarea>x</textarea>"
    (tmp_path / "a.html").write_text(f"<form>{controls}<p>{GERMAN}</p></form>")
    assert texts(tmp_path) == [GERMAN]


@pytest.mark.parametrize("name", ["a.html", "a.txt", "a.jsonl.gz", "a.zip"])
def test_a_file_without_text_counts_with_its_size(tmp_path: Path, name: str) -> None:
    content = b"<script>x</script>" if name == "a.html" else b" \n" * 9
    if name == "a.zip":
        content = own_texts.archive({"b.txt": content})
    elif name.endswith("gz"):
        content = own_texts.PACKINGS[".gz"](content)
    (tmp_path / name).write_bytes(content)
    (tmp_path / "empty.txt").touch()
    documents, report = read(tmp_path)
    assert documents == []
    inside = "a.zip/b.txt" if name == "a.zip" else name
    assert report.messages[0].startswith(f"{tmp_path}/{inside} holds no text: ")
    assert report.messages[1].startswith(f"{tmp_path}/empty.txt is empty: ")
    # Of a member of an archive its packed size
    lost = report.counts["skipped"]
    assert 0 < lost < len(content) if name == "a.zip" else lost == len(content)
