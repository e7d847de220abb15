"""The fit finds the law that the runs were drawn from, and its 90% is 90%."""

import numpy as np
import pytest

from antimatter.errors import UserError
from antimatter.ladder import scaling
from antimatter.ladder.scaling import Interval

WEIGHTS, DATA = np.repeat([3.6e5, 9.2e5, 1.7e6], 4), np.tile([3.8e6, 7.6e6, 1.5e7, 3.1e7], 3)
LARGE = (3.5e8, 3.9e10)  # 200 times the weights, 1,300 times the text


def law(E: float, a: float, alpha: float, b: float, beta: float):  # type: ignore[no-untyped-def]
    """a and b are the terms at the smallest rung."""
    return lambda n, d: E + a * (n / WEIGHTS[0]) ** -alpha + b * (d / DATA[0]) ** -beta


def test_a_ladder_without_noise_gives_its_own_losses_and_law_back() -> None:
    truth = law(0.4, 0.5, 0.36, 0.6, 0.31)
    fitted = scaling.fit(WEIGHTS, DATA, truth(WEIGHTS, DATA))
    for n, d in zip(WEIGHTS, DATA, strict=True):
        assert fitted.expected(n, d).median == pytest.approx(truth(n, d), rel=2e-3)
    for name, value in (("E", 0.4), ("alpha", 0.36), ("beta", 0.31)):
        interval = Interval.of(getattr(fitted, name))
        assert interval.low < value < interval.high
    large = fitted.predict(*LARGE)
    assert large.low < truth(*LARGE) < large.high
    assert large.median == pytest.approx(truth(*LARGE), rel=0.2)


def test_repeated_text_is_worth_less_with_each_pass() -> None:
    """Muennighoff et al. 2023: four passes are nearly as good as new text, and after 16 the gain
    ends.
    """
    assert scaling.worth(0.5, 1) == 0.5 and scaling.worth(1, 1) == 1
    passes = np.array([scaling.worth(read, 1) for read in range(1, 100)])
    gains = np.diff(passes)
    assert (gains > 0).all() and (np.diff(gains) < 0).all()
    assert gains[17] / gains[2] == pytest.approx(np.exp(-15 / 15.39))
    assert passes[3] == pytest.approx(3.73, abs=0.005)
    assert scaling.worth(1e9, 1) == pytest.approx(1 + 15.39)
    # In any unit
    assert scaling.worth(4e9, 1e9) == pytest.approx(1e9 * scaling.worth(4, 1))


def test_the_largest_rung_follows_from_the_others() -> None:
    truth = law(0.4, 0.5, 0.36, 0.6, 0.31)
    noise = 1 + 0.004 * np.random.default_rng(5).standard_normal(12)
    losses = truth(WEIGHTS, DATA) * noise
    fitted = scaling.fit(WEIGHTS[:-1], DATA[:-1], losses[:-1]).predict(WEIGHTS[-1], DATA[-1])
    assert fitted.median == pytest.approx(losses[-1], rel=0.02)
    assert fitted.low < losses[-1] < fitted.high


def test_ninety_percent_of_the_intervals_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """On ladders drawn from laws as the prior expects them. benchmarks/ladder_fit.py has more laws,
    and other ways to fit.
    """
    monkeypatch.setattr(scaling, "DRAWS", 2_000)
    random, near, far, rounds = np.random.default_rng(7), 0, 0, 120
    for _ in range(rounds):
        E, a, b = (random.uniform(0.2, high) for high in (0.7, 0.6, 0.6))
        alpha, beta = (
            exponent * np.exp(scaling.SPREAD * random.standard_normal())
            for exponent in (scaling.ALPHA, scaling.BETA)
        )
        truth = law(E, a, alpha, b, beta)
        losses = truth(WEIGHTS, DATA) * (1 + 0.005 * random.standard_normal(12))
        check = scaling.fit(WEIGHTS[:-1], DATA[:-1], losses[:-1]).predict(WEIGHTS[-1], DATA[-1])
        near += check.low <= losses[-1] <= check.high
        large = scaling.fit(WEIGHTS, DATA, losses).predict(*LARGE)
        far += large.low <= truth(*LARGE) <= large.high
    assert 0.82 <= near / rounds <= 0.98  # a fair coin of 0.9 leaves these bounds once in 300 times
    assert 0.82 <= far / rounds <= 0.98


def test_further_away_is_less_certain() -> None:
    fitted = scaling.fit(WEIGHTS, DATA, law(0.4, 0.5, 0.36, 0.6, 0.31)(WEIGHTS, DATA))
    spans = [
        (interval.high - interval.low) / interval.median
        for interval in (fitted.predict(k * 1.7e6, k * 3.1e7) for k in (1, 10, 100))
    ]
    assert spans == sorted(spans) and spans[2] > 3 * spans[0]


def test_the_optimum_is_where_no_other_size_loses_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "DRAWS", 2_000)  # it holds for each of them
    fitted = scaling.fit(WEIGHTS, DATA, law(0.4, 0.5, 0.36, 0.6, 0.31)(WEIGHTS, DATA))
    product = 1e15
    sizes = np.geomspace(1e5, 1e10, 2001)
    losses = np.stack([fitted.losses(n, product / n) for n in sizes])  # (sizes, S)
    assert np.allclose(fitted.frontier(product), losses.min(axis=0), rtol=1e-4)
    assert np.allclose(
        np.log(fitted.optimum(product)), np.log(sizes[losses.argmin(axis=0)]), atol=0.01
    )
    assert fitted.frontier([1e13, 1e15]).shape == (2, len(fitted.E))


def test_the_same_runs_give_the_same_law() -> None:
    losses = law(0.4, 0.5, 0.36, 0.6, 0.31)(WEIGHTS, DATA)
    assert np.array_equal(
        scaling.fit(WEIGHTS, DATA, losses).E, scaling.fit(WEIGHTS, DATA, losses).E
    )


def test_runs_that_determine_no_law_are_errors() -> None:
    losses = law(0.4, 0.5, 0.36, 0.6, 0.31)(WEIGHTS, DATA)
    with pytest.raises(
        UserError, match=r"needs at least 4 rungs.*there are 3, of 1 sizes and 3 budgets"
    ):
        scaling.fit(WEIGHTS[:3], DATA[:3], losses[:3])
    with pytest.raises(UserError, match="12, of 1 sizes"):
        scaling.fit(np.ones(12), DATA, losses)
    with pytest.raises(UserError, match="does not fall with size and with text"):
        scaling.fit(WEIGHTS, DATA, 1 / losses)
