"""What the model says: continuations of fixed prompts, for people to read, and figures that tell fluent from looping."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from antimatter.data.tokenizer import BOS, EOS, Tokenizer
from antimatter.model.gpt import GPT
from antimatter.model.sampling import Sampling, generate


@dataclass(frozen=True, kw_only=True)
class CoherenceConfig(Sampling):
    samples: int  # continuations of each prompt
    seed: int  # of the draw

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")


@dataclass(frozen=True)
class Sample:
    kind: str  # the prompt's heading
    prompt: str
    text: str  # the continuation
    ids: list[int]  # its tokens, with EOS if it ended by itself


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """(kind, prompt) pairs of a file with one prompt a line under `# kind` headings.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or no prompt in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: `git checkout {path}`, or write one prompt a line under `# kind` headings")
    kind, prompts = "prompts", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            kind = line.lstrip("# ").strip()
        elif line.strip():
            prompts.append((kind, line.strip()))
    if not prompts:
        raise ValueError(f"{path} holds no prompt: write one a line under `# kind` headings")
    return prompts


def sample(model: GPT, tokenizer: Tokenizer, prompts: Sequence[tuple[str, str]], config: CoherenceConfig) -> list[Sample]:
    """config.samples continuations of each prompt. Each prompt has its own draw, so adding one leaves the others as they were."""
    result = []
    for kind, prompt in prompts:
        generator = torch.Generator().manual_seed(config.seed)
        for ids in generate(model, [BOS, *tokenizer.encode(prompt)], config.samples, config, EOS, generator):
            result.append(Sample(kind, prompt, tokenizer.decode(ids), ids))
    return result


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Figures over all samples, each a share between 0 and 1.

    repetition: 4-grams of tokens that stood earlier in the same sample (seq-rep-4, Welleck et al. 2020), averaged over samples; a loop nears 1.
    distinct_1, distinct_2: different words and pairs of words among all (Li et al. 2016); a model that says little of everything nears 0.
    ended: samples that closed with EOS before max_new_tokens.
    """
    words = [sample.text.split() for sample in samples]
    return {
        "repetition": sum(_repeated(sample.ids, 4) for sample in samples) / len(samples),
        "distinct_1": _distinct(words, 1),
        "distinct_2": _distinct(words, 2),
        "ended": sum(EOS in sample.ids for sample in samples) / len(samples),
    }


def markdown(samples: Sequence[Sample], config: CoherenceConfig) -> str:
    """The samples as a page: a heading a kind, the prompt in bold, its continuations fenced so that no text can become markup."""
    lines = [
        "# Samples",
        "",
        f"Temperature {config.temperature:g}, top-k {config.top_k}, top-p {config.top_p:g}, at most {config.max_new_tokens} tokens, "
        f"seed {config.seed}. A continuation that the model ended by itself closes with ∎.",
        "",
        "| | repetition | distinct-1 | distinct-2 | ended |",
        "|---|---|---|---|---|",
    ]
    for kind in (None, *dict.fromkeys(item.kind for item in samples)):
        figures = summary([item for item in samples if kind in (None, item.kind)])
        lines.append(f"| {kind or 'all'} | " + " | ".join(f"{value:.2f}" for value in figures.values()) + " |")
    kind = prompt = ""
    for item in samples:
        if item.kind != kind:
            kind = item.kind
            lines += ["", f"## {kind}"]
        if item.prompt != prompt:
            prompt = item.prompt
            lines += ["", f"**{prompt}**"]
        fence = "~" * (3 + max((len(run) for run in item.text.split() if set(run) == {"~"}), default=0))
        lines += ["", f"{fence}text", item.text.strip() + (" ∎" if EOS in item.ids else ""), fence]
    return "\n".join(lines) + "\n"


def _ngrams(items: Sequence[object], n: int) -> list[tuple[object, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def _repeated(ids: Sequence[int], n: int) -> float:
    ngrams = _ngrams(ids, n)
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    ngrams = [ngram for text in texts for ngram in _ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
