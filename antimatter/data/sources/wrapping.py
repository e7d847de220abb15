"""Joins the lines of hard-wrapped prose into paragraphs.

A text is hard-wrapped if most of its line breaks are there because the next word did not fit. Its
width is the length that 5% of its lines exceed, over the lines that another line follows directly.
It is wrapped if

- the width is 30 to 140 characters;
- 80% of the lines are full: with the first word of the next line they exceed 90% of the width;
- fewer than 40% of the lines end like a sentence, which excludes a sentence a line;
- fewer than 8% of the characters are digits, brackets and operators, which excludes code and data;
- fewer than 60% of the lines after one that ends within a sentence begin with a capital letter,
  which excludes verse and plays (German prose has 40%);
- sentences end within lines, one in ten lines at least, and not more often at the end of lines. In
  verse and lists, sentences end where lines do, or have no marks.

If no line begins with a capital letter, as in scripts without them, the rule for capitals says
nothing. Then sentences must end within lines twice as often as with lines and at least twice, three
quarters of the blocks must end with a sentence, and 95% of the lines must be full to the character:
with the first word of the next line they exceed the longest line.

Then each block of adjacent lines is joined where three quarters of its lines are full, so poems,
addresses and contents within a book remain. Four lines or more in which no sentence ends remain
too. Headings, tables, quotes, fences and what they enclose
are never joined. Another indentation and a list item begin a new block. A text with one paragraph a
line has nothing to join and does not change.

A hyphen at the end of a line is removed only if the word occurs without it elsewhere in the text.
"""

import math
import re
from collections.abc import Callable, Iterator

MIN_WIDTH, MAX_WIDTH = 30, 140
MIN_BREAKS = 3
FULL, MIN_FULL, MIN_FULL_BLOCK = 0.9, 0.8, 0.75
MAX_SENTENCE_ENDS, MAX_CAPITALS, MAX_SYMBOLS = 0.4, 0.6, 0.08
# Of a text in which no line begins with a capital letter
MIN_FULL_EXACTLY, MIN_ENDED_BLOCKS = 0.95, 0.75
LINES_PER_SENTENCE, MAX_OPEN_LINES = 10, 4

# Headings, quotes, tables, directives, rulers, tags, columns
_MARKED = re.compile(r"\s*(?:[>|#:]|\.\. |[=~^_*-]{3,}\s*$|<\w)|.*(?:\t| {3,}|\|).*\S")
_ITEM = re.compile(r"\s*(?:[-*+•]|\(?(?:\d{1,3}|[a-z]|[ivxlc]{2,5})[.)]) ", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```|~~~)")
_SENTENCE_END = re.compile(r"[.!?…:;。！？：；؟؛۔।॥][\"'”’»«)\]]*$")
_WITHIN = re.compile(r"[.!?…:;؟؛۔।॥][\"'”’»«)\]]*\s+\S|[。！？：；][”’」』）]*[^\s”’」』）。！？]")
_WORD = re.compile(r"[^\W\d_]+")
_HYPHEN = re.compile(r"([^\W\d_]+)-$")
_FIRST = re.compile(r"\S+")
# What prose hardly consists of: digits, brackets, operators
_SYMBOL = re.compile(r"[\d_(){}\[\]<>=+*/\\|&^%$#@~`]")
# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese, Japanese
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff60"
    "\U00020000-\U0003ffff]"
)
# After a hyphen they mean that it stays: "short- and long-term"
_AND = {"and", "or", "to", "und", "oder", "bis", "et", "ou", "y", "o", "e", "en", "of"}


def width(text: str) -> int:
    """The width to which a text is wrapped, in characters; 0 if it is not."""
    lines = text.split("\n")
    blocks = list(_blocks(lines))
    breaks = [
        (lines[i].rstrip(), lines[i + 1]) for first, last in blocks for i in range(first, last - 1)
    ]
    if len(breaks) < MIN_BREAKS:
        return 0
    lengths = sorted(len(line) for line, _ in breaks)
    found = lengths[math.ceil(0.95 * len(lengths)) - 1]
    if not MIN_WIDTH <= found <= MAX_WIDTH:
        return 0
    full = sum(_is_full(line, after, FULL * found) for line, after in breaks)
    ends = [bool(_SENTENCE_END.search(line)) for line, _ in breaks]
    within = [after for (_, after), is_end in zip(breaks, ends, strict=True) if not is_end]
    cased = [letter for after in within if (letter := _letter(after)).lower() != letter.upper()]
    capitals = sum(letter.isupper() for letter in cased)
    symbols = sum(len(_SYMBOL.findall(line)) for line, _ in breaks)
    is_wrapped = (
        symbols < MAX_SYMBOLS * sum(lengths)
        and full >= MIN_FULL * len(breaks)
        and sum(ends) < MAX_SENTENCE_ENDS * len(breaks)
        and capitals <= MAX_CAPITALS * len(cased)
        and _has_sentences(lines, blocks, breaks, sum(ends))
    )
    return found if is_wrapped else 0


def _has_sentences(
    lines: list[str], blocks: list[tuple[int, int]], breaks: list[tuple[str, str]], ends: int
) -> bool:
    """Whether sentences end within lines, as they do in wrapped prose alone.

    Args:
        ends: the lines before a break that end like a sentence.
    """
    within = sum(
        len(_WITHIN.findall(lines[i])) for first, last in blocks for i in range(first, last)
    )
    has_capitals = any(
        _letter(lines[i]).isupper() for first, last in blocks for i in range(first, last)
    )
    if has_capitals:
        return within >= len(breaks) // LINES_PER_SENTENCE and ends <= 1 + within
    ended = sum(bool(_SENTENCE_END.search(lines[last - 1].rstrip())) for _, last in blocks)
    longest = max(len(line) for line, _ in breaks)
    full = sum(_is_full(line, after, longest) for line, after in breaks)
    return (
        within >= max(2, 2 * ends, len(breaks) // LINES_PER_SENTENCE)
        and ended >= MIN_ENDED_BLOCKS * len(blocks)
        and full >= MIN_FULL_EXACTLY * len(breaks)
    )


def join(text: str, to: int) -> str:
    """A text whose lines are wrapped to the width `to`, with a paragraph a line."""
    lines = text.split("\n")
    known: set[str] = set()

    def is_known(word: str) -> bool:
        if not known:
            known.update(word.lower() for word in _WORD.findall(text))
        return word.lower() in known

    result: list[str] = []
    done = 0
    for first, last in _blocks(lines):
        breaks = range(first, last - 1)
        full = [_is_full(lines[i].rstrip(), lines[i + 1], FULL * to) for i in breaks]
        result += lines[done : first + 1]
        done = last
        # The first line may be a heading
        judged = full if full[0] else full[1:]
        is_full = bool(judged) and sum(judged) >= MIN_FULL_BLOCK * len(judged)
        if not is_full or _is_open(lines[first:last]):
            result += lines[first + 1 : last]
            continue
        for i in breaks:
            if full[i - first] or _continues(lines[i], lines[i + 1]):
                result[-1] = _joined(result[-1].rstrip(), lines[i + 1].lstrip(), is_known)
            else:
                result.append(lines[i + 1])
    return "\n".join(result + lines[done:])


def _blocks(lines: list[str]) -> Iterator[tuple[int, int]]:
    """The ranges of adjacent lines that may be one paragraph or list item: two or more, from the
    second on with the same indentation.
    """
    first, rest, is_fenced = 0, -1, False
    for number, line in enumerate([*lines, ""]):
        is_fence = bool(_FENCE.match(line))
        is_prose = bool(line.strip()) and not (is_fenced or is_fence or _MARKED.match(line.strip()))
        indent = _indent(line)
        if number == first + 1:
            # Deeper only below a list item
            is_item = bool(_ITEM.match(lines[first]))
            rest = indent if is_item or indent <= _indent(lines[first]) else -1
        if not is_prose or indent != rest or _ITEM.match(line):
            if number - first > 1:
                yield first, number
            first = number if is_prose else number + 1
        is_fenced ^= is_fence


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_open(lines: list[str]) -> bool:
    """Whether no sentence ends in many lines, as in verse without marks."""
    has_end = any(_WITHIN.search(line) or _SENTENCE_END.search(line.rstrip()) for line in lines)
    return len(lines) >= MAX_OPEN_LINES and not has_end


def _is_full(line: str, after: str, to: float) -> bool:
    """Whether the first word of the next line did not fit in this one, of a width `to`."""
    first = _FIRST.search(after)
    # Without spaces a line ends after any character, apart from a mark that may not begin a line
    added = 2 if _UNSPACED.match(after) else 1 + len(first[0] if first else "")
    return len(line) + added > to


def _letter(line: str) -> str:
    """The first letter of a line, or an empty text."""
    match = _WORD.search(line[:8])
    return match[0][0] if match else ""


def _continues(line: str, after: str) -> bool:
    """Whether a sentence certainly continues in the next line."""
    return not _SENTENCE_END.search(line.rstrip()) and _letter(after[:1]).islower()


def _joined(line: str, after: str, is_known: Callable[[str], bool]) -> str:
    if line.endswith("\xad"):
        return line[:-1] + after
    # By what is around, since a line of Chinese may begin with a number or a quotation mark
    around = line[-40:] + after[:40]
    if 3 * len(_UNSPACED.findall(around)) > len(around):
        return line + after
    if line.endswith(("--", "—")):
        return line + after
    before = _HYPHEN.search(line[-60:]) if line.endswith("-") else None
    following = _WORD.match(after)
    if not before or not following or not after[0].islower() or following[0] in _AND:
        return f"{line} {after}"
    return (line[:-1] if is_known(before[1] + following[0]) else line) + after
