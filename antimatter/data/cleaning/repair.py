"""ftfy.fix_text(), applied only where it is needed.

Curly quotes and full-width characters are good in themselves, so RepairConfig says whether they
stay. Most lines hold nothing that ftfy changes, or only curly quotes and byte order marks. One
regular expression finds the other lines, and only they go through ftfy.
"""

import re
import unicodedata
from functools import cache

import ftfy
from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES
from ftfy.chardata import CONTROL_CHARS, LIGATURES, WIDTH_MAP
from ftfy.fixes import uncurl_quotes

from antimatter.data.cleaning.config import RepairConfig

# What ftfy does by default
FULL = RepairConfig(straight_quotes=True, usual_width=True)

# The byte order mark, formerly a zero-width space: the only common character that ftfy deletes
BOM = "\ufeff"
# ASCII that ftfy leaves alone; `&` may begin an entity
PLAIN = bytes({*b"\t\n\f", *range(32, 127)} - {*b"&"})
SEGMENT = 1_000_000  # characters of a line that ftfy processes at once


def fix_text(text: str, config: RepairConfig = FULL, markup: bool = False) -> str:
    """Equal to ftfy.fix_text(text, uncurl_quotes=…, fix_character_width=…).

    Args:
        markup: whether a `<` preceded the text; ftfy then leaves entities alone.
    """
    if text.isascii() and not text.encode().translate(None, PLAIN):
        return text
    suspicious, first = suspicious_pattern(), text.find("<")
    parts, done = [], 0
    while match := suspicious.search(text, done):
        start = text.rfind("\n", done, match.start()) + 1 or done
        end = text.find("\n", match.start()) + 1 or len(text)
        parts.append(_straighten(text[done:start], config, markup))
        markup = markup or 0 <= first < start
        parts.append(_ftfy(text[start:end], config, markup))
        markup = markup or 0 <= first < end
        done = end
    return "".join(parts) + _straighten(text[done:], config, markup)


def _straighten(text: str, config: RepairConfig, markup: bool) -> str:
    """fix_text() of lines without suspicious characters."""
    if text.isascii():
        return text
    if BOM not in text:
        return uncurl_quotes(text) if config.straight_quotes else text
    if len(text) > SEGMENT:
        return _ftfy(text, config, markup)
    text = uncurl_quotes(text) if config.straight_quotes else text
    # Repeated, as in ftfy: characters that the marks separated are adjacent now
    return fix_text(text.replace(BOM, ""), config, markup)


def _ftfy(text: str, config: RepairConfig, markup: bool) -> str:
    return ftfy.fix_text(
        text,
        unescape_html=False if markup else "auto",
        uncurl_quotes=config.straight_quotes,
        fix_character_width=config.usual_width,
    )


@cache
def suspicious_pattern() -> re.Pattern[str]:
    """Finds all that ftfy may change besides curly quotes and byte order marks:

    - a character that it replaces, deletes or composes with the one before;
    - an entity;
    - what BADNESS_RE may take for mojibake: one of ŒœÂÃ, or two adjacent characters of its classes,
      unless both are of the classes that are adjacent in good text too.
    """
    classes = "".join(MOJIBAKE_CATEGORIES.values())
    others = "".join(character for character in BADNESS_RE.pattern if not character.isascii())
    clue = re.compile(f"[{classes}{others}]")
    mild = {
        *MOJIBAKE_CATEGORIES["common"],
        *MOJIBAKE_CATEGORIES["start_punctuation"],
        *MOJIBAKE_CATEGORIES["end_punctuation"],
    }
    touched = {
        *map(chr, CONTROL_CHARS.keys() | LIGATURES.keys() | WIDTH_MAP.keys()),
        *"\r\u2028\u2029ŒœÂÃ",
        *map(chr, (*range(0x80, 0xA0), *range(0x1100, 0x1200), *range(0xD800, 0xE000))),
    } - {BOM}
    strong = set()
    for character in map(chr, range(0x80, 0x10000)):
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            touched.add(chr(int(parts[1], 16)))
        if unicodedata.combining(character) or unicodedata.normalize("NFC", character) != character:
            touched.add(character)
        elif clue.match(character) and character not in mild:
            strong.add(character)
    # All beyond the basic plane but the emoji, U+1F000 to U+1FAFF
    a = "".join(touched) + "\U00010000-\U0001efff\U0001fb00-\U0010ffff"
    b, c = "".join(strong), "".join(mild)
    return re.compile(
        f"[{a}{b}{c}&](?:(?<=[{a}])|(?<=[{b}])[{b}{c}]|(?<=[{c}])[{b}]|(?<=&)#?[0-9A-Za-z]{{1,24}};)"
    )
