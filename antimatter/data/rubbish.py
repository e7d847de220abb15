"""What the rules of C4, Gopher and FineWeb let through although nobody would want to learn from it: notices of the page, code, spam, gibberish.

The measures are shares of words or lines, for English, and made to be wrong on the safe side: a page about cookies, a program or a price is prose.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from antimatter.data.filters import Verdict, identifier

# What a site says of itself, and how it speaks to its readers. Each alone is common: the first in articles on the web and in manuals, the second in
# letters and on forums. Left out are words that reviews and manuals need as much: share, download, settings, app in the plural.
SITE = frozenset(
    """access account accounts address ads advertising again agree agreement app available basket browser browsers cart click comment
    connection consent cookie cookies copyright data disabled email enable error expired facebook found free inbox information javascript
    liability liable licence license log login newsletter offer offers online order page pages password permission personal policy post
    posts preferences privacy provision provisions register registered reload reply request requested reserved rights scripts search server
    service services shipping sign site sites subscribe subscription support terms third-party tracking trademarks try twitter unavailable
    unsubscribe user username users visitors warranties warranty website websites youtube""".split()
)
ADDRESS = frozenset("you your we our us please sorry this may must shall any not or such".split())
FILLER = frozenset(  # the Latin that holds the place of text; without words that are English too
    """adipiscing aliqua aliquam aliquip amet consectetur consequat culpa cupidatat deserunt dolor dolore eiusmod elit esse exercitation
    fugiat incididunt ipsum irure labore laboris laborum lorem malesuada nisi nostrud nulla occaecat officia pariatur pellentesque proident
    quis reprehenderit sint sunt tempor turpis ullamco velit veniam voluptate voluptatem""".split()
)
STOP_WORDS = frozenset(
    """a about all an and any are as at be been but by can do for from had has have he her his how i if in into is it its may me more my no
    not of on one or our out she so such than that the their them then there they this to too up us was we were what when where which who
    why will with would you your""".split()
)
EDGES = ".,;:!?\"'()[]“”’*-"  # of a word, not part of it

TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>|\[/?(?:url|img|quote|code|b|i)\b[^\]\n]*\]")
PRICE = re.compile(r"[$€£]\s?\d|\d\s?(?:€|£|USD|EUR)\b")
CODE_SIGNS = ("(", ")", "=", "#", ";", "{", "}", "[", '"""', "/")  # each CODE_WORD has one
CODE_WORD = re.compile(
    r"""[-+*/|&:=!<>]?=|=>|[{}]|\#|\#!\S*|\S*["']{3}\S*|//|/\w+/\S*|[\w.]+\(\S*|\S*(?:\(\)|\)[:;]|[)\]"'];)|[<>|]{1,2}|\w+\[[^\d\]]\S*|self\.\S+"""
)
CODE_LINE = re.compile(r'^\s*(?:[\[{,\s]*"[^"\n]{1,40}"\s*:|#[\s!]|//|/\*|"""|\'\'\')', re.MULTILINE)

WINDOW = 250  # characters that the language is told from, fast: a quarter of what Language reads
WINDOWS = 4
READ = 1000  # characters at the start that Language has judged
SAMPLES = (600, 4000)  # characters, of which the stop words are left out
DOUBT = 0.5
MIN_TIMES = 7  # that a phrase must stand in a text to be spam
MIN_LINES = 3


@dataclass(frozen=True, kw_only=True)
class RubbishConfig:
    """A document that reaches a threshold is dropped. A threshold of 0 switches its rule off."""

    enabled: bool
    site_notice: float  # geometric mean of the shares of words on sites and of words that address readers: banners, terms of use, error pages
    markup: float  # tags, as in HTML or BBCode, per word
    code: float  # share of words that are code
    code_lines: float  # share of lines that begin like a comment, a docstring or a JSON key
    filler: float  # share of words of the placeholder text "lorem ipsum dolor ..."
    price_list: float  # prices per word
    keyword_spam: float  # share of words in one phrase of 2 or 3 words without stop words
    foreign: float  # share of 4 windows beyond the first 1,000 characters that are not English
    gibberish: float  # 1 - fastText's score for English, of words that are no stop words

    def __post_init__(self) -> None:
        for name in ("site_notice", "markup", "code", "code_lines", "filler", "price_list", "keyword_spam", "foreign", "gibberish"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


class Rubbish(BaseFilter):
    """The rules, from the cheap to the dear; the first that objects gives the reason."""

    name = "rubbish"

    def __init__(self, config: RubbishConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        config, text = self.config, doc.text
        words = text.lower().split()
        if config.markup and markup(text, words) >= config.markup:
            return False, "markup"
        if config.price_list and price_list(text, words) >= config.price_list:
            return False, "price_list"
        if config.code_lines and code_lines(text) >= config.code_lines:
            return False, "code_lines"
        if config.code and code(text, words, config.code) >= config.code:
            return False, "code"
        plain = [word.strip(EDGES) for word in words]
        if config.filler and sum(map(FILLER.__contains__, plain)) / max(1, len(plain)) >= config.filler:
            return False, "lorem_ipsum"
        if config.site_notice and site_notice(plain) >= config.site_notice:
            return False, "site_notice"
        if config.keyword_spam and keyword_spam(plain, config.keyword_spam) >= config.keyword_spam:
            return False, "keyword_spam"
        if config.gibberish and gibberish(text) >= config.gibberish:
            return False, "gibberish"
        if config.foreign and foreign(text) >= config.foreign:
            return False, "mixed_language"
        return True


def markup(text: str, words: Sequence[str]) -> float:
    return len(TAG.findall(text)) / max(1, len(words)) if "<" in text or "[" in text else 0.0


def price_list(text: str, words: Sequence[str]) -> float:
    return len(PRICE.findall(text)) / max(1, len(words)) if "$" in text or "€" in text or "£" in text or "USD" in text or "EUR" in text else 0.0


def code_lines(text: str) -> float:
    found = len(CODE_LINE.findall(text))
    return found / (text.count("\n") + 1) if found >= MIN_LINES else 0.0


def code(text: str, words: Sequence[str], least: float) -> float:
    """0 if there are too few signs for a share of `least`."""
    if sum(map(text.count, CODE_SIGNS)) < least * len(words):
        return 0.0
    return sum(map(bool, map(CODE_WORD.fullmatch, words))) / max(1, len(words))


def site_notice(words: Sequence[str]) -> float:
    return math.sqrt(sum(map(SITE.__contains__, words)) * sum(map(ADDRESS.__contains__, words))) / max(1, len(words))


def keyword_spam(words: Sequence[str], least: float) -> float:
    """0 if no phrase of frequent words can have a share of `least`."""
    counts = Counter(words)
    needed = max(MIN_TIMES, least * len(words) / 3)
    frequent = {word for word, count in counts.items() if count >= needed and word not in STOP_WORDS}
    if not frequent:
        return 0.0
    share = 0.0
    for n in (2, 3):
        phrases = Counter(phrase for phrase in zip(*(words[i:] for i in range(n)), strict=False) if frequent.issuperset(phrase))
        times = max(phrases.values(), default=0)
        if times >= MIN_TIMES:
            share = max(share, n * times / len(words))
    return share


def gibberish(text: str) -> float:
    """Of a short sample; of a long one if that is doubtful, for prose may start with names or formulas."""
    doubt = 0.0
    for size in SAMPLES:
        doubt = 1 - _english(" ".join([word for word in text[:size].split() if word.lower() not in STOP_WORDS]))
        if doubt < DOUBT:
            break
    return doubt


def foreign(text: str) -> float:
    rest = len(text) - READ - WINDOW
    n = min(WINDOWS, (len(text) - READ) // WINDOW)
    starts = [READ + rest * i // max(1, n - 1) for i in range(n)]
    return sum(not _english(text[start : start + WINDOW]) for start in starts) / max(1, n)


def _english(text: str) -> float:
    """fastText's score, 0 if another language is likelier."""
    labels, scores = identifier().predict(text.replace("\n", " "))
    return float(scores[0]) if labels and labels[0] == "__label__en" else 0.0
