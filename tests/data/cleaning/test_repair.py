"""fix_text() against ftfy: on prose, on pairs of suspicious characters, and on random odd text."""

from random import Random

import ftfy
import pytest
from helpers.prose import PROSE

from antimatter.data.cleaning.config import RepairConfig
from antimatter.data.cleaning.repair import fix_text, suspicious_pattern

CLUES = "ÃÂâãåæçèéêëìíîïñòóôö€™œžŸ£¢¥§©«»°±²³´µ·º¼½¾¿×ØÙðÐÞßàáþÿ–—‘’“”„†•…‰‹›ˆ˜ƒŠВГР√≈βΓā│═ "
ODD = ["\ufeff", "\x00", "\x1b[31m", "\x1b", "\r", "\r\n", "\n", "\f", "\v", "\x85", "\u2028"]
ODD += ["\ud83d\ude00", "\ud800", "😀", "\U0001d15e", "e\u0301", "\u0301", "ﬁ", "ŉ", "Å", "Ｌ", "ｶﾞ"]
ODD += ["か\u3099", "\u1112\u1161", "각", "\u11a8", "\u09c7\u09be"]
ODD += ["&amp;", "&lt;", "&#x27;", "&amp;lt;", "&NTILDE;", "&", ";", "<", "'", '"']
CODECS = ("latin-1", "sloppy-windows-1252", "macroman", "cp437")


def odd_text(random):
    kinds = ["ab Z.,1", CLUES, "’“”—… ", ODD, [chr(code) for code in range(0x80, 0x600)]]
    shares = [random.random() ** 2 for _ in kinds]
    length = random.randrange(1, 40)
    text = "".join(random.choice(random.choices(kinds, shares)[0]) for _ in range(length))
    if random.random() < 0.2:
        text += random.choice(CLUES).encode().decode(random.choice(CODECS), "replace")
    return text


@pytest.mark.parametrize("straight_quotes", [True, False])
@pytest.mark.parametrize("usual_width", [True, False])
def test_it_equals_ftfy(straight_quotes, usual_width):
    config = RepairConfig(straight_quotes=straight_quotes, usual_width=usual_width)
    options = {"uncurl_quotes": straight_quotes, "fix_character_width": usual_width}
    random = Random(0)
    pairs = [f"a{first}{second}b" for first in CLUES for second in CLUES]
    lines = [
        "voilÃ le travail",
        "â\ufeff€\ufeff™",
        "<\x00\n&am\ufeffp;",
        "&am\ufeffp;\x00\n<\ufeff\n&am\ufeffp;\n&amp;",
    ]
    for text in pairs + lines + [odd_text(random) for _ in range(4_000)] + PROSE[:50]:
        assert fix_text(text, config) == ftfy.fix_text(text, **options), ascii(text)


def test_good_characters_are_kept_unless_asked_otherwise():
    text = "“It’s ３，000！”\nﾃｽﾄ「はい」，&amp; sÃ£o"
    keep = RepairConfig(straight_quotes=False, usual_width=False)
    assert fix_text(text, keep) == "“It’s ３，000！”\nﾃｽﾄ「はい」，& são"
    assert fix_text(text) == '"It\'s 3,000!"\nテスト「はい」,& são'


@pytest.mark.parametrize("marks", ["", 5 * "\ufeff"])
def test_long_lines_are_cut_where_ftfy_cuts_them(marks):
    # The last three come after 1,000,000 characters
    text = marks + (999_999 - len(marks)) * "a" + "â\ufeff€\ufeff™"
    assert fix_text(text) == ftfy.fix_text(text)
    assert fix_text(text).endswith("aâ€™")


def test_characters_that_are_not_suspicious_are_not_changed():
    pattern = suspicious_pattern()
    characters = [chr(code) for code in range(0x110000) if not pattern.search(chr(code))]
    assert len(characters) > 50_000
    text = "\n".join(" ".join(characters[i : i + 500]) for i in range(0, len(characters), 500))
    assert fix_text(text) == ftfy.fix_text(text)
    # Only the byte order mark is deleted
    assert len(text) - len(fix_text(text)) == 1
