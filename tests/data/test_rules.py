"""Our filters against those of datatrove, and mend() against ftfy: on real prose, and on text made to sit at the thresholds."""

import re
from collections import Counter
from itertools import pairwise, product
from pydoc_data.topics import topics
from random import Random

import ftfy
import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.c4_filters import POLICY_SUBSTRINGS
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_top_duplicate,
    get_n_grams,
)
from datatrove.utils.text import PUNCTUATION_SET
from datatrove.utils.word_tokenizers import WordTokenizer, load_tokenizer_assignments

from antimatter.data.cleaning.config import (
    C4Config,
    FineWebConfig,
    GopherConfig,
    LanguageConfig,
    RepetitionConfig,
)
from antimatter.data.cleaning.rules import (
    BLOCK,
    C4,
    LETTER,
    PROPER,
    VISIBLE,
    FineWeb,
    Gopher,
    Repetition,
    has_longer_word,
    mend,
    repeated_characters,
    steps,
    suspicious_pattern,
    top_ngram_characters,
    words_of,
)

PROSE = [
    *topics.values(),
    *(
        value.__doc__
        for value in vars(np).values()
        if isinstance(value.__doc__, str) and len(value.__doc__) > 500
    ),
]
SYMBOLS = ("#", "1999", "—", "...", "(", "²", "3rd", "\x00", "é")


class Whitespace(WordTokenizer):
    def word_tokenize(self, text):
        return text.split()

    def sent_tokenize(self, text):
        return [text[start:end] for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text):
        ends = [match.end() for match in C4.SENTENCE_END.finditer(text)] or [len(text)]
        return list(zip([0, *ends[:-1]], ends, strict=True))


@pytest.fixture(autouse=True)
def whitespace_words(monkeypatch):
    monkeypatch.setitem(load_tokenizer_assignments(), "whitespace", Whitespace)


def c4(draw):
    config = C4Config(
        enabled=True,
        terminal_punctuation=draw(True, False),
        min_words_per_line=draw(0, 3, 6),
        javascript=draw(True, False),
        curly_bracket=draw(True, False),
        min_sentences=draw(0, 1, 3, 10),
    )
    theirs = C4QualityFilter(
        remove_citations=False,
        filter_no_terminal_punct=config.terminal_punctuation,
        min_words_per_line=config.min_words_per_line,
        filter_javascript=config.javascript,
        filter_curly_bracket=config.curly_bracket,
        min_num_sentences=config.min_sentences,
        language="whitespace",
    )
    return C4(config), theirs


def gopher(draw):
    config = GopherConfig(
        enabled=True,
        min_words=draw(1, 20, 50),
        max_words=draw(100, 1000, 100000),
        min_word_length=draw(0, 3, 4.5),
        max_word_length=draw(0, 6, 10),
        max_symbol_ratio=draw(0, 0.01, 0.1),
        max_bullet_lines=draw(0, 0.1, 0.5, 0.9),
        max_ellipsis_lines=draw(0, 0.1, 0.3),
        min_alphabetic_words=draw(0, 0.8, 0.95),
        min_stop_words=draw(0, 2, 6),
    )
    theirs = GopherQualityFilter(
        min_doc_words=config.min_words,
        max_doc_words=config.max_words,
        min_avg_word_length=config.min_word_length,
        max_avg_word_length=config.max_word_length,
        max_symbol_word_ratio=config.max_symbol_ratio,
        max_bullet_lines_ratio=config.max_bullet_lines,
        max_ellipsis_lines_ratio=config.max_ellipsis_lines,
        max_non_alpha_words_ratio=config.min_alphabetic_words,
        min_stop_words=config.min_stop_words,
        language="whitespace",
    )
    return Gopher(config), theirs


def fineweb(draw):
    config = FineWebConfig(
        enabled=True,
        min_punctuated_lines=draw(0, 0.12, 0.5),
        short_line_length=draw(10, 30, 60),
        max_short_lines=draw(0.3, 0.67, 1),
        max_duplicate_line_chars=draw(0, 0.01, 0.2),
        max_lines_per_word=draw(0.01, 0.1, 0.3),
    )
    theirs = FineWebQualityFilter(
        line_punct_thr=config.min_punctuated_lines,
        short_line_length=config.short_line_length,
        short_line_thr=config.max_short_lines,
        char_duplicates_ratio=config.max_duplicate_line_chars,
        new_line_ratio=config.max_lines_per_word,
        language="whitespace",
    )
    return FineWeb(config), theirs


def repetition(draw):
    config = RepetitionConfig(
        enabled=True,
        max_duplicate_lines=draw(0, 0.1, 0.3),
        max_duplicate_line_chars=draw(0, 0.1, 0.2),
        max_top_ngram_chars=tuple(draw(0.02, 0.2, 1, 1) for _ in range(3)),
        max_duplicate_ngram_chars=tuple(draw(0, 0.02, 0.1, 0.5, 1, 1) for _ in range(6)),
    )
    theirs = GopherRepetitionFilter(
        dup_line_frac=config.max_duplicate_lines,
        dup_para_frac=config.max_duplicate_lines,
        dup_line_char_frac=config.max_duplicate_line_chars,
        dup_para_char_frac=config.max_duplicate_line_chars,
        top_n_grams=tuple(enumerate(config.max_top_ngram_chars, 2)),
        dup_n_grams=tuple(enumerate(config.max_duplicate_ngram_chars, 5)),
        language="whitespace",
    )
    return Repetition(config), theirs


def spoiled(random, text):
    """Real text with faults that some rule is about."""
    lines, words = text.split("\n"), text.split()
    first = random.randrange(len(words))
    phrase = words[first : first + random.choice((2, 5, 8, 12))]
    longest = sorted(words, key=len)[-8:]
    letters = "".join(phrase)
    cuts = [0, *sorted(random.choices(range(len(letters)), k=9)), len(letters)]
    faults = [
        lambda: text,
        lambda: " ".join(words),
        lambda: " ".join(words[: random.choice((1, 19, 20, 21, 49, 50, 51, 99))]),
        lambda: " ".join(words + random.choice((1, 5, 20)) * phrase),
        # Other words of the same letters
        lambda: " ".join(
            [*words, *phrase, *(letters[a:b] for a, b in pairwise(cuts) if a < b), *phrase]
        ),
        lambda: " ".join([*words, *longest, *phrase, *longest]),
        lambda: "the cat and dog " * 20,
        lambda: " ".join(
            random.choices(words[: random.choice((2, 3, 20))], k=random.choice((30, 200)))
        ),
        lambda: "\n".join(random.choices(lines[:30], k=random.choice((5, 10, 40)))),
        lambda: "\n\n\n".join(random.choices(lines[:10], k=10)) + "\n\n",
        lambda: "\n".join(random.choice(("- ", "• ", "", "  -")) + line for line in lines),
        lambda: "\n".join(
            line + random.choice(("...", "…", ".", '."', "!?)", ". ")) for line in lines
        ),
        lambda: " ".join(
            word if random.random() < 0.9 else random.choice(SYMBOLS) for word in words
        ),
        lambda: re.sub(
            " ",
            lambda _: random.choice((" ", "\u3000", "\xa0", "\x1f", "\x85", "\u2028", "\n")),
            text,
        ),
        lambda: (
            text[:first]
            + random.choice((*POLICY_SUBSTRINGS, "JavaScript", "Lorem ipsum", "{", "Terms\nof Use"))
            + text[first:]
        ),
        lambda: random.choice((" ", "\n")).join(
            (text[:first], random.choice((999, 1000, 1001)) * "x", text[first:])
        ),
    ]
    return random.choice(faults)()


@pytest.mark.parametrize(
    ("rule", "verdicts"), [(c4, 4), (gopher, 11), (fineweb, 5), (repetition, 14)]
)
def test_each_rule_judges_as_datatrove_does(rule, verdicts):
    random = Random(rule.__name__)
    seen = Counter()
    for text in PROSE + [spoiled(random, random.choice(PROSE)[:3000]) for _ in range(1000)]:
        ours, theirs = rule(lambda *values: random.choice(values))
        expected, found = Document(text, ""), Document(text, "")
        verdict = theirs.filter(expected)
        assert (ours.filter(found), found.text) == (verdict, expected.text), text
        assert ours.stats.stats == theirs.stats.stats, text
        seen[verdict] += 1
    assert len(seen) == verdicts, f"some rules were never put to the test: {seen}"


def test_c4_looks_closely_wherever_a_policy_may_be_spoken_of():
    assert all(any(phrase in policy for phrase in C4.SUSPICIOUS) for policy in POLICY_SUBSTRINGS)


@pytest.mark.parametrize("space", [" ", "\t", "\u3000"])
def test_a_word_is_long_wherever_it_stands(space):
    for before, after in product(range(8), range(8)):
        for length in range(8):
            line = "a" * before + space + "b" * length + space + "c" * after
            assert has_longer_word(line, 4) == any(len(word) > 4 for word in line.split())


CONFIGS = (
    LanguageConfig(enabled=False, code="en", min_score=0.5),
    C4Config(
        enabled=True,
        terminal_punctuation=False,
        min_words_per_line=0,
        javascript=True,
        curly_bracket=True,
        min_sentences=0,
    ),
    GopherConfig(
        enabled=True,
        min_words=0,
        max_words=1000,
        min_word_length=0,
        max_word_length=0,
        max_symbol_ratio=0.1,
        max_bullet_lines=0.9,
        max_ellipsis_lines=0.3,
        min_alphabetic_words=0.8,
        min_stop_words=0,
    ),
    FineWebConfig(
        enabled=True,
        min_punctuated_lines=0,
        short_line_length=30,
        max_short_lines=1,
        max_duplicate_line_chars=1,
        max_lines_per_word=1,
    ),
    RepetitionConfig(
        enabled=True,
        max_duplicate_lines=1,
        max_duplicate_line_chars=1,
        max_top_ngram_chars=(1, 1, 1),
        max_duplicate_ngram_chars=(1, 1, 1, 1, 1, 1),
    ),
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\x00",
        " \x00\n\ufeff",
        "a",
        "é",
        "...",
        ". " * 2000,
        "\ud800",
        "x" * (BLOCK + 1),
        "\x00" * BLOCK,
        "{",
    ],
)
def test_no_text_is_too_odd_to_be_judged(text):
    for step in steps(*CONFIGS):
        for odd in (text, f" {text}\n"):
            verdict = step.filter(Document(odd, ""))
            assert verdict is True or (verdict[0] is False and isinstance(verdict[1], str))


# ---- words


def test_words_are_those_of_split():
    random = Random(0)
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    for size in (0, 1, 2, 10, 1000):
        text = "".join(
            random.choice([*spaces, *"abc.,é1²\x00\U0001f600\ud800"]) for _ in range(size)
        )
        words = words_of(text)
        assert words.lengths(1).tolist() == [len(word) for word in text.split()]
        assert len(set(words.joined(1).tolist())) == len(set(text.split()))


def test_every_character_has_its_kind():
    visible = [chr(code) for code in range(0x110000) if not chr(code).isspace()]
    expected = [
        VISIBLE | PROPER * (character not in PUNCTUATION_SET) | LETTER * character.isalpha()
        for character in visible
    ]
    assert words_of(" ".join(visible)).kinds.tolist() == expected


def test_where_a_long_text_is_cut_does_not_show():
    random = Random(0)
    some = [".", "1", "of", "é", "\n", ". ", "hundred"]
    mixed = "".join(
        random.choice(some) * random.choice((1, 1, 1, 2, BLOCK // 3, 2 * BLOCK))
        + random.choice(("", " "))
        for _ in range(100)
    )
    for text in (mixed, "1" * BLOCK + " y", "." * BLOCK + "y 1", "." * (BLOCK - 1) + " y"):
        words, shifted, split = words_of(text), words_of(" " * 1000 + text), text.split()
        assert words.lengths(1).tolist() == [len(word) for word in split]
        assert words.kinds.tolist() == [
            np.bitwise_or.reduce(words_of(" ".join(set(word))).kinds) for word in split
        ]
        for n in (1, 2, 7):
            assert words.joined(n).tolist() == shifted.joined(n).tolist()
        assert words.joined(2)[-1] == words_of(split[-2] + split[-1]).joined(1)[0]


def test_ngrams_are_compared_as_words_and_joined_ones_as_letters():
    words = words_of("ab cd db ca abc d a bcd")
    assert len(set(words.ngrams(2).tolist())) == 7
    pairs = words.joined(2).tolist()
    assert pairs[0] == pairs[4] == pairs[6] and len(set(pairs)) == 5
    assert repeated_characters(words, 2) == len("abcd") * 2


def test_repetition_is_counted_as_datatrove_does():
    random = Random(0)
    for _ in range(500):
        words = random.choices(("a", "b", "ab", "ba", "aa"), k=random.randrange(1, 60))
        for n in range(1, 8):
            assert repeated_characters(words_of(" ".join(words)), n) == find_all_duplicate(words, n)
            assert top_ngram_characters(words_of(" ".join(words)), n) == (
                find_top_duplicate(get_n_grams(words, n)) if n <= len(words) else 0
            )


# ---- ftfy

CLUES = "".join(
    character
    for character in "ÃÂâãåæçèéêëìíîïñòóôö€™œžŸ£¢¥§©«»°±²³´µ·º¼½¾¿×ØÙðÐÞßàáþÿ–—‘’“”„†•…‰‹›ˆ˜ƒŠВГР√≈βΓā│═ "
)
ODD = [
    "\ufeff",
    "\x00",
    "\x1b[31m",
    "\x1b",
    "\r",
    "\r\n",
    "\n",
    "\f",
    "\v",
    "\x85",
    "\u2028",
    "\ud83d\ude00",
    "\ud800",
    "😀",
    "\U0001d15e",
]
ODD += [
    "e\u0301",
    "\u0301",
    "ﬁ",
    "ŉ",
    "Å",
    "Ｌ",
    "ｶﾞ",
    "か\u3099",
    "\u1112\u1161",
    "각",
    "\u11a8",
    "\u09c7\u09be",
]
ODD += ["&amp;", "&lt;", "&#x27;", "&amp;lt;", "&NTILDE;", "&", ";", "<", "'", '"']


def odd_text(random):
    kinds = ["ab Z.,1", CLUES, "’“”—… ", ODD, [chr(code) for code in range(0x80, 0x600)]]
    shares = [random.random() ** 2 for _ in kinds]
    text = "".join(
        random.choice(random.choices(kinds, shares)[0]) for _ in range(random.randrange(1, 40))
    )
    if random.random() < 0.2:
        text += (
            random.choice(CLUES)
            .encode()
            .decode(
                random.choice(("latin-1", "sloppy-windows-1252", "macroman", "cp437")), "replace"
            )
        )
    return text


def test_mend_is_ftfy():
    random = Random(0)
    pairs = [f"a{first}{second}b" for first in CLUES for second in CLUES]
    lines = [
        "voilÃ le travail",
        "â\ufeff€\ufeff™",
        "<\x00\n&am\ufeffp;",
        "&am\ufeffp;\x00\n<\ufeff\n&am\ufeffp;\n&amp;",
    ]
    for text in pairs + lines + [odd_text(random) for _ in range(4_000)] + PROSE[:50]:
        assert mend(text) == ftfy.fix_text(text), ascii(text)


@pytest.mark.parametrize("marks", ["", 5 * "\ufeff"])
def test_mend_cuts_long_lines_where_ftfy_does(marks):
    # The last three come after 1,000,000 characters
    text = marks + (999_999 - len(marks)) * "a" + "â\ufeff€\ufeff™"
    assert mend(text) == ftfy.fix_text(text)
    assert mend(text).endswith("aâ€™")


def test_characters_that_are_not_suspicious_stay_as_they_are():
    pattern = suspicious_pattern()
    characters = [chr(code) for code in range(0x110000) if not pattern.search(chr(code))]
    assert len(characters) > 50_000
    text = "\n".join(" ".join(characters[i : i + 500]) for i in range(0, len(characters), 500))
    assert mend(text) == ftfy.fix_text(text)
    assert len(text) - len(mend(text)) == 1  # the byte order mark
