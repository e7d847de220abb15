"""Repair, language, and the rules of C4, Gopher and FineWeb, which drop documents or some of their
lines. Rules of this project are in junk.py.

The rules of the papers are those of datatrove 0.10.1, with words split at white space and sentences
at punctuation: spaCy's words are slower, and it counts each comma as a word, which drops good text.
Decisions, reasons, texts and counts equal datatrove's, in a tenth of its time: see words.py.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import POLICY_SUBSTRINGS
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.utils.stats import MetricStats
from datatrove.utils.text import TERMINAL_PUNCTUATION

from antimatter.data import language_model
from antimatter.data.cleaning.config import (
    C4Config,
    CleanConfig,
    FineWebConfig,
    GopherConfig,
    LanguageConfig,
    RepairConfig,
    RepetitionConfig,
)
from antimatter.data.cleaning.languages import Traits, traits
from antimatter.data.cleaning.repair import fix_text
from antimatter.data.cleaning.words import (
    LETTER,
    PROPER,
    has_longer_word,
    repeated_characters,
    top_ngram_characters,
    upper_halves,
    words_of,
)

Verdict = bool | tuple[bool, str]  # True, or False and the reason
LANGUAGE_CHARACTERS = 1000  # of a document, by which its language is identified


def enabled_rules(config: CleanConfig) -> Iterator[BaseFilter]:
    """Repair, then the enabled rules in their order; the first that rejects gives the reason.

    Junk and decontamination follow them (steps.FilterStep).
    """
    language = traits(config.language.code)
    yield Repair(config.repair)
    if config.language.enabled:
        yield Language(config.language)
    if config.c4.enabled:
        yield C4(config.c4, language)
    if config.gopher.enabled:
        # A word of one letter has no length to judge
        letters = replace(config.gopher, min_word_length=0.0)
        yield Spaced(Gopher(config.gopher, language), Gopher(letters, language), language)
    if config.fineweb.enabled:
        fineweb = FineWeb(config.fineweb)
        yield Spaced(fineweb, fineweb, language)
    if config.repetition.enabled:
        repetition = Repetition(config.repetition)
        yield Spaced(repetition, repetition, language)


def first_rejection(document: Document, rules: Iterable[BaseFilter]) -> str:
    """The reason of the first rule that rejects a document; empty if all accept it."""
    for rule in rules:
        verdict = rule.filter(document)
        if verdict is not True:
            assert isinstance(verdict, tuple), f"rule {rule.name} returned {verdict!r}"
            return verdict[1]
    return ""


class Spaced(BaseFilter):
    """Applies a rule to a text as the language counts its words, and leaves the text as it is.

    Args:
        rule: for text with spaces between its words.
        letters: the same rule for text in which each letter is a word.
    """

    def __init__(self, rule: BaseFilter, letters: BaseFilter, language: Traits) -> None:
        super().__init__()
        self.rule, self.letters, self.language = rule, letters, language
        self.name = rule.name

    def filter(self, doc: Document) -> Verdict:
        text = self.language.spaced(doc.text)
        if text == doc.text:
            return self.rule.filter(doc)
        return self.letters.filter(Document(text, doc.id))


class Repair(BaseFilter):
    """Mojibake, entities, control characters, ligatures and NFC by ftfy; white space at the ends of
    lines.
    """

    name = "repair"

    def __init__(self, config: RepairConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        lines = fix_text(doc.text, self.config).splitlines()
        doc.text = "\n".join([line.rstrip() for line in lines]).strip()
        return bool(doc.text) or (False, "empty")


class Language(BaseFilter):
    name = "language"

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        score = language_score(doc.text[:LANGUAGE_CHARACTERS], self.config.code)
        return (score > 0 and score >= self.config.min_score) or (False, "language")


def language_score(text: str, code: str) -> float:
    """fastText's score of a language (ISO 639-1), 0 if another one is likelier."""
    labels, scores = language_model.load().predict(text.replace("\n", " "))
    return float(scores[0]) if labels and labels[0] == f"__label__{code}" else 0.0


class C4(BaseFilter):
    """C4QualityFilter with remove_citations=False, as that rule deletes `[]` and `[0]` from prose
    about code. Counts the lines it drops, by reason.
    """

    name = "c4"
    LONGEST_WORD = 1000  # characters
    # A document without any of these needs no check of each line. The last three are part of every
    # one of POLICY_SUBSTRINGS
    SUSPICIOUS = ("{", "lorem ipsum", "javascript", "cookie", "terms of use", "privacy policy")

    def __init__(self, config: C4Config, language: Traits) -> None:
        super().__init__()
        self.config, self.language = config, language

    def filter(self, doc: Document) -> Verdict:
        counts = Counter[str]()
        verdict = self._filter(doc, counts)
        for label, n in counts.items():
            # The same as n times stat_update(label)
            self.stats[label] += MetricStats(total=n, n=n, mean=1.0, min=1, max=1)
        return verdict

    def _filter(self, doc: Document, counts: Counter[str]) -> Verdict:
        config = self.config
        lower = doc.text.lower()
        suspicious = any(phrase in lower for phrase in self.SUSPICIOUS)
        # Counted up to config.min_sentences only
        sentences = 0
        kept = []
        for line in doc.text.splitlines():
            line = line.strip()
            counts["line-total"] += 1
            if reason := self._fault(line):
                counts[f"line-filter-{reason}"] += 1
                continue
            if suspicious:
                lower = line.lower()
                if "lorem ipsum" in lower:
                    return False, "lorem_ipsum"
                if config.javascript and "javascript" in lower:
                    counts["line-filter-javascript"] += 1
                    continue
                if config.curly_bracket and "{" in line:
                    return False, "curly_bracket"
                if any(phrase in lower for phrase in POLICY_SUBSTRINGS):
                    counts["line-filter-policy"] += 1
                    continue
            if sentences < config.min_sentences:
                ends = islice(self.language.sentence_end.finditer(line), config.min_sentences)
                sentences += sum(1 for _ in ends) or 1
            kept.append(line)
            counts["line-kept"] += 1
        if sentences < config.min_sentences:
            return False, "too_few_sentences"
        doc.text = "\n".join(kept).strip()
        return True

    def _fault(self, line: str) -> str:
        """Why a line is dropped for its form; empty if it is not."""
        if has_longer_word(self.language.spaced(line), self.LONGEST_WORD):
            return "too_long_word"
        if self.config.terminal_punctuation and not self.language.ends_sentence(line):
            return "no_terminal_punc"
        least = self.config.min_words_per_line
        line = self.language.spaced(line)
        return "too_few_words" if len(line.split(None, least)) < least else ""


class Gopher(BaseFilter):
    """GopherQualityFilter, but with min_words = 0 this one accepts a document without words."""

    name = "gopher"

    def __init__(self, config: GopherConfig, language: Traits) -> None:
        super().__init__()
        self.config, self.stop_words = config, language.stop_words

    def filter(self, doc: Document) -> Verdict:
        reason = next(self._reasons(doc.text), "")
        return (False, f"gopher_{reason}") if reason else True

    def _reasons(self, text: str) -> Iterator[str]:
        """What is wrong with a text, in the order of datatrove."""
        config, words = self.config, words_of(text)
        n_words = len(words.kinds) or 1
        proper = words.kinds & PROPER > 0
        n_proper = int(np.count_nonzero(proper))
        if config.min_words and n_proper < config.min_words:
            yield "short_doc"
        if config.max_words and n_proper > config.max_words:
            yield "long_doc"

        # A sum of integers, exact up to 2^53, so the quotient equals np.mean
        characters = int(words.lengths(1)[proper].sum())
        length = characters / n_proper if n_proper else float("nan")
        if config.min_word_length and length < config.min_word_length:
            yield "below_avg_threshold"
        if config.max_word_length and length > config.max_word_length:
            yield "above_avg_threshold"

        ellipses = text.count("...") + text.count("…")
        if config.max_symbol_ratio and text.count("#") / n_words > config.max_symbol_ratio:
            yield "too_many_hashes"
        if config.max_symbol_ratio and ellipses / n_words > config.max_symbol_ratio:
            yield "too_many_ellipsis"

        lines = text.splitlines() or [""]
        if config.max_bullet_lines:
            bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
            if bullets / len(lines) > config.max_bullet_lines:
                yield "too_many_bullets"
        if config.max_ellipsis_lines and ellipses:
            cut = sum(line.rstrip().endswith(("...", "…")) for line in lines)
            if cut / len(lines) > config.max_ellipsis_lines:
                yield "too_many_end_ellipsis"

        if config.min_alphabetic_words:
            alphabetic = int(np.count_nonzero(words.kinds & LETTER))
            if alphabetic / n_words < config.min_alphabetic_words:
                yield "below_alpha_threshold"
        # Mostly the first, fast count suffices: it misses words at line ends and beside punctuation
        if (
            self.stop_words
            and sum(f" {word} " in text for word in self.stop_words) < config.min_stop_words
            and len(self.stop_words.intersection(text.split())) < config.min_stop_words
        ):
            yield "enough_stop_words"


class FineWeb(BaseFilter):
    """FineWebQualityFilter."""

    name = "fineweb"

    def __init__(self, config: FineWebConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        config, text = self.config, doc.text
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return False, "empty"
        punctuated = sum(line[-1] in TERMINAL_PUNCTUATION for line in lines)
        if punctuated / len(lines) < config.min_punctuated_lines:
            return False, "line_punct_ratio"
        short = sum(len(line) <= config.short_line_length for line in lines)
        if short / len(lines) > config.max_short_lines:
            return False, "short_line_ratio"
        breaks = text.count("\n")
        if find_duplicates(lines)[1] / (len(text) - breaks) > config.max_duplicate_line_chars:
            return False, "char_dup_ratio"
        if breaks / len(words_of(text).kinds) > config.max_lines_per_word:
            return False, "list_ratio"
        return True


class Repetition(BaseFilter):
    """GopherRepetitionFilter."""

    name = "repetition"

    def __init__(self, config: RepetitionConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        config, text = self.config, doc.text
        if not text:
            return False, "empty"
        paragraphs, lines = re.split(r"\n\n\n*", text.strip()), re.split(r"\n\n*", text)
        for parts, kind in ((paragraphs, "para"), (lines, "line")):
            duplicates, characters = find_duplicates(parts)
            most = config.max_duplicate_lines
            if most and duplicates / len(parts) > most:
                return False, f"dup_{kind}_frac"
            most = config.max_duplicate_line_chars
            if most and characters / len(text) > most:
                return False, f"dup_{kind}_char_frac"
        words = words_of(text)
        pairs = np.sort(upper_halves(words.ngrams(2)))
        for n, share in enumerate(config.max_top_ngram_chars, 2):
            # Times that the longest n-gram would have to occur; a shorter one more often
            longest = int(words.lengths(n).max(initial=0)) + n - 1
            needed = max(1, int(share * len(text) / longest))
            # If no pair of words occurs that often, neither does a longer n-gram
            common = (pairs[needed - 1 :] == pairs[: 1 - needed or None]).any()
            if common and top_ngram_characters(words, n) / len(text) > share:
                return False, f"top_{n}_gram"
        for n, share in enumerate(config.max_duplicate_ngram_chars, 5):
            # An upper bound first, which is cheaper
            grams = np.sort(upper_halves(words.joined(n)))
            repeats = np.count_nonzero(grams[1:] == grams[:-1])
            if (
                repeats
                and repeats * words.lengths(n).max() / len(text) > share
                and repeated_characters(words, n) / len(text) > share
            ):
                return False, f"duplicated_{n}_n_grams"
        return True
