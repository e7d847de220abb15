"""Our rules against those of datatrove, on real prose and on text made to lie at the thresholds."""

import dataclasses
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.c4_filters import POLICY_SUBSTRINGS
from datatrove.utils.word_tokenizers import WordTokenizer, load_tokenizer_assignments
from helpers.prose import PROSE

from antimatter import params
from antimatter.data.cleaning.config import (
    C4Config,
    CleanConfig,
    FineWebConfig,
    GopherConfig,
    RepetitionConfig,
)
from antimatter.data.cleaning.languages import traits
from antimatter.data.cleaning.rules import C4, FineWeb, Gopher, Repetition, enabled_rules
from antimatter.data.cleaning.words import BLOCK

SYMBOLS = ("#", "1999", "—", "...", "(", "²", "3rd", "\x00", "é")


class Whitespace(WordTokenizer):
    def word_tokenize(self, text):
        return text.split()

    def sent_tokenize(self, text):
        return [text[start:end] for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text):
        ends = [match.end() for match in traits("en").sentence_end.finditer(text)] or [len(text)]
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
    return C4(config, traits("en")), theirs


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
    return Gopher(config, traits("en")), theirs


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
    """Real text with a fault that some rule is about."""
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
        # A phrase, different words with the same letters, and the phrase again
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
        document, expected = Document(text, ""), Document(text, "")
        verdict = theirs.filter(expected)
        assert (ours.filter(document), document.text) == (verdict, expected.text), text
        assert ours.stats.stats == theirs.stats.stats, text
        seen[verdict] += 1
    assert len(seen) == verdicts, f"some verdicts never occurred: {seen}"


def test_c4_checks_each_line_of_every_text_that_may_mention_a_policy():
    for policy in POLICY_SUBSTRINGS:
        assert any(phrase in policy for phrase in C4.SUSPICIOUS)


def lenient():
    """Every rule but `language`, each with thresholds at which a text reaches its last line."""
    config = params.read(CleanConfig, "cleaned", Path(__file__).parents[3] / "params.yaml")
    return dataclasses.replace(
        config,
        language=dataclasses.replace(config.language, enabled=False),
        c4=dataclasses.replace(
            config.c4, terminal_punctuation=False, min_words_per_line=0, min_sentences=0
        ),
        gopher=dataclasses.replace(
            config.gopher, min_words=0, min_word_length=0, max_word_length=0, min_stop_words=0
        ),
        fineweb=dataclasses.replace(
            config.fineweb, max_short_lines=1, max_duplicate_line_chars=1, max_lines_per_word=1
        ),
        repetition=dataclasses.replace(
            config.repetition,
            max_duplicate_lines=1,
            max_duplicate_line_chars=1,
            max_top_ngram_chars=(1, 1, 1),
            max_duplicate_ngram_chars=(1, 1, 1, 1, 1, 1),
        ),
    )


ODD = ["", "\n", "\x00", " \x00\n\ufeff", "a", "é", "...", ". " * 2000, "\ud800", "{"]


@pytest.mark.parametrize("text", [*ODD, "x" * (BLOCK + 1), "\x00" * BLOCK])
def test_no_text_is_too_odd_to_be_judged(text):
    for rule in enabled_rules(lenient()):
        for odd in (text, f" {text}\n"):
            verdict = rule.filter(Document(odd, ""))
            assert verdict is True or (verdict[0] is False and isinstance(verdict[1], str))
