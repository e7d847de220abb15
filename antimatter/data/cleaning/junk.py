"""Rules for junk that C4, Gopher and FineWeb let through: site notices, code, price lists, keyword
spam, gibberish, and text that changes its language.

They judge the document as a whole by shares of its words, lines or samples. Site notices, keyword
spam and gibberish are recognised by English words, so these rules are off for other languages. All
err on the safe side: a page about cookies, programs or prices is prose, and so is one with a notice
at its foot. The words were chosen on terms of use, forum software and articles of real sites, the
thresholds so that at most 3 good documents of 1,000 are dropped.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from antimatter.data.cleaning.config import JunkConfig
from antimatter.data.cleaning.languages import ANY, Traits
from antimatter.data.cleaning.rules import LANGUAGE_CHARACTERS, Verdict, language_score

# What a site says about itself, and how it addresses a reader. Either alone is common in good text,
# SITE in articles on the web and manuals, ADDRESS in letters and forums; together they are rare.
# Words that software reviews need as much are not here: download, settings, share.
SITE = frozenset(
    """
    access account accounts address administrator ads advertising again agree agreement app
    available basket browser browsers cart click comment connection consent cookie cookies
    copyright data disabled email enable error expired facebook forum found free inbox
    information javascript liability liable licence license link links loading log login member
    members newsletter offer offers online order page pages password permission personal policy
    post posts preferences privacy provision provisions register registered reload reply request
    requested reserved rights scripts search server service services shipping sign site sites
    subscribe subscription support terms third-party tracking trademarks try twitter unavailable
    unsubscribe user username users visitors warranties warranty website websites youtube
    """.split()
)
ADDRESS = frozenset("you your we our us please sorry this may must shall any not or such".split())
# The Latin of placeholder text, without words that are English too
FILLER = frozenset(
    """
    adipiscing aliqua aliquam aliquip amet consectetur consequat culpa cupidatat deserunt dolor
    dolore eiusmod elit esse exercitation fugiat incididunt ipsum irure labore laboris laborum
    lorem malesuada nisi nostrud nulla occaecat officia pariatur pellentesque proident quis
    reprehenderit sint sunt tempor turpis ullamco velit veniam voluptate voluptatem
    """.split()
)
STOP_WORDS = frozenset(
    """
    a about all an and any are as at be been but by can do for from had has have he her his how
    i if in into is it its may me more my no not of on one or our out she so such than that the
    their them then there they this to too up us was we were what when where which who why will
    with would you your
    """.split()
)
# Punctuation beside a word
EDGES = ".,;:!?\"'()[]“”’*-"

TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>|\[/?(?:url|img|quote|code|b|i)\b[^\]\n]*\]")
PRICE = re.compile(r"[$€£]\s?\d|\d\s?(?:€|£|USD|EUR)\b")
CURRENCIES = ("$", "€", "£", "USD", "EUR")
CODE_LINE = re.compile(
    r"""^\s*(?:[\[{,\s]*"[^"\n]{1,40}"\s*:|\#[\s!]|//|/\*|"{3}|'{3})""", re.MULTILINE
)
# Every CODE_WORD holds at least one of these, which are faster to count
CODE_SIGNS = ("(", ")", "=", "#", ";", "{", "}", "[", "<", ">", "|", '"""', "'''", "/", "self.")
CODE_WORD = re.compile(
    r"""[-+*/|&:=!<>]?=|=>|[<>|]{1,2}|[{}]|\#|\#!\S*|\S*(?:"{3}|'{3})\S*|//|/\w+/\S*"""
    r"""|[\w.]+\(\S*|\S*(?:\(\)|\)[:;]|[)\]"'];)|\w+\[[^\d\]]\S*|self\.\S+"""
)
MIN_CODE_LINES = 3  # fewer are an example
MIN_REPEATS = 8  # of a phrase, to be spam
SAMPLES = (400, 4000)  # characters, from which the stop words are removed
# The second sample is used only if the first scores at least this
SUSPICIOUS = 0.6
WINDOWS, WINDOW = 3, 250  # and characters of each, in the text after LANGUAGE_CHARACTERS

# Drop reasons that differ from the name of the rule in params.yaml
REASONS = {"filler": "lorem_ipsum", "foreign": "mixed_language"}


class Junk(BaseFilter):
    name = "junk"

    def __init__(self, config: JunkConfig, language: Traits) -> None:
        super().__init__()
        self.config, self.language = config, language

    def filter(self, doc: Document) -> Verdict:
        for rule, score in scores(doc.text, self.config, self.language):
            if 0 < getattr(self.config, rule) <= score:
                return False, REASONS.get(rule, rule)
        return True


def scores(text: str, config: JunkConfig, language: Traits) -> Iterator[tuple[str, float]]:
    """The score of each rule, the cheap ones first. May be 0 if it cannot reach its threshold."""
    words = language.spaced(text.lower()).split()
    n = max(1, len(words))
    yield "markup", len(TAG.findall(text)) / n if "<" in text or "[" in text else 0
    has_price = any(currency in text for currency in CURRENCIES)
    yield "price_list", len(PRICE.findall(text)) / n if has_price else 0
    code_lines = len(CODE_LINE.findall(text))
    yield "code_lines", code_lines / (text.count("\n") + 1) if code_lines >= MIN_CODE_LINES else 0
    may_be_code = sum(map(text.count, CODE_SIGNS)) >= config.code * n
    yield "code", sum(map(bool, map(CODE_WORD.fullmatch, words))) / n if may_be_code else 0

    words = [word.strip(EDGES) for word in words]
    counts = Counter(words)
    filler, site, address = (
        sum(map(counts.__getitem__, known & counts.keys())) for known in (FILLER, SITE, ADDRESS)
    )
    yield "filler", filler / n
    if not language.is_english:
        if language.code != ANY:
            yield "foreign", foreign_share(text, language.code)
        return
    yield "site_notice", math.sqrt(site * address) / n
    least = max(MIN_REPEATS, config.keyword_spam * n / 3)
    frequent = {word for word, count in counts.items() if count >= least}
    yield "keyword_spam", keyword_share(words, frequent)
    yield "gibberish", non_english_score(text)
    yield "foreign", foreign_share(text, language.code)


def keyword_share(words: list[str], frequent: Collection[str]) -> float:
    """Share of the words that belong to the commonest phrase of two or three frequent words, stop
    words aside.
    """
    keywords = {*frequent} - STOP_WORDS - {""}
    if not keywords:
        return 0.0
    share = 0.0
    for n in (2, 3):
        phrases = zip(*(words[start:] for start in range(n)), strict=False)
        counts = Counter(phrase for phrase in phrases if keywords.issuperset(phrase))
        most = max(counts.values(), default=0)
        if most >= MIN_REPEATS:
            share = max(share, n * most / len(words))
    return share


def non_english_score(text: str) -> float:
    """1 - fastText's score for English of a sample without its stop words. A second, longer sample
    decides if the first one is suspicious: prose may start with names or formulas.
    """
    score = 0.0
    for size in SAMPLES:
        words = text[:size].split()
        rare = [word for word in words if word.strip(EDGES).lower() not in STOP_WORDS]
        score = 1 - language_score(" ".join(rare), "en")
        if score < SUSPICIOUS:
            break
    return score


def foreign_share(text: str, code: str) -> float:
    """Share of windows that are not in the language, the last of which ends with the text. A long
    quotation fills only one of three.
    """
    rest = len(text) - LANGUAGE_CHARACTERS - WINDOW
    n = min(WINDOWS, 1 + rest // WINDOW)
    starts = [LANGUAGE_CHARACTERS + rest * i // max(1, n - 1) for i in range(n)]
    windows = (text[start : start + WINDOW] for start in starts)
    return sum(language_score(window, code) == 0 for window in windows) / max(1, n)
