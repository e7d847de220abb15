"""Keeps evaluation texts out of the corpus: drops a document that shares a long n-gram with one.

As in GPT-3 (Brown et al. 2020, appendix C): 13 words, lower case, punctuation ignored. Unlike
there, the whole document is dropped.
"""

import re
from collections.abc import Iterator
from functools import cache

import xxhash
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from antimatter.data.cleaning.config import DecontaminationConfig, texts
from antimatter.data.cleaning.languages import Traits
from antimatter.data.cleaning.rules import Verdict
from antimatter.data.sources import local

WORD = re.compile(r"\w+")


class Decontamination(BaseFilter):
    name = "decontamination"

    def __init__(self, config: DecontaminationConfig, language: Traits) -> None:
        super().__init__()
        self.config, self.language = config, language

    def filter(self, doc: Document) -> Verdict:
        known = _evaluation_grams(self.config, self.language)
        grams = _grams(self.language.spaced(doc.text), self.config.ngram)
        contaminated = any(gram in known for gram in grams)
        return (False, "contaminated") if contaminated else True


@cache
def _evaluation_grams(config: DecontaminationConfig, language: Traits) -> frozenset[int]:
    """The n-grams of all evaluation texts, 64 bytes a word; read once a worker."""
    documents = (document for part in texts(config) for document in local.read(part))
    spaced = (language.spaced(document.text) for document in documents)
    return frozenset(gram for text in spaced for gram in _grams(text, config.ngram))


def _grams(text: str, n: int) -> Iterator[int]:
    """A hash of each n-gram. A text of fewer words has none."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - n + 1):
        yield xxhash.xxh3_64_intdigest(" ".join(words[start : start + n]))
