"""Sentences with one right ending among two to four, each scored by its likelihood: an exact score, and how likely chance alone reaches it.

As in LAMBADA and in BLiMP's minimal pairs (Paperno et al. 2016, Warstadt et al. 2020). The two scores are those of lm-evaluation-harness: `acc` takes
the ending that is likeliest as a whole, `acc_bytes` the one that is likeliest per byte (`acc_norm` counts characters).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation.perplexity import Window, score
from antimatter.model.gpt import GPT

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Item:
    category: str
    context: str
    # The first is right; which one the model takes does not depend on their order
    endings: tuple[str, ...]

    @property
    def chance(self) -> float:
        return 1 / len(self.endings)


@dataclass(frozen=True)
class Answer:
    item: Item
    nats: tuple[float, ...]  # negative log-likelihood of each ending after the context

    def correct(self) -> bool:
        """Whether the right ending is the likeliest. A tie is no."""
        return self.nats[0] < min(self.nats[1:])

    def correct_per_byte(self) -> bool:
        per_byte = [
            nats / len(ending.encode())
            for nats, ending in zip(self.nats, self.item.endings, strict=True)
        ]
        return per_byte[0] < min(per_byte[1:])


def read_items(path: Path) -> list[Item]:
    """The items of a file: `context | right ending | wrong ending`, up to three wrong ones, one item a line under `# category` headings.

    Raises:
        FileNotFoundError, ValueError: there is no such file, no item in it, or a line that is none.
    """
    way_out = (
        "write `context | right ending | wrong ending`, one a line under `# category` headings"
    )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: `git checkout {path}`, or {way_out}")
    category, items = "items", []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.startswith("#"):
            category = line.lstrip("# ").strip()
        elif line.strip():
            context, *endings = (part.strip() for part in line.split("|"))
            if (
                not 2 <= len(endings) <= 4
                or not context
                or not all(endings)
                or len(set(endings)) < len(endings)
            ):
                raise UserError(
                    f"{path}, line {number} is not a context with 2 to 4 different endings ({line.strip()[:60]!r}): {way_out}"
                )
            items.append(Item(category, context, tuple(endings)))
    if not items:
        raise UserError(f"{path} holds no item: {way_out}")
    return items


def answer(model: GPT, tokenizer: Tokenizer, items: Sequence[Item]) -> list[Answer]:
    """Scores every ending after its context, with a space between the two. A context beyond block_size loses its beginning.

    Args:
        model: in eval mode.

    Raises:
        ValueError: an ending does not fit the context of the model.
    """
    context = model.config.block_size
    windows: list[Window] = []
    for item in items:
        for ending in item.endings:
            # Apart from the context: no token of ours holds the end of one word and the space
            # before the next
            asked = tokenizer.encode(" " + ending)
            if len(asked) > context:
                raise UserError(
                    f"the ending {ending[:40]!r} has {len(asked)} tokens, the model reads {context}: shorten it"
                )
            ids = np.array([BOS, *tokenizer.encode(item.context), *asked][-context - 1 :])
            windows.append(Window(len(windows), ids, len(ids) - 1 - len(asked)))
    nats = np.zeros(len(windows))
    for scored in score(model, windows):
        nats += np.bincount(scored.stream, scored.losses, len(windows))
    left = iter(nats.tolist())
    return [Answer(item, tuple(next(left) for _ in item.endings)) for item in items]


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """The score of all items and of each category.

    accuracy: the share that is right. low, high: its 95% interval. chance: what guessing gets. p_value: how likely guessing gets as many or more.
    accuracy_per_byte, p_value_per_byte: the same where length counts nothing.
    """
    found = {"all": _figures(answers)}
    for category in dict.fromkeys(one.item.category for one in answers):
        found[category] = _figures([one for one in answers if one.item.category == category])
    return found


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    n, chances = len(answers), [one.item.chance for one in answers]
    right, per_byte = (
        sum(one.correct() for one in answers),
        sum(one.correct_per_byte() for one in answers),
    )
    low, high = interval(right, n)
    return {
        "items": n, "correct": right, "accuracy": right / n, "low": low, "high": high, "chance": sum(chances) / n, "p_value": p_value(right, chances),
        "accuracy_per_byte": per_byte / n, "p_value_per_byte": p_value(per_byte, chances),
    }  # fmt: skip


# ---- exact statistics


def p_value(correct: int, chances: Sequence[float]) -> float:
    """How likely guessing gets `correct` items or more, the items having these chances: exact, also where they differ (Poisson binomial)."""
    distribution = [1.0]  # of the number of right guesses
    for chance in chances:
        distribution = [
            miss * (1 - chance) + hit * chance
            for miss, hit in zip([*distribution, 0.0], [0.0, *distribution], strict=True)
        ]
    return min(1.0, math.fsum(distribution[correct:]))


def interval(correct: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share of which `correct` of `n` were seen (Clopper and Pearson 1934): exact, so it is never too narrow."""
    tail = (1 - CONFIDENCE) / 2
    low = _where(lambda share: p_value(correct, [share] * n) - tail) if correct else 0.0
    high = (
        _where(lambda share: tail - (1 - p_value(correct + 1, [share] * n))) if correct < n else 1.0
    )
    return low, high


def _where(rising: Callable[[float], float]) -> float:
    """Where a rising function of a share is 0, by halving."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return low
