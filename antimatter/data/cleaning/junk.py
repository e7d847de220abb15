"""Rules for what those of C4, Gopher and FineWeb let through: notices of a site, code, price lists, keyword spam, gibberish, a change of language.

They are for English and judge the document as a whole, by shares of its words, lines or samples. They are meant to be wrong on the safe side: a page
about cookies, programs or prices is prose, and so is one with a notice at its foot. The words were chosen on terms of use, forum software and
articles of real sites, the thresholds so that at most 3 good documents of 1,000 go.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from antimatter.data.cleaning.config import RubbishConfig
from antimatter.data.cleaning.rules import Verdict, identifier

# What a site says of itself, and how it speaks to a reader. Either alone is common in good text,
# SITE in articles on the web and manuals, ADDRESS in
# letters and on forums; together they are rare. Not here are words that reviews of software need as
# much: download, settings, share.
SITE = frozenset(
    """access account accounts address administrator ads advertising again agree agreement app available basket browser browsers cart click
    comment connection consent cookie cookies copyright data disabled email enable error expired facebook forum found free inbox information
    javascript liability liable licence license link links loading log login member members newsletter offer offers online order page pages
    password permission personal policy post posts preferences privacy provision provisions register registered reload reply request
    requested reserved rights scripts search server service services shipping sign site sites subscribe subscription support terms
    third-party tracking trademarks try twitter unavailable unsubscribe user username users visitors warranties warranty website websites
    youtube""".split()
)
ADDRESS = frozenset("you your we our us please sorry this may must shall any not or such".split())
FILLER = frozenset(  # the Latin that holds the place of text; without words that are English too
    """adipiscing aliqua aliquam aliquip amet consectetur consequat culpa cupidatat deserunt dolor dolore eiusmod elit esse exercitation fugiat
    incididunt ipsum irure labore laboris laborum lorem malesuada nisi nostrud nulla occaecat officia pariatur pellentesque proident quis
    reprehenderit sint sunt tempor turpis ullamco velit veniam voluptate voluptatem""".split()
)
STOP_WORDS = frozenset(
    """a about all an and any are as at be been but by can do for from had has have he her his how i if in into is it its may me more my no
    not of on one or our out she so such than that the their them then there they this to too up us was we were what when where which who
    why will with would you your""".split()
)
EDGES = ".,;:!?\"'()[]“”’*-"  # beside a word, no part of it

TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>|\[/?(?:url|img|quote|code|b|i)\b[^\]\n]*\]")
PRICE = re.compile(r"[$€£]\s?\d|\d\s?(?:€|£|USD|EUR)\b")
CODE_LINE = re.compile(
    r"""^\s*(?:[\[{,\s]*"[^"\n]{1,40}"\s*:|\#[\s!]|//|/\*|"{3}|'{3})""", re.MULTILINE
)
# Each CODE_WORD holds one
CODE_SIGNS = ("(", ")", "=", "#", ";", "{", "}", "[", "<", ">", "|", '"""', "'''", "/", "self.")
CODE_WORD = re.compile(
    r"""[-+*/|&:=!<>]?=|=>|[<>|]{1,2}|[{}]|\#|\#!\S*|\S*(?:"{3}|'{3})\S*|//|/\w+/\S*|[\w.]+\(\S*|\S*(?:\(\)|\)[:;]|[)\]"'];)|\w+\[[^\d\]]\S*|self\.\S+"""
)
MIN_CODE_LINES = 3  # fewer are an example
MIN_TIMES = 8  # that a phrase stands in spam
SAMPLES = (400, 4000)  # characters, of which the stop words are left out
DOUBT = 0.6  # of the first sample, from which on the second is read
READ = 1000  # characters that the rule `language` has read
WINDOWS, WINDOW = 3, 250  # and characters of each, of what follows


class Rubbish(BaseFilter):
    name = "rubbish"

    def __init__(self, config: RubbishConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> Verdict:
        for rule, share in measures(doc.text, self.config):
            if 0 < getattr(self.config, rule) <= share:
                return False, {"filler": "lorem_ipsum", "foreign": "mixed_language"}.get(rule, rule)
        return True


def measures(text: str, config: RubbishConfig) -> Iterator[tuple[str, float]]:
    """What each rule looks at, the cheap ones first. A share that cannot reach its threshold may be given as 0."""
    words = text.lower().split()
    n = max(1, len(words))
    yield "markup", len(TAG.findall(text)) / n if "<" in text or "[" in text else 0
    yield (
        "price_list",
        len(PRICE.findall(text)) / n
        if any(sign in text for sign in ("$", "€", "£", "USD", "EUR"))
        else 0,
    )
    code_lines = len(CODE_LINE.findall(text))
    yield "code_lines", code_lines / (text.count("\n") + 1) if code_lines >= MIN_CODE_LINES else 0
    yield (
        "code",
        sum(map(bool, map(CODE_WORD.fullmatch, words))) / n
        if sum(map(text.count, CODE_SIGNS)) >= config.code * n
        else 0,
    )

    words = [word.strip(EDGES) for word in words]
    counts = Counter(words)
    filler, site, address = (
        sum(map(counts.__getitem__, known & counts.keys())) for known in (FILLER, SITE, ADDRESS)
    )
    yield "filler", filler / n
    yield "site_notice", math.sqrt(site * address) / n
    yield (
        "keyword_spam",
        keyword_share(
            words,
            {
                word
                for word, times in counts.items()
                if times >= max(MIN_TIMES, config.keyword_spam * n / 3)
            },
        ),
    )
    yield "gibberish", doubt(text)
    yield "foreign", foreign_share(text)


def keyword_share(words: list[str], frequent: set[str]) -> float:
    """Of the words in the commonest phrase of two or three frequent words, stop words aside."""
    frequent = frequent - STOP_WORDS - {""}
    share = 0.0
    if frequent:
        for n in (2, 3):
            times = Counter(
                phrase
                for phrase in zip(*(words[start:] for start in range(n)), strict=False)
                if frequent.issuperset(phrase)
            )
            share = max(
                share,
                *(n * count / len(words) for count in times.values() if count >= MIN_TIMES),
                0.0,
            )
    return share


def doubt(text: str) -> float:
    """That this is English, without its stop words. Two samples, for prose may start with names or formulas."""
    found = 0.0
    for size in SAMPLES:
        found = 1 - english(
            " ".join(
                [
                    word
                    for word in text[:size].split()
                    if word.strip(EDGES).lower() not in STOP_WORDS
                ]
            )
        )
        if found < DOUBT:
            break
    return found


def foreign_share(text: str) -> float:
    """Of the windows, of which the last ends with the text. A long quotation fills but one of three."""
    rest = len(text) - READ - WINDOW
    n = min(WINDOWS, 1 + rest // WINDOW)
    starts = [READ + rest * i // max(1, n - 1) for i in range(n)]
    return sum(english(text[start : start + WINDOW]) == 0 for start in starts) / max(1, n)


def english(text: str) -> float:
    """fastText's score, 0 if another language is likelier."""
    labels, scores = identifier().predict(text.replace("\n", " "))
    return float(scores[0]) if labels and labels[0] == "__label__en" else 0.0
