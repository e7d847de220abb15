"""Cuts a long text into documents at its own structure."""

import math
import re
from collections.abc import Iterator, Sequence

# Begins a part of a text, at the beginning of a paragraph: of Markdown, or of a book
_HEADING = re.compile(
    r"#{1,6} \S"
    r"|(?:chapter|part|book|section|act|scene|letter|canto|kapitel|teil|abschnitt|akt|szene|brief"
    r"|chapitre|partie|livre|acte|sc.ne|cap.tulo|parte|libro|capitolo|глава|часть|الفصل|الباب"
    r")\s+[\w.:-]{1,12}(?:\b.{0,60})?(?:\n|$)"
    r"|第[\d〇一二三四五六七八九十百零]{1,5}[章回部卷节]",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
# What a text is cut into, the larger the better: paragraphs, lines, sentences, words
_LEVELS = (
    re.compile(r"\n[^\S\n]*\n\s*"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?…。！？؟۔])[\"'”’»)]*\s+|(?<=[。！？])"),
    re.compile(r"\s+"),
)


def split(text: str, kb: float) -> Iterator[str]:
    """A text in pieces of at most `kb` kilobytes of UTF-8, or whole if it is no longer; 0: any.

    A piece ends before a heading if it can, else between paragraphs, lines, sentences or words, in
    this order. Small neighbours share a piece, and the pieces of a long part are of about the same
    size. No character is lost but the blank lines between pieces.
    """
    limit = max(int(kb * 1000), 4)
    if not kb or len(text) <= limit // 4 or _size(text) <= limit:
        yield text
        return
    for piece in _packed(_sections(text), limit, 0):
        if piece := piece.strip("\n"):
            yield piece


def _size(text: str) -> int:
    return len(text.encode())


def _sections(text: str) -> list[str]:
    """A text cut before each heading."""
    paragraphs = _cut(text, _LEVELS[0])
    sections: list[list[str]] = [[]]
    is_fenced = False
    for paragraph in paragraphs:
        if not is_fenced and _HEADING.match(paragraph):
            sections.append([])
        sections[-1].append(paragraph)
        is_fenced ^= len(_FENCE.findall(paragraph)) % 2 == 1
    return ["".join(section) for section in sections if section]


def _cut(text: str, separator: re.Pattern[str]) -> list[str]:
    """A text cut after each separator."""
    ends = [match.end() for match in separator.finditer(text)]
    starts = [0, *ends]
    parts = [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
    return [part for part in parts if part]


def _packed(parts: Sequence[str], limit: int, level: int) -> Iterator[str]:
    """Adjacent parts as runs of at most `limit` bytes. A part that is longer is cut at the next
    level.
    """
    run: list[str] = []
    for part in parts:
        if _size(part) <= limit:
            run.append(part)
            continue
        yield from _runs(run, limit)
        run = []
        if level < len(_LEVELS):
            yield from _packed(_cut(part, _LEVELS[level]), limit, level + 1)
        else:
            yield from _characters(part, limit)
    yield from _runs(run, limit)


def _runs(parts: Sequence[str], limit: int) -> Iterator[str]:
    """Parts, none of them longer than the limit, in runs of about the same size."""
    sizes = [_size(part) for part in parts]
    remaining = sum(sizes)
    run, size = "", 0
    for part, part_size in zip(parts, sizes, strict=True):
        goal = remaining / math.ceil(remaining / limit)
        # Nearer to the goal without this part than with it
        if run and (size + part_size > limit or size + part_size / 2 > goal):
            yield run
            remaining -= size
            run, size = "", 0
        run += part
        size += part_size
    if run:
        yield run


def _characters(text: str, limit: int) -> Iterator[str]:
    """A text without any space in pieces of at most `limit` bytes."""
    data, start = text.encode(), 0
    while start < len(data):
        end = min(start + limit, len(data))
        # A continuation byte of UTF-8 begins with the bits 10
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end].decode()
        start = end
