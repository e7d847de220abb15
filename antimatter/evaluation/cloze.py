"""Sentences with one right ending among two to four, each scored by its likelihood: an exact score,
and how likely chance alone reaches it.

As in LAMBADA and in BLiMP's minimal pairs (Paperno et al. 2016, Warstadt et al. 2020). The two
scores are those of lm-evaluation-harness: `acc` takes the ending that is likeliest as a whole,
`acc_bytes` the one that is likeliest per byte (`acc_norm` counts characters).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation import intervals, prompt_files, scoring
from antimatter.evaluation.scoring import Window
from antimatter.model.gpt import GPT


@dataclass(frozen=True)
class Item:
    category: str
    context: str
    # The first is right; the model's choice does not depend on their order
    endings: tuple[str, ...]

    @property
    def chance(self) -> float:
        return 1 / len(self.endings)


@dataclass(frozen=True)
class Answer:
    item: Item
    nats: tuple[float, ...]  # negative log-likelihood of each ending after the context

    def is_correct(self) -> bool:
        """Whether the right ending is the likeliest. A tie is wrong."""
        return self.nats[0] < min(self.nats[1:])

    def is_correct_per_byte(self) -> bool:
        pairs = zip(self.nats, self.item.endings, strict=True)
        per_byte = [nats / len(ending.encode()) for nats, ending in pairs]
        return per_byte[0] < min(per_byte[1:])


def read_items(path: Path) -> list[Item]:
    """The items of a file: `context | right ending | wrong ending`, up to three wrong ones, one
    item a line under `# category` headings.

    Raises:
        UserError: the file is missing or holds no item, a line is not an item, or a category has
            the name of the figures of all.
    """
    fix = "write `context | right ending | wrong ending`, one a line under `# category` headings"
    items = []
    for entry in prompt_files.read(path, "items", fix, reserved={prompt_files.ALL}):
        context, *endings = (part.strip() for part in entry.text.split("|"))
        is_complete = bool(context) and all(endings)
        if not is_complete or not 2 <= len(endings) <= 4 or len(set(endings)) < len(endings):
            raise UserError(
                f"{path}, line {entry.line} is not a context with 2 to 4 different endings "
                f"({entry.text[:60]!r}): {fix}"
            )
        items.append(Item(entry.heading, context, tuple(endings)))
    return items


def answer(model: GPT, tokenizer: Tokenizer, items: Sequence[Item]) -> list[Answer]:
    """Scores every ending after its context, with a space between the two. A context beyond
    block_size loses its beginning.

    Args:
        model: in eval mode.

    Raises:
        UserError: an ending does not fit the context of the model.
    """
    context = model.config.block_size
    windows: list[Window] = []
    for item in items:
        for ending in item.endings:
            # Encoded without the context: no token of this tokenizer spans the end of one word and
            # the space before the next
            scored = tokenizer.encode(" " + ending)
            if len(scored) > context:
                raise UserError(
                    f"the ending {ending[:40]!r} has {len(scored)} tokens, the model reads "
                    f"{context}: shorten it"
                )
            # One token more than the context, as the last one is only a target
            ids = np.array([BOS, *tokenizer.encode(item.context), *scored][-context - 1 :])
            windows.append(Window(len(windows), ids, len(ids) - 1 - len(scored)))
    nats = iter(scoring.sums(model, windows).tolist())
    return [Answer(item, tuple(next(nats) for _ in item.endings)) for item in items]


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """The score of all items and of each category.

    accuracy: the share of right answers. low, high: its 95% interval. chance: the accuracy of
    guessing. p_value: how likely guessing has as many right or more. accuracy_per_byte,
    p_value_per_byte: the same if the likelihood is divided by the length of the ending.
    """
    by_category: dict[str, list[Answer]] = {}
    for one in answers:
        by_category.setdefault(one.item.category, []).append(one)
    return {
        prompt_files.ALL: _figures(answers),
        **{category: _figures(own) for category, own in by_category.items()},
    }


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    n, chances = len(answers), [one.item.chance for one in answers]
    right = sum(one.is_correct() for one in answers)
    per_byte = sum(one.is_correct_per_byte() for one in answers)
    low, high = intervals.of_share(right, n)
    return {
        "items": n,
        "correct": right,
        "accuracy": right / n,
        "low": low,
        "high": high,
        "chance": sum(chances) / n,
        "p_value": p_value(right, chances),
        "accuracy_per_byte": per_byte / n,
        "p_value_per_byte": p_value(per_byte, chances),
    }


def p_value(correct: int, chances: Sequence[float]) -> float:
    """How likely guessing has `correct` items or more right, given the chance of each: exact, also
    if the chances differ (Poisson binomial).
    """
    distribution = [1.0]  # of the number of right guesses
    for chance in chances:
        distribution = [
            miss * (1 - chance) + hit * chance
            for miss, hit in zip([*distribution, 0.0], [0.0, *distribution], strict=True)
        ]
    return min(1.0, math.fsum(distribution[correct:]))
