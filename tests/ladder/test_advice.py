from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from antimatter.ladder import advice, configs, forecast
from antimatter.ladder.configs import Base
from antimatter.ladder.forecast import Target
from antimatter.ladder.runner import Result

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nano() -> Base:
    base = configs.read(ROOT, before_shards=True)
    return replace(base, train_tokens=4_000_000, train_bytes=15_000_000)


@pytest.fixture(scope="module")
def target(nano: Base) -> Target:
    return forecast.read(ROOT / "presets/300m.yaml", nano, devices=1, mfu=0.4)


def results(base: Base, bend: float, slope: float = 1.0) -> list[Result]:
    """Parabolas whose lowest point lies at 0.5 / width^slope."""
    found = []
    for rung in configs.family(base, 1e18):
        away = np.log2(rung.learning_rate * rung.model.n_embd**slope / 0.5)
        loss = 5.0 + bend * away**2 + {2: -0.05, 4: 0.0, 8: 0.001}[rung.batch_size]
        found.append(Result(rung, loss, loss / 2.6))
    return found


def test_the_best_rate_is_the_lowest_point_of_the_parabola(nano: Base) -> None:
    low, high = advice.best_rates(results(nano, bend=0.2), noise=0.005)
    assert (low.width, high.width) == (96, 192)
    for one in (low, high):
        assert one.rate is not None and one.rate.median == pytest.approx(0.5 / one.width, rel=0.03)
        assert one.rate.low < 0.5 / one.width < one.rate.high
    law = advice.by_width([low, high])
    assert law is not None
    assert np.median(law[1]) == pytest.approx(1.0, abs=0.05)
    assert np.median(law[0] * 1024.0 ** -law[1]) == pytest.approx(0.5 / 1024, rel=0.1)


def test_more_noise_is_a_wider_interval_and_too_much_is_no_advice(
    nano: Base, target: Target
) -> None:
    spans = []
    for noise in (0.001, 0.01):
        rate = advice.best_rates(results(nano, bend=0.2), noise)[0].rate
        assert rate is not None
        spans.append(rate.high / rate.low)
    assert spans[1] > spans[0] > 1
    flat = results(nano, bend=0.001)
    assert [one.rate for one in advice.best_rates(flat, noise=0.02)] == [None, None]
    text = "\n".join(advice.lines(flat, 0.02, target))
    assert "the lowest point cannot be told" in text and "no advice on the rate" in text


def test_a_batch_that_is_far_from_the_ladders_gets_no_rate(nano: Base, target: Target) -> None:
    text = "\n".join(advice.lines(results(nano, bend=0.2), 0.005, target))
    assert (
        "5.3 x the widest rung" in text
        and "1,024 x as large: the ladder cannot judge its 0.0006" in text
    )
    near = replace(
        target, plan=replace(target.plan, training=replace(target.plan.training, batch_size=2))
    )
    assert "for its batch, 4 x as large" in "\n".join(
        advice.lines(results(nano, bend=0.2), 0.005, near)
    )


def test_what_a_doubling_of_the_batch_costs(nano: Base, target: Target) -> None:
    *_, losses, costs = advice.lines(results(nano, bend=0.0), 0.005, target)
    assert "512: 4.950, 1,024: 5.000, 2,048: 5.001" in losses
    assert costs.endswith("costs +0.050, then +0.001 (no more than noise)")


def test_a_vocabulary_that_nobody_has_measured_is_one_line(nano: Base, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(
        (ROOT / "presets/300m.yaml").read_text().replace("vocab_size: 50257", "vocab_size: 32000")
    )
    with pytest.raises(
        ValueError, match="vocabulary of 32,000: make its shards, and run the ladder on them"
    ):
        forecast.read(tmp_path / "other.yaml", nano, devices=1, mfu=0.4)
    own = replace(nano, model=replace(nano.model, vocab_size=32000))
    assert forecast.read(tmp_path / "other.yaml", own, devices=1, mfu=0.4).bytes_per_token == 3.75
