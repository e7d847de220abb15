"""Continuations of fixed prompts, for people to read, and a verdict on the form of each.

The verdict tells fluent from looping text by counting words, without any model: a text always has
the same verdict. It cannot tell whether a text makes sense.
"""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import pages, prompt_files
from antimatter.evaluation.config import CoherenceConfig
from antimatter.model.gpt import GPT
from antimatter.model.sampling import generate

Verdict = Literal["fluent", "looping", "broken", "short"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Sample:
    kind: str  # the prompt's heading
    prompt: str
    seed: int
    text: str  # the continuation
    ids: list[int]  # its tokens, with EOS if it ended by itself
    verdict: Verdict


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """(kind, prompt) pairs of a file with one prompt a line under `# kind` headings.

    Raises:
        UserError: the file is missing or holds no prompt, or a kind has the name of the figures of
            all.
    """
    fix = "write one prompt a line under `# kind` headings"
    entries = prompt_files.read(path, "prompts", fix, reserved={prompt_files.ALL})
    return [(entry.heading, entry.text) for entry in entries]


def sample(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str, str]],
    config: CoherenceConfig,
    known: frozenset[str],
) -> list[Sample]:
    """A continuation of each prompt for each seed. Each has its own draw: other prompts and seeds
    do not change it.

    Args:
        known: the words that train has, as lexicon() gives them.
    """
    samples = []
    for kind, prompt in prompts:
        for seed in config.seeds:
            generator = torch.Generator().manual_seed(seed)
            (ids,) = generate(model, [BOS, *tokenizer.encode(prompt)], 1, config, EOS, generator)
            text = tokenizer.decode(ids)
            samples.append(Sample(kind, prompt, seed, text, ids, judge(text, known)))
    return samples


# ---- the verdict: docs/evaluation.md has the sources of the numbers

SHORT = 10  # words; fewer cannot be judged
WINDOW = 100  # words that are judged at a time, since any long text repeats itself
# A loop: a phrase this many times in a row (Holtzman et al. 2020) ...
LOOP = 3
# ... with this many words in all, since people say `very, very, very`
LEAST_LOOP = 6
# Share of the pairs of words that occurred before in the window; people repeat 3% (books) to 8%
# (documentation)
MAX_PAIRS = 0.3
# Share of the words in a window that are the same one, other than a function word ...
MAX_WORD = 0.125
# ... and its least number of occurrences there
LEAST_WORD = 8
# Share of the words that do not occur in train; in 99.5% of texts like those of train, people have
# less than 6% ...
MAX_INVENTED = 0.1
# ... and their least number
LEAST_INVENTED = 3
CHUNK = 1 << 20  # tokens decoded at a time: memory only
LEXICON = 5_000_000  # tokens of train that the known words are taken from
# Share of the words that open a phrase and are followed by a word that cannot follow ...
MAX_DANGLING = 0.15
# ... and their least number
LEAST_DANGLING = 2

WORD = re.compile(r"\w+(?:'\w+)?")
FUNCTION = frozenset(
    """
    a about after all also an and any are as at be because been before but by can could did do does
    each for from had has have he her his how i if in into is it its may more no not of on one only
    or other our she should so some such than that the their them then there these they this to was
    we were what when where which who will with would you your
    """.split()
)
ARTICLES = ("the", "an", "its", "their")
# With the word that follows, or a mark in its place
OPENING = re.compile(r"\b(the|an|its|their|of|from|with|into)\b(?:\s+(\w+)|\s*[.,;:!?)])")
NEVER_AFTER = frozenset(
    "and or but of is are was were be been has have had will would can could may should".split()
)
NEVER_AFTER_ARTICLE = NEVER_AFTER | frozenset(
    """
    the a an to in for with by at as from it they he she we i that which than because not so do does
    did if on
    """.split()
)


def lexicon(train: Iterable[np.ndarray], tokenizer: Tokenizer) -> frozenset[str]:
    """The words in the first LEXICON tokens of some token files, in lower case."""
    words: set[str] = set()
    remaining = LEXICON
    for ids in train:
        for start in range(0, min(remaining, len(ids)), CHUNK):
            text = tokenizer.decode(ids[start : start + CHUNK].tolist())
            words.update(WORD.findall(text.lower()))
        remaining -= min(remaining, len(ids))
    return frozenset(words)


def judge(text: str, known: frozenset[str]) -> Verdict:
    """The form of an English text.

    short: too few words to judge. looping: it repeats itself again and again. broken: many of its
    words are invented, or do not form sentences. fluent: none of these.

    Args:
        known: words, in lower case.
    """
    words = WORD.findall(text.lower())
    if len(words) < SHORT:
        return "short"
    starts = (*range(0, len(words) - WINDOW, WINDOW // 2), max(0, len(words) - WINDOW))
    windows = [words[start : start + WINDOW] for start in starts]
    is_repetitive = any(
        _repeated(window, 2) > MAX_PAIRS or _overuses_a_word(window) for window in windows
    )
    if is_repetitive or has_loop(words):
        return "looping"
    if _invents_words(words, known) or _dangles(text.lower()):
        return "broken"
    return "fluent"


def has_loop(words: Sequence[str]) -> bool:
    """Whether a phrase follows itself again and again."""
    for period in range(1, len(words) // LOOP + 1):
        run = 0  # words in a row that equal the word `period` words before
        for before, word in zip(words, words[period:], strict=False):
            run = run + 1 if word == before else 0
            if run + period >= max(LOOP * period, LEAST_LOOP):
                return True
    return False


def _overuses_a_word(words: Sequence[str]) -> bool:
    counts = Counter(word for word in words if word not in FUNCTION and word.isalpha())
    most = max(counts.values(), default=0)
    return most >= LEAST_WORD and most > MAX_WORD * len(words)


def _invents_words(words: Sequence[str], known: frozenset[str]) -> bool:
    proper = [word for word in words if word.isalpha()]
    unknown = sum(word not in known for word in proper)
    return unknown >= LEAST_INVENTED and unknown > MAX_INVENTED * len(proper)


def _dangles(text: str) -> bool:
    """Whether phrases break off after their first word: `the of`, `with.`"""
    openings = OPENING.findall(text)
    bad = 0
    for word, after in openings:
        never = NEVER_AFTER_ARTICLE if word in ARTICLES else NEVER_AFTER
        bad += not after or after in never
    return bad >= LEAST_DANGLING and bad > MAX_DANGLING * len(openings)


# ---- figures and the page


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures of each seed, their mean and, of several, their spread (standard deviation). Each is
    a share between 0 and 1.

    fluent, looping, broken, short: samples with this verdict.
    repetition: 4-grams of tokens that occurred before in the same sample (seq-rep-4, Welleck et al.
    2020), averaged over samples; close to 1 for a loop.
    distinct_1, distinct_2: different words and pairs of words among all of a seed (Li et al. 2016);
    close to 0 for a model with few words.
    ended: samples that closed with EOS before max_new_tokens.
    """
    by_seed: dict[int, list[Sample]] = {}
    for sample in samples:
        by_seed.setdefault(sample.seed, []).append(sample)
    seeds = {str(seed): _figures(own) for seed, own in by_seed.items()}
    names = list(next(iter(seeds.values())))
    columns = {name: [figures[name] for figures in seeds.values()] for name in names}
    result: dict[str, Any] = {name: statistics.fmean(column) for name, column in columns.items()}
    if len(seeds) > 1:
        result["spread"] = {name: statistics.stdev(column) for name, column in columns.items()}
    return {**result, "seeds": seeds}


def _figures(samples: Sequence[Sample]) -> dict[str, float]:
    words = [sample.text.split() for sample in samples]
    verdicts = [sample.verdict for sample in samples]
    return {
        **{verdict: verdicts.count(verdict) / len(samples) for verdict in VERDICTS},
        "repetition": sum(_repeated(sample.ids, 4) for sample in samples) / len(samples),
        "distinct_1": _distinct(words, 1),
        "distinct_2": _distinct(words, 2),
        "ended": sum(EOS in sample.ids for sample in samples) / len(samples),
    }


def page(samples: Sequence[Sample], config: CoherenceConfig) -> tuple[list[str], dict[str, Any]]:
    """What pages.write() takes: about the samples, and all of them, by kind and prompt."""
    several = len(config.seeds) > 1
    seeds = f"{'seeds' if several else 'seed'} {', '.join(map(str, config.seeds))}"
    note = " Figures: mean over seeds ± spread." if several else ""
    about = [
        "Continuations of the prompts in prompts/coherence.txt, without selection. Temperature "
        f"{config.temperature:g}, top-k {config.top_k}, top-p {config.top_p:g}, at most "
        f"{config.max_new_tokens} tokens, {seeds}. One that the model ended by itself closes "
        "with ∎.",
        f"Verdicts judge form by counting words, not sense: docs/evaluation.md.{note}",
    ]
    kinds: dict[str, dict[str, dict[str, str]]] = {}
    for sample in samples:
        prompts = kinds.setdefault(sample.kind, {})
        pages.add(prompts.setdefault(sample.prompt, {}), _caption(sample), _closed(sample))
    return about, {"figures": pages.columns(_table(samples)), "samples": kinds}


def _table(samples: Sequence[Sample]) -> Iterator[list[str]]:
    """The figures of all samples and of each kind."""
    by_kind = {prompt_files.ALL: list(samples)}
    for sample in samples:
        by_kind.setdefault(sample.kind, []).append(sample)
    for kind, own in by_kind.items():
        figures = summary(own)
        spread = figures.pop("spread", {})
        del figures["seeds"]
        if kind == prompt_files.ALL:
            yield ["kind", *figures]
        yield [
            kind,
            *(
                f"{value:.2f} ± {spread[name]:.2f}" if spread else f"{value:.2f}"
                for name, value in figures.items()
            ),
        ]


def _caption(sample: Sample) -> str:
    repetition = _repeated(sample.ids, 4)
    return f"seed {sample.seed}, {sample.verdict}, repetition {repetition:.2f}"


def _closed(sample: Sample) -> str:
    return sample.text.strip() + (" ∎" if EOS in sample.ids else "")


def _ngrams(items: Sequence[object], n: int) -> list[tuple[object, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def _repeated(items: Sequence[object], n: int) -> float:
    ngrams = _ngrams(items, n)
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    ngrams = [ngram for text in texts for ngram in _ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
