"""Cleaning on one core: our rules and signatures against datatrove's with its default words (spaCy)
and its MinHash. The two run in turn on each chunk.

    pip install spacy
    python benchmarks/cleaning.py 'corpus/c4/en/*.json.gz' text --megabytes 10

Prints MB/s of one core for both, their ratio, and each of our steps. Language identification is the
same on both sides, because datatrove's would download its model. Documents are in memory before the
clock starts.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import FTFYFormatter

from antimatter import params
from antimatter.data.cleaning import duplicates
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.junk import Junk
from antimatter.data.cleaning.languages import traits
from antimatter.data.cleaning.rules import Language, enabled_rules
from antimatter.data.sources import local, paths
from antimatter.data.sources.paths import FilesConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pattern")
    parser.add_argument("column")
    parser.add_argument("--megabytes", type=float, default=10)
    arguments = parser.parse_args()
    config = params.read(CleanConfig, "cleaned", Path("presets/300m.yaml"))
    ours = [*enabled_rules(config), Junk(config.junk, traits(config.language.code))]
    theirs = [
        FTFYFormatter(),
        Language(config.language),
        C4QualityFilter(),
        GopherQualityFilter(),
        FineWebQualityFilter(),
        GopherRepetitionFilter(),
    ]
    signer = MinhashDedupSignature(output_folder="/dev/null")
    spent: dict[str, list[float]] = defaultdict(list)
    steps: Counter[str] = Counter()
    kept: Counter[str] = Counter()

    def run_theirs(text: str) -> None:
        document = Document(text, "")
        for step in theirs:
            if isinstance(step, FTFYFormatter):
                document.text = step.format(document.text)
            elif step.filter(document) is not True:
                return
        kept["datatrove"] += 1
        signer.get_signature(signer.get_shingles(document.text))

    def run_ours(text: str) -> None:
        document = Document(text, "")
        whole = ""
        for rule in ours:
            begin = time.thread_time()
            verdict = rule.filter(document)
            steps[rule.name] += int(1e9 * (time.thread_time() - begin))
            if verdict is not True:
                return
            # The text after the first rule, the repair
            whole = whole or document.text
        kept["ours"] += 1
        begin = time.thread_time()
        for hashed in {whole, document.text}:
            words = hashed.lower().split()
            duplicates.exact_hash(words)
            signature = duplicates.signature(words, config.near_duplicates)
            duplicates.bands(signature, config.near_duplicates)
        steps["signatures"] += int(1e9 * (time.thread_time() - begin))

    sizes = []
    for texts in chunks(arguments.pattern, arguments.column, arguments.megabytes):
        sizes.append(sum(len(text.encode()) for text in texts) / 1e6)
        for name, run in (("datatrove", run_theirs), ("ours", run_ours)):
            spent[name].append(cpu(run, texts))
    rates = {}
    for name, times in spent.items():
        # The first chunk warms up
        rates[name] = np.array(sizes[1:]) / np.array(times[1:])
        rate = np.median(rates[name])
        print(f"{name:12}{rate:8.2f} MB/s of a core, kept {kept[name]:,} documents")
    print(f"ratio       {np.median(rates['ours'] / rates['datatrove']):8.1f}")
    for name, nanoseconds in steps.items():
        print(f"  {name:14}{sum(sizes) / (nanoseconds / 1e9):8.1f} MB/s")


def cpu(run: Callable[[str], None], texts: list[str]) -> float:
    begin = time.thread_time()
    for text in texts:
        run(text)
    return time.thread_time() - begin


def chunks(pattern: str, column: str, megabytes: float) -> Iterator[list[str]]:
    """About a megabyte of documents at a time, from all files in turn."""
    parts = paths.parts(
        [FilesConfig(pattern=pattern, text_column=column, licence="")], 0, "pattern"
    )
    readers = [local.read(part) for part in parts]
    done = 0.0
    while done < megabytes * 1e6:
        texts: list[str] = []
        while sum(map(len, texts)) < 1e6:
            more = [document.text for reader in readers for document in islice(reader, 10)]
            if not more:
                return
            texts += more
        done += sum(map(len, texts))
        yield texts


if __name__ == "__main__":
    main()
