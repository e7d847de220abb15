from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from antimatter import params
from antimatter.errors import UserError
from antimatter.ladder import advice, configs
from antimatter.ladder.configs import Base
from antimatter.ladder.fit import Target, read_target
from antimatter.ladder.runner import Result
from antimatter.training.schedule import ScheduleConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nano() -> Base:
    base = configs.read(ROOT, before_shards=True)
    return replace(base, train_tokens=4_000_000, train_bytes=15_000_000)


@pytest.fixture(scope="module")
def target(nano: Base) -> Target:
    return read_target(ROOT / "presets/300m.yaml", nano, devices=1, mfu=0.4)


def test_a_target_reads_the_text_of_the_hub_in_passes(target: Target, tmp_path: Path) -> None:
    """Of 45 GB cleaning keeps 38. Other text is of unknown size, so all of it counts as new."""
    assert target.unique_bytes == pytest.approx(38e9)
    read = target.plan.tokens * 4.47
    assert target.passes == pytest.approx(read / 38e9) == pytest.approx(4.0, abs=0.01)
    assert target.data_bytes == pytest.approx(3.73 * 38e9, rel=0.005)
    warmup = params.read(ScheduleConfig, "schedule", ROOT / "presets/300m.yaml").warmup_steps
    # The seed's 2,000 steps
    assert warmup == 2000 and warmup / target.plan.training.steps < 0.1
    text = (ROOT / "presets/300m.yaml").read_text().replace("source: hub", "source: files", 1)
    (tmp_path / "files.yaml").write_text(text)
    base = replace(configs.read(ROOT, before_shards=True), train_tokens=4, train_bytes=15)
    other = read_target(tmp_path / "files.yaml", base, devices=1, mfu=0.4)
    assert (other.passes, other.data_bytes) == (None, read)


def results(base: Base, bend: float, slope: float = 1.0) -> list[Result]:
    """Parabolas with their minimum at 0.5 / width^slope."""
    results = []
    for run in configs.runs(base, 1e18):
        distance = np.log2(run.learning_rate * run.model.n_embd**slope / 0.5)
        loss = 5.0 + bend * distance**2 + {2: -0.05, 4: 0.0, 8: 0.001}[run.batch_size]
        results.append(Result(run, loss, loss / 2.6))
    return results


def test_the_best_rate_is_the_minimum_of_the_parabola(nano: Base) -> None:
    low, high = advice.best_rates(results(nano, bend=0.2), noise=0.005)
    assert (low.width, high.width) == (96, 192)
    for best in (low, high):
        interval, truth = best.interval, 0.5 / best.width
        assert interval is not None and interval.median == pytest.approx(truth, rel=0.03)
        assert interval.low < truth < interval.high
    law = advice.by_width([low, high])
    assert law is not None
    assert np.median(law[1]) == pytest.approx(1.0, abs=0.05)
    assert np.median(law[0] * 1024.0 ** -law[1]) == pytest.approx(0.5 / 1024, rel=0.1)


def test_more_noise_is_a_wider_interval_and_too_much_is_no_advice(
    nano: Base, target: Target
) -> None:
    spans = []
    for noise in (0.001, 0.01):
        interval = advice.best_rates(results(nano, bend=0.2), noise)[0].interval
        assert interval is not None
        spans.append(interval.high / interval.low)
    assert spans[1] > spans[0] > 1
    flat = results(nano, bend=0.001)
    assert [best.interval for best in advice.best_rates(flat, noise=0.02)] == [None, None]
    text = "\n".join(advice.lines(flat, 0.02, target))
    assert text.count("; inconclusive") == 2 and "no advice on the rate" in text


def test_a_batch_that_is_far_from_the_ladders_gets_no_rate(nano: Base, target: Target) -> None:
    text = "\n".join(advice.lines(results(nano, bend=0.2), 0.005, target))
    assert "5.3 x the widest rung" in text
    assert "1,024 x as large: the ladder cannot judge its 0.0015" in text
    training = replace(target.plan.training, batch_size=2)
    near = replace(target, plan=replace(target.plan, training=training))
    text = "\n".join(advice.lines(results(nano, bend=0.2), 0.005, near))
    assert "for its batch, 4 x as large" in text


def test_what_a_doubling_of_the_batch_costs(nano: Base, target: Target) -> None:
    *_, losses, costs = advice.lines(results(nano, bend=0.0), 0.005, target)
    assert "512: 4.950, 1,024: 5.000, 2,048: 5.001" in losses
    assert costs.endswith("costs +0.050, then +0.001 (no more than noise)")


def test_a_vocabulary_of_unknown_bytes_per_token_is_an_error(nano: Base, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(
        (ROOT / "presets/300m.yaml").read_text().replace("vocab_size: 50257", "vocab_size: 32000")
    )
    with pytest.raises(UserError, match=r"other\.yaml: .* 32,000: make its shards"):
        read_target(tmp_path / "other.yaml", nano, devices=1, mfu=0.4)
    own = replace(nano, model=replace(nano.model, vocab_size=32000))
    assert read_target(tmp_path / "other.yaml", own, devices=1, mfu=0.4).bytes_per_token == 3.75
