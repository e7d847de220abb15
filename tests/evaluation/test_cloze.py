"""The project's items favour no strategy without a model, and each item is scored by likelihood."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import cloze
from antimatter.evaluation.cloze import Answer, Item
from antimatter.model.gpt import GPT

ITEMS = cloze.read_items(Path("prompts/cloze.txt"))
CHANCES = [item.chance for item in ITEMS]


def test_the_projects_own_items_are_many_and_of_many_kinds() -> None:
    kinds = Counter(item.category for item in ITEMS)
    assert len(ITEMS) >= 80 and min(kinds.values()) >= 12
    named = "negation comparison counting order cause agreement deduction"
    assert set(named.split()) <= set(kinds)
    assert len({(item.context, item.endings) for item in ITEMS}) == len(ITEMS)


def test_each_ending_is_right_as_often_as_any_other_of_its_kind() -> None:
    """So a strategy that ignores the context (the shortest ending, the most frequent, the first in
    the alphabet, ...) is exactly as good as chance.
    """
    right: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
    for item in ITEMS:
        right[frozenset(item.endings)][item.endings[0]] += 1
    for endings, counts in right.items():
        assert counts.keys() == endings and len(set(counts.values())) == 1, counts


BLIND: dict[str, Callable[[str], float]] = {
    "shortest": lambda ending: -len(ending),
    "longest": len,
    "first in the alphabet": lambda ending: -ord(ending[0]),
    "most frequent": lambda ending: float(sum(ending in item.endings for item in ITEMS)),
}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


COPYING: dict[str, Callable[[Item, str], float]] = {
    "mentioned last": lambda item, ending: item.context.lower().rfind(ending.lower().strip(".")),
    "mentioned first": lambda item, ending: (
        -(item.context.lower().find(ending.lower().strip(".")) % 10_000)
    ),
    "most words of the context": lambda item, ending: (
        sum(word in words(item.context) for word in words(ending)) / len(words(ending))
    ),
    "fewest words of the context": lambda item, ending: (
        -sum(word in words(item.context) for word in words(ending)) / len(words(ending))
    ),
}


@pytest.mark.parametrize("name", [*BLIND, *COPYING])
def test_no_trivial_strategy_beats_chance(name: str) -> None:
    key = COPYING.get(name) or (lambda item, ending: BLIND[name](ending))
    right = 0.0
    for item in ITEMS:
        values = [key(item, ending) for ending in item.endings]
        best = [i for i, value in enumerate(values) if value == max(values)]
        right += (0 in best) / len(best)  # a tie is guessed
    assert cloze.p_value(math.ceil(right), CHANCES) > 0.05, right
    if name in BLIND:
        assert right == pytest.approx(sum(CHANCES))


def test_the_score_is_the_likelihood_of_the_ending_after_the_context(
    model: GPT, tokenizer: Tokenizer
) -> None:
    items = [
        Item("k", "return the", ("parser", "action group", "é")),
        Item("k", "import", ("sys", "os")),
    ]
    answers = cloze.answer(model, tokenizer, items)
    assert [answer.item for answer in answers] == items
    for answer in answers:
        for ending, nats in zip(answer.item.endings, answer.nats, strict=True):
            whole = [BOS, *tokenizer.encode(f"{answer.item.context} {ending}")]
            scored = len(tokenizer.encode(" " + ending))
            with torch.no_grad():
                logits = model(torch.tensor([whole[:-1]]))[0].double()
            losses = F.cross_entropy(logits, torch.tensor(whole[1:]), reduction="none")
            assert nats == pytest.approx(losses[-scored:].sum().item(), rel=1e-5)


def test_a_long_context_loses_its_beginning_and_a_long_ending_is_refused(
    model: GPT, tokenizer: Tokenizer
) -> None:
    item = Item("k", "return the action " * 50, ("parser", "group"))
    (answer,) = cloze.answer(model, tokenizer, [item])
    # Longer than the context, so that only its end counts
    ids = [BOS, *tokenizer.encode(item.context.strip() + " ")]
    assert len(ids) > 64 and all(math.isfinite(nats) for nats in answer.nats)
    (other,) = cloze.answer(model, tokenizer, [Item("k", "unlike " + item.context, item.endings)])
    assert other.nats == pytest.approx(answer.nats)
    with pytest.raises(ValueError, match=r"'parser parser .* has \d+ tokens, the model reads 64: "):
        cloze.answer(model, tokenizer, [Item("k", "a", ("parser " * 64, "b"))])


def test_the_order_of_the_endings_decides_nothing_and_a_tie_is_wrong() -> None:
    item = Item("k", "c", ("abcd", "ab"))
    assert Answer(item, (2.0, 3.0)).is_correct()
    assert not Answer(item, (3.0, 2.0)).is_correct()
    assert not Answer(item, (2.0, 2.0)).is_correct()
    assert Answer(item, (3.0, 2.0)).is_correct_per_byte()  # 0.75 against 1 nat a byte
    assert not Answer(item, (4.0, 1.0)).is_correct_per_byte()
    assert not Answer(item, (4.0, 2.0)).is_correct_per_byte()


def test_a_model_that_knows_nothing_beats_chance_nowhere(model: GPT, tokenizer: Tokenizer) -> None:
    figures = cloze.summary(cloze.answer(model, tokenizer, ITEMS))
    every = figures.pop("all")
    assert every["items"] == len(ITEMS)
    assert every["low"] < every["chance"] < every["high"]
    assert every["p_value"] > 0.05
    assert sum(own["correct"] for own in figures.values()) == every["correct"]


def test_the_p_value_is_the_tail_of_the_binomial() -> None:
    assert cloze.p_value(0, [0.5] * 4) == 1
    assert cloze.p_value(3, [0.5] * 4) == pytest.approx(5 / 16)
    assert cloze.p_value(4, [0.5] * 4) == pytest.approx(1 / 16)
    expected = sum(math.comb(100, k) * 0.25**k * 0.75 ** (100 - k) for k in range(35, 101))
    assert cloze.p_value(35, [0.25] * 100) == pytest.approx(expected)


def test_items_of_several_chances_are_counted_exactly() -> None:
    # Of the three, the first two, the first and third, the last two, or all
    expected = (1 * 1 * 3 + 1 * 2 * 1 + 1 * 1 * 1 + 1 * 1 * 1) / 24
    assert cloze.p_value(2, [1 / 2, 1 / 3, 1 / 4]) == pytest.approx(expected)
    chances = [0.5] * 5 + [0.25] * 7
    draw = random.Random(0)
    counts = [sum(draw.random() < chance for chance in chances) for _ in range(20_000)]
    share = sum(count >= 6 for count in counts) / len(counts)
    assert cloze.p_value(6, chances) == pytest.approx(share, abs=0.01)


def test_an_item_is_a_line_under_its_category(tmp_path: Path) -> None:
    path = tmp_path / "items.txt"
    colours = "# Colours\nThe sky is | blue | red\n"
    numbers = "# Numbers\nOne and one | is two. | is three. | is four. | is five.\n"
    path.write_text(f"{colours}\n{numbers}")
    assert cloze.read_items(path) == [
        Item("Colours", "The sky is", ("blue", "red")),
        Item("Numbers", "One and one", ("is two.", "is three.", "is four.", "is five.")),
    ]
    assert [item.chance for item in cloze.read_items(path)] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no ending\n", "line 1 is not a context with 2 to 4 different endings"),
        ("# a\nonly | one\n", "line 2 is not a context"),
        ("a | b | b\n", "line 1 is not a context"),
        ("a | b | \n", "line 1 is not a context"),
        (" | b | c\n", "line 1 is not a context"),
        ("a | b | c | d | e | f\n", "line 1 is not a context"),
    ],
)
def test_a_line_that_is_not_an_item_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "items.txt").write_text(content)
    with pytest.raises(ValueError, match=words):
        cloze.read_items(tmp_path / "items.txt")
