import os
from dataclasses import replace
from pathlib import Path

import pytest

from antimatter.errors import UserError
from antimatter.ladder import configs
from antimatter.ladder import run as ladder
from antimatter.ladder.configs import Base
from antimatter.model.flops import matmul_weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nano() -> Base:
    return configs.read(ROOT, before_shards=True)


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    (tmp_path / "params.yaml").write_bytes((ROOT / "presets/300m.yaml").read_bytes())
    for name in ("antimatter", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    return configs.read(tmp_path, before_shards=True)


def test_the_largest_rung_of_a_small_model_is_the_run_of_params_yaml_itself(nano: Base) -> None:
    top = configs.largest(nano, 1e18)
    assert (top.model, top.steps, top.batch_size) == (
        nano.model,
        nano.training.steps,
        nano.training.batch_size,
    )
    assert (top.learning_rate, top.warmup_steps) == (
        nano.optimizer.learning_rate,
        nano.schedule.warmup_steps,
    )


def test_the_nano_ladder_is_three_widths_by_four_budgets_and_six_neighbours(nano: Base) -> None:
    runs = configs.runs(nano, 1e18)
    rungs = [run for run in runs if run.kind == "rung"]
    widths = {(run.model.n_embd, run.model.n_head) for run in rungs}
    assert sorted(widths) == [(96, 3), (144, 3), (192, 3)]
    assert sorted({run.steps for run in rungs}) == [124, 250, 500, 1000]
    assert len(rungs) == 12 and len({run.label for run in runs}) == len(runs) == 18
    for run in rungs:
        # As many steps as the whole run, up to a quarter of the rung
        assert run.warmup_steps == {124: 31, 250: 62, 500: 100, 1000: 100}[run.steps]
        assert run.learning_rate == pytest.approx(1e-3 * (192 / run.model.n_embd) ** 0.8, rel=0.01)
    shortest = min(rungs, key=lambda run: run.flops)
    for run in runs:
        if run.kind != "rung":
            assert run.tokens == shortest.tokens  # cheap, and over the same text
    share = sum(run.flops for run in runs if run.kind != "rung") / sum(run.flops for run in rungs)
    assert share < 0.2


def test_the_ladder_of_the_preset_costs_little(preset: Base) -> None:
    runs = configs.runs(preset, 1e18)
    top = max(runs, key=lambda run: run.flops)
    assert top.flops < 1e18 < configs.largest(preset, 1e19).flops
    target = preset.training.steps * preset.training.batch_size * preset.model.block_size
    ratio = target / matmul_weights(preset.model)
    assert top.tokens / top.weights == pytest.approx(ratio, rel=0.01)
    assert top.model.n_embd // top.model.n_head == preset.model.n_embd // preset.model.n_head
    assert sum(run.flops for run in runs) < 0.07 * target * 6 * matmul_weights(preset.model)
    assert len([run for run in runs if run.kind == "rung"]) == 12
    assert all(run.batch_size >= 32 and run.warmup_steps < run.steps for run in runs)
    # The preset's warm-up is 6% of its steps, and 6% of a rung are too few to reach its rate
    assert all(4 * run.warmup_steps >= run.steps - 3 for run in runs if run.kind == "rung")


def test_too_few_flops_and_too_few_channels_are_errors(nano: Base) -> None:
    with pytest.raises(UserError, match="--flops 1 is too little"):
        configs.runs(nano, 1)
    narrow = replace(nano, model=replace(nano.model, n_head=2, n_embd=2))
    with pytest.raises(UserError, match=r"n_embd must be at least 4 .* got 2"):
        configs.runs(narrow, 1e18)


def test_a_name_depends_on_all_that_decides_the_result_and_on_nothing_else(
    nano: Base, tmp_path: Path
) -> None:
    run = configs.largest(nano, 1e18)
    name = run.experiment(nano)
    assert name.startswith("ladder-192x2-1000-")
    assert replace(run, learning_rate=2e-3).experiment(nano) != name
    for key in ("shards", "loss.rare_token_power", "code"):
        assert run.experiment(replace(nano, fixed={**nano.fixed, key: "other"})) != name
    # Parameters of other stages and of `runtime` are no reason to run it again
    text = (ROOT / "params.yaml").read_text()
    for old, new, same in (
        ("top_k: 40", "top_k: 41", True),
        ("workers: 2", "workers: 3", True),
        ("beta2: 0.999", "beta2: 0.998", False),
    ):
        folder = tmp_path / new.split(":")[0]
        folder.mkdir()
        assert old in text
        (folder / "params.yaml").write_text(text.replace(old, new, 1))
        for part in ("antimatter", "stages"):
            (folder / part).symlink_to(ROOT / part)
        if (ROOT / "data/shards/index.json").exists():
            (folder / "data").symlink_to(ROOT / "data")
        assert (run.experiment(configs.read(folder, before_shards=True)) == name) is same
    # The run has its own steps
    longer = replace(nano, fixed={**nano.fixed, "checkpoints.steps": 9000})
    assert run.experiment(longer) == name


@pytest.mark.parametrize("system", ["Linux", "macOS"])
def test_one_run_per_core_runs_at_a_time(
    nano: Base, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """Linux knows which cores a process may use; macOS has no such call."""
    if system == "Linux":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3}, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 3)
    options = ladder.Options(
        target=ROOT / "presets/300m.yaml", flops=1e18, jobs=None, devices=1, mfu=0.4
    )
    assert ladder.parallel_runs(replace(nano, cpu=True), options) == 3
    assert ladder.parallel_runs(replace(nano, cpu=False), options) == 1
    assert ladder.parallel_runs(nano, replace(options, jobs=5)) == 5


def test_a_ladder_of_given_weights_is_refused(tmp_path: Path) -> None:
    values = Path("params.yaml").read_text()
    assert "checkpoints:\n  initial: ''" in values
    changed = values.replace("checkpoints:\n  initial: ''", "checkpoints:\n  initial: models/base")
    (tmp_path / "params.yaml").write_text(changed)
    with pytest.raises(UserError, match=r"checkpoints\.initial is 'models/base'"):
        configs.read(tmp_path, before_shards=True)
