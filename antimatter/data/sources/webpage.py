"""The main text of an HTML page.

Python's own parser reads the page: it needs no other package, and never fails on bad markup. What
surrounds the text (scripts, styles, navigation, headers, footers, controls of forms) is left out by
the tags of HTML 5. If the page marks its main part (`main`, `article`) and that holds most of the
text, the text is that part. If all text is within navigation and the like, it is that text.
"""

import re
from collections import Counter
from html.parser import HTMLParser
from typing import NamedTuple

from antimatter.data.sources import encodings
from antimatter.data.sources.encodings import Encoding

MAX_PAGE = 1 << 25  # bytes
# No text of these is on the page, or it is no prose. A form itself may enclose a whole page
_NO_TEXT = {
    *("script", "style", "template", "head", "svg", "math", "iframe", "object", "canvas", "audio"),
    *("video", "select", "option", "textarea", "button"),
}
# These are left out, unless the page has no other text
_BESIDE = {"nav", "aside", "noscript", "dialog", "menu"}
# These too, unless they are within the main part
_AROUND = {"header", "footer"}
_MAIN = {"main", "article"}
# A head may lack its end tag: it ends before the first other tag, or text
_IN_HEAD = {"title", "base", "link", "meta", "style", "script", "noscript", "template", "object"}
# Begin and end a paragraph
_BLOCKS = {
    *("p", "div", "section", "article", "main", "header", "footer", "blockquote", "pre", "ul"),
    *("ol", "dl", "dt", "dd", "figure", "figcaption", "table", "h1", "h2", "h3", "h4", "h5"),
    *("h6", "hr", "address", "details", "summary", "body", "caption", "fieldset", "form"),
}
_UNCLOSED = {"p", "li", "dt", "dd", "td", "th", "tr", "option"}
_LINES = {"br", "li", "tr"}
_VOID = {
    *("br", "hr", "img", "input", "meta", "link", "area", "base", "col", "embed", "source"),
    *("track", "wbr", "param"),
}
_META = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?([\w-]+)", re.I)
_SPACE = re.compile(r"\s+")


def decoded(data: bytes, encoding: str = "") -> tuple[str, Encoding] | None:
    """A page as text, and its encoding: UTF-8 if it is valid, else what the page declares, else as
    for any text. None if it is no text.

    Args:
        encoding: that of the page, if it is known.
    """
    if encoding:
        return data.decode(encoding, "replace"), Encoding(encoding, encoding, "replace")
    found = encodings.decode(data)
    declared = _META.search(data[:2048])
    if found and declared and found[1].label not in ("UTF-8", "UTF-8, damaged"):
        name = declared[1].decode("ascii", "replace").lower()
        try:
            # As browsers do: Latin-1 means Windows-1252
            codec = "cp1252" if name in ("iso-8859-1", "latin1", "latin-1") else name
            is_marked = found[1].codec.startswith(("utf-16", "utf-32", "utf-8-sig"))
            if not is_marked:
                return data.decode(codec), Encoding(codec, codec, "strict")
        except (LookupError, ValueError):
            pass
    return found


def text_of(page: str) -> str:
    """The main text of a page: paragraphs with blank lines between them, without markup."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    parser.end_paragraph()
    main, rest = (sum(map(len, part)) for part in (parser.main, parser.rest))
    # An article may also be a short notice beside the text
    chosen = parser.main if 2 * main >= rest else parser.rest
    return "\n\n".join(chosen or parser.beside)


class _Open(NamedTuple):
    """A tag that is open, and what holds for the text within it."""

    tag: str
    is_hidden: bool = False
    is_beside: bool = False
    is_main: bool = False
    is_pre: bool = False


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.main: list[str] = []  # paragraphs of the main part
        self.rest: list[str] = []  # all paragraphs, without those beside
        self.beside: list[str] = []  # paragraphs of navigation and the like
        self._open = [_Open("")]
        self._depth = Counter[str]()  # open tags by name
        self._text: list[str] = []  # of the paragraph that is not closed yet

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._open[-1].tag == "head" and tag not in _IN_HEAD:
            self._close()
        self._at(tag)
        if tag in _VOID:
            return
        # A paragraph or list item ends where the next begins
        if tag == self._open[-1].tag and tag in _UNCLOSED:
            self._close()
        outer = self._open[-1]
        is_main = outer.is_main or tag in _MAIN
        is_hidden = outer.is_hidden or tag in _NO_TEXT
        is_beside = outer.is_beside or tag in _BESIDE or (tag in _AROUND and not is_main)
        # Text within a paragraph too: "Read on <nav>...</nav>"
        if is_beside != outer.is_beside:
            self.end_paragraph()
        is_pre = outer.is_pre or tag == "pre"
        self._open.append(_Open(tag, is_hidden, is_beside, is_main, is_pre))
        self._depth[tag] += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at(tag)

    def handle_endtag(self, tag: str) -> None:
        self._at(tag)
        # Tags that were never closed end with the one around them
        if self._depth[tag]:
            while self._close() != tag:
                pass

    def _close(self) -> str:
        if self._open[-1].is_beside and not self._open[-2].is_beside:
            self.end_paragraph()
        tag = self._open.pop().tag
        self._depth[tag] -= 1
        return tag

    def handle_data(self, data: str) -> None:
        if self._open[-1].tag == "head" and data.strip():
            self._close()
        here = self._open[-1]
        if not here.is_hidden:
            self._text.append(data if here.is_pre else _SPACE.sub(" ", data))

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """`<![`, which is a comment to browsers, and to Python an error where it knows no name."""
        return self.parse_bogus_comment(i)

    def _at(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.end_paragraph()
        elif tag in _LINES:
            self._text.append("\n")
        elif tag in ("td", "th"):
            self._text.append(" ")

    def end_paragraph(self) -> None:
        text = "".join(self._text)
        self._text = []
        if self._open[-1].is_pre:
            text = text.strip("\n").rstrip()
        else:
            lines = (" ".join(line.split()) for line in text.split("\n"))
            text = "\n".join(line for line in lines if line)
        if text.strip() and self._open[-1].is_beside:
            self.beside.append(text)
        elif text.strip():
            self.rest.append(text)
            if self._open[-1].is_main:
                self.main.append(text)
