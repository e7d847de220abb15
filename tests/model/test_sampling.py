"""Distributions worked out by hand, and generated tokens against the plain forward pass."""

from dataclasses import replace

import pytest
import torch

from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT
from antimatter.model.sampling import generate, probabilities

ALL = Sampling(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=8)
LOGITS = torch.tensor([0.5, 0.2, 0.25, 0.05]).log()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [0.5, 0.2, 0.25, 0.05]),
        ({"top_k": 2}, [2 / 3, 0, 1 / 3, 0]),
        # 0.5 is less than 0.6, so the token that crosses 0.6 is included
        ({"top_p": 0.6}, [2 / 3, 0, 1 / 3, 0]),
        ({"top_p": 0.45}, [1.0, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.355, 0.04 / 0.355, 0.0625 / 0.355, 0.0025 / 0.355]),
        ({"temperature": 0.0}, [1.0, 0, 0, 0]),
    ],
)
def test_probabilities_at_points_worked_out_by_hand(
    change: dict[str, float], expected: list[float]
) -> None:
    result = probabilities(LOGITS, replace(ALL, **change))  # type: ignore[arg-type]
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_greedy_decoding_takes_the_most_likely_token_beyond_the_context_too(
    tiny_gpt: GPT,
) -> None:
    greedy = replace(ALL, temperature=0.0, max_new_tokens=30)
    (row,) = generate(tiny_gpt, [5, 6], 1, greedy, end=-1, generator=torch.Generator())
    ids = [5, 6]
    for _ in range(30):
        ids.append(int(tiny_gpt(torch.tensor([ids[-16:]]))[0, -1].argmax()))
    assert row == ids[2:]


def test_a_row_ends_with_its_first_end_token(tiny_gpt: GPT) -> None:
    rows = generate(tiny_gpt, [5], 50, ALL, end=7, generator=torch.Generator().manual_seed(0))
    assert any(7 in row for row in rows)
    assert all(row.index(7) == len(row) - 1 if 7 in row else len(row) == 8 for row in rows)


def test_the_seed_decides_the_draw(tiny_gpt: GPT) -> None:
    one, same, other = (
        generate(tiny_gpt, [5], 3, ALL, end=-1, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert one == same != other
