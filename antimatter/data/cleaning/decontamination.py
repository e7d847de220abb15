"""Keeps evaluation texts out of the corpus: a document that shares a long n-gram with one of them is dropped.

As GPT-3 (Brown et al. 2020, appendix C): 13 words, lower case, punctuation ignored; here the whole document goes.
"""

import re
from collections.abc import Iterator
from functools import cache

import xxhash
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from antimatter.data.cleaning.config import DecontaminationConfig, texts
from antimatter.data.sources import local

WORD = re.compile(r"\w+")


class Decontamination(BaseFilter):
    name = "decontamination"

    def __init__(self, config: DecontaminationConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        known = _known(self.config)
        return not any(gram in known for gram in _grams(doc.text, self.config.ngram)) or (
            False,
            "contaminated",
        )


@cache
def _known(config: DecontaminationConfig) -> frozenset[int]:
    """The n-grams of all evaluation texts, read once a worker: 64 bytes a word."""
    return frozenset(
        gram
        for part in texts(config)
        for document in local.read(part)
        for gram in _grams(document.text, config.ngram)
    )


def _grams(text: str, n: int) -> Iterator[int]:
    """A hash of each n-gram. A text of fewer words has none."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - n + 1):
        yield xxhash.xxh3_64_intdigest(" ".join(words[start : start + n]))
