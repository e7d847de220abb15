"""95% intervals, against tables and against their definition."""

import numpy as np
import pytest

from antimatter.evaluation import cloze, intervals


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),
        (5, 10, 0.1871, 0.8129),
        (8, 10, 0.4439, 0.9748),
        (10, 10, 0.6915, 1.0),
        (1, 20, 0.0013, 0.2487),
        (4, 20, 0.0573, 0.4366),
    ],
)
def test_the_interval_of_a_share_is_that_of_clopper_and_pearson(
    right: int, n: int, low: float, high: float
) -> None:
    """Values of R's binom.test."""
    assert intervals.of_share(right, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (3, 7), (0, 40), (40, 40), (29, 400)])
def test_at_its_ends_what_was_seen_has_a_probability_of_2_5_percent(right: int, n: int) -> None:
    low, high = intervals.of_share(right, n)
    if right:
        assert cloze.p_value(right, [low] * n) == pytest.approx(0.025, rel=1e-6)
    if right < n:
        assert 1 - cloze.p_value(right + 1, [high] * n) == pytest.approx(0.025, rel=1e-6)


def test_the_interval_of_a_mean_narrows_with_the_items() -> None:
    values = np.random.default_rng(1).normal(3, 1, 400)
    for n in (100, 400):
        low, high = intervals.of_mean(values[:n])
        assert low < values[:n].mean() < high
        assert (high - low) / 2 == pytest.approx(1.96 * values[:n].std() / n**0.5, rel=0.15)
    assert intervals.of_ratio([2, 4, 8], [1, 2, 4]) == (2, 2)
