"""What the model says: continuations of fixed prompts, for people to read, and a verdict on each that tells fluent from looping.

The verdict judges form by counting words, without any model: the same text has the same verdict, whoever wrote it. It cannot see whether a text makes
sense.
"""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
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
        FileNotFoundError, ValueError: there is no such file, or no prompt in it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `git checkout {path}`, or write one prompt a line under `# kind` headings"
        )
    kind, prompts = "prompts", []
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if line.startswith("#"):
            kind = line.lstrip("# ").strip()
        elif line.strip():
            prompts.append((kind, line.strip()))
    if not prompts:
        raise UserError(f"{path} holds no prompt: write one a line under `# kind` headings")
    return prompts


def sample(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str, str]],
    config: CoherenceConfig,
    known: frozenset[str],
) -> list[Sample]:
    """A continuation of each prompt for each seed. Each has its own draw: another prompt or seed leaves the others as they were.

    Args:
        known: words that are none of the model's invention, as lexicon() gives them.
    """
    result = []
    for kind, prompt in prompts:
        for seed in config.seeds:
            generator = torch.Generator().manual_seed(seed)
            (ids,) = generate(model, [BOS, *tokenizer.encode(prompt)], 1, config, EOS, generator)
            text = tokenizer.decode(ids)
            result.append(Sample(kind, prompt, seed, text, ids, judge(text, known)))
    return result


# ---- the verdict: docs/evaluation.md says where the numbers come from

SHORT = 10  # words; of fewer nothing can be said
WINDOW = 100  # words that are judged at a time, since any long text repeats itself
LOOP = 3  # times in a row that a phrase stands ...
# ... words together, as people say `very, very, very` (three times: Holtzman et al. 2020)
LEAST_LOOP = 6
# Of the pairs of words in a window stood in it before; people repeat 3% (books) to 8%
# (documentation)
MAX_PAIRS = 0.3
MAX_WORD = 0.125  # of the words in a window are one and the same, other than a function word ...
LEAST_WORD = 8  # ... which stands there that often
MAX_INVENTED = 0.1  # of the words do not occur in train ...
LEAST_INVENTED = 3  # ... that many; people have less than 6% in 99.5% of texts like those of train
CHUNK = 1 << 20  # tokens decoded at a time: memory only
LEXICON = 5_000_000  # tokens of train that say which words there are
MAX_DANGLING = 0.15  # of the words that open a phrase are followed by what cannot follow ...
LEAST_DANGLING = 2  # ... and that often

WORD = re.compile(r"\w+(?:'\w+)?")
FUNCTION = frozenset(
    "a about after all also an and any are as at be because been before but by can could did do does each for from had has have he her his how i if "
    "in into is it its may more no not of on one only or other our she should so some such than that the their them then there these they this to "
    "was we were what when where which who will with would you your".split()
)
# With the word that follows, or a mark in its place
OPENING = re.compile(r"\b(the|an|its|their|of|from|with|into)\b(?:\s+(\w+)|\s*[.,;:!?)])")
NEVER_AFTER = frozenset(
    "and or but of is are was were be been has have had will would can could may should".split()
)
NEVER_AFTER_ARTICLE = NEVER_AFTER | frozenset(
    "the a an to in for with by at as from it they he she we i that which than because not so do does did if on".split()
)


def lexicon(train: Iterable[np.ndarray], tokenizer: Tokenizer) -> frozenset[str]:
    """The words in the first LEXICON tokens of some token files."""
    found: set[str] = set()
    left = LEXICON
    for ids in train:
        for start in range(0, min(left, len(ids)), CHUNK):
            found.update(
                WORD.findall(tokenizer.decode(ids[start : start + CHUNK].tolist()).lower())
            )
        left -= min(left, len(ids))
    return frozenset(found)


def judge(text: str, known: frozenset[str]) -> Verdict:
    """The form of an English text.

    short: too few words to say. looping: it says the same again and again. broken: many of its words are no words, or are not put together as
    sentences are. fluent: none of that.

    Args:
        known: words, in lower case.
    """
    words = WORD.findall(text.lower())
    if len(words) < SHORT:
        return "short"
    windows = [
        words[start : start + WINDOW]
        for start in (*range(0, len(words) - WINDOW, WINDOW // 2), max(0, len(words) - WINDOW))
    ]
    if _loops(words) or any(
        _repeated(window, 2) > MAX_PAIRS or _harps(window) for window in windows
    ):
        return "looping"
    if _invents(words, known) or _dangles(text.lower()):
        return "broken"
    return "fluent"


def _loops(words: Sequence[str]) -> bool:
    """Whether a phrase follows on itself again and again."""
    for period in range(1, len(words) // LOOP + 1):
        run = 0  # words in a row that stood `period` words before
        for before, word in zip(words, words[period:], strict=False):
            run = run + 1 if word == before else 0
            if run + period >= max(LOOP * period, LEAST_LOOP):
                return True
    return False


def _harps(words: Sequence[str]) -> bool:
    """Whether one word stands everywhere."""
    counts = Counter(word for word in words if word not in FUNCTION and word.isalpha())
    most = max(counts.values(), default=0)
    return most >= LEAST_WORD and most > MAX_WORD * len(words)


def _invents(words: Sequence[str], known: frozenset[str]) -> bool:
    """Whether many words are none."""
    proper = [word for word in words if word.isalpha()]
    unknown = sum(word not in known for word in proper)
    return unknown >= LEAST_INVENTED and unknown > MAX_INVENTED * len(proper)


def _dangles(text: str) -> bool:
    """Whether phrases break off behind their first word: `the of`, `with.`"""
    found = OPENING.findall(text)
    bad = sum(
        not after
        or after in (NEVER_AFTER_ARTICLE if word in ("the", "an", "its", "their") else NEVER_AFTER)
        for word, after in found
    )
    return bad >= LEAST_DANGLING and bad > MAX_DANGLING * len(found)


# ---- figures and the page


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures of each seed, their mean and, of several, their spread (standard deviation). Each is a share between 0 and 1.

    fluent, looping, broken, short: samples with this verdict.
    repetition: 4-grams of tokens that stood earlier in the same sample (seq-rep-4, Welleck et al. 2020), averaged over samples; a loop nears 1.
    distinct_1, distinct_2: different words and pairs of words among all of a seed (Li et al. 2016); a model that says little of everything nears 0.
    ended: samples that closed with EOS before max_new_tokens.
    """
    seeds = {
        seed: _figures([item for item in samples if item.seed == seed])
        for seed in dict.fromkeys(item.seed for item in samples)
    }
    columns = {
        name: [figures[name] for figures in seeds.values()] for name in next(iter(seeds.values()))
    }
    mean = {name: statistics.fmean(values) for name, values in columns.items()}
    spread = (
        {"spread": {name: statistics.stdev(values) for name, values in columns.items()}}
        if len(seeds) > 1
        else {}
    )
    return {**mean, **spread, "seeds": {str(seed): figures for seed, figures in seeds.items()}}


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


def markdown(samples: Sequence[Sample], config: CoherenceConfig) -> str:
    """The samples as a page: a heading a kind, the prompt in bold, its continuations fenced so that no text can become markup."""
    several = len(config.seeds) > 1
    lines = [
        "# Samples",
        "",
        f"Temperature {config.temperature:g}, top-k {config.top_k}, top-p {config.top_p:g}, at most {config.max_new_tokens} tokens, "
        f"{'seeds' if several else 'seed'} {', '.join(map(str, config.seeds))}. A continuation that the model ended by itself closes with ∎.",
        "Verdicts judge form by counting words, not sense: docs/evaluation.md."
        + (" In the table: mean over seeds ± spread." if several else ""),
        "",
    ]
    for kind in (None, *dict.fromkeys(item.kind for item in samples)):
        figures = summary([item for item in samples if kind in (None, item.kind)])
        spread, _ = figures.pop("spread", {}), figures.pop("seeds")
        if kind is None:
            lines += [
                "| | " + " | ".join(name.replace("_", "-") for name in figures) + " |",
                "|---" * (len(figures) + 1) + "|",
            ]
        cells = (
            f"{value:.2f}" + (f" ± {spread[name]:.2f}" if spread else "")
            for name, value in figures.items()
        )
        lines.append(f"| {kind or 'all'} | " + " | ".join(cells) + " |")
    kind = prompt = ""
    for item in samples:
        if item.kind != kind:
            kind = item.kind
            lines += ["", f"## {kind}"]
        if item.prompt != prompt:
            prompt = item.prompt
            lines += ["", f"**{prompt}**"]
        fence = "~" * (
            3 + max((len(run) for run in item.text.split() if set(run) == {"~"}), default=0)
        )
        verdict = f"Seed {item.seed}: {item.verdict}, repetition {_repeated(item.ids, 4):.2f}"
        lines += [
            "",
            verdict,
            "",
            f"{fence}text",
            item.text.strip() + (" ∎" if EOS in item.ids else ""),
            fence,
        ]
    return "\n".join(lines) + "\n"


def _ngrams(items: Sequence[object], n: int) -> list[tuple[object, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def _repeated(items: Sequence[object], n: int) -> float:
    ngrams = _ngrams(items, n)
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    ngrams = [ngram for text in texts for ngram in _ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
