import json
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import train_process
from helpers.forked import Forked, finish

from antimatter.data.batches import Batches
from antimatter.model.gpt import GPT
from antimatter.training import trainer
from antimatter.training.config import Recipe
from antimatter.training.step import Gradient, Objective, accumulate_gradients
from antimatter.training.trainer import TrainingDiverged

LEFT = (
    "final.safetensors",
    "config.json",
    "training.csv",
    "validation.csv",
    "backtracks.csv",
    "result.json",
)
OFF = torch.amp.GradScaler("cpu", enabled=False)


pytestmark = pytest.mark.usefixtures("torch_as_before")


@pytest.fixture
def tokens(tmp_path: Path, token_file: Callable[..., np.ndarray]) -> Path:
    made = token_file(3000)
    np.save(
        tmp_path / "tokens.npy", np.where(made < 32, made, 7)
    )  # one token is frequent, the others are rare
    return tmp_path / "tokens.npy"


def wait_for(path: Path, process: Forked) -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.exitcode is None, process.stderr.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")


def steps_of(path: Path) -> list[int]:
    return [int(row.split(",")[0]) for row in path.read_text().splitlines()[1:]]


def test_a_killed_run_ends_in_the_same_bytes_as_an_undisturbed_one(
    tmp_path: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_process.run(tokens, tmp_path / "whole")
    killed = tmp_path / "killed"
    for saved in (10, 40):
        process = Forked(tokens, killed, "--pause=0.03")
        wait_for(killed / "state" / f"step-{saved:08d}.pt", process)
        time.sleep(random.random() * 0.2)
        process.kill()
        finish(process, -signal.SIGKILL)
    capsys.readouterr()
    train_process.run(tokens, killed)
    going_on = re.search(r"going on from step (\d+) of 60", capsys.readouterr().err)
    assert going_on and int(going_on[1]) >= 40
    for name in LEFT:
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert steps_of(tmp_path / "whole" / "throughput.csv") == list(
        range(2, 61)
    )  # a process's first step is no measure
    went_on = steps_of(killed / "throughput.csv")
    assert went_on == sorted(set(went_on)) and set(range(2, 61)) - set(went_on) <= set(
        range(11, 60, 10)
    )  # the first after each save


def test_sigterm_saves_the_step_in_hand(tmp_path: Path, tokens: Path) -> None:
    paused = tmp_path / "paused"
    process = Forked(tokens, paused, "--pause=0.03")
    wait_for(paused / "state" / "step-00000010.pt", process)
    process.terminate()
    said = finish(process, 130)
    assert "paused at step" in said and "run again to go on" in said
    train_process.run(tokens, tmp_path / "whole")
    train_process.run(tokens, paused)
    for name in LEFT:
        assert (paused / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_training_learns_what_there_is_to_learn(tmp_path: Path, tokens: Path) -> None:
    result = train_process.run(tokens, tmp_path / "run")
    rows = (tmp_path / "run" / "validation.csv").read_text().splitlines()
    assert rows[0] == "step,loss" and [row.split(",")[0] for row in rows[1:]] == [
        "0",
        "20",
        "40",
        "60",
    ]
    assert float(rows[1].split(",")[1]) == pytest.approx(
        np.log(64), abs=0.2
    )  # untrained: every token alike
    assert result.validation_loss < 3.5
    assert result.tokens == 60 * 8 * 16


def test_micro_batches_add_up_to_the_whole_batch(
    tiny_gpt: GPT, token_file: Callable[..., np.ndarray]
) -> None:
    batch = Batches([token_file(1000)], batch_size=8, block_size=16, seed=1).at(0)
    gradients, losses = [], []
    for micro in (8, 2):
        tiny_gpt.zero_grad()
        losses.append(
            accumulate_gradients(Objective(tiny_gpt), batch, micro, "fp32", OFF).loss.item()
        )
        gradients.append(
            torch.cat([p.grad.flatten() for p in tiny_gpt.parameters() if p.grad is not None])
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_as_float32_does(
    tmp_path: Path, tokens: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer, "native_precision", lambda device, wanted: wanted
    )  # emulated will do at this size
    recipe = replace(
        train_process.RECIPE,
        training=replace(train_process.RECIPE.training, precision=precision, steps=30),
    )  # type: ignore[arg-type]
    full = replace(train_process.RECIPE, training=replace(train_process.RECIPE.training, steps=30))
    half = train_process.run(tokens, tmp_path / "half", recipe)
    assert half.validation_loss == pytest.approx(
        train_process.run(tokens, tmp_path / "full", full).validation_loss, rel=0.02
    )


FP16 = (
    "--set=training.precision=fp16",
    "--emulate",
    "--set=spikes.max_backtracks=3",
    "--set=training.save_every=5",
)
# Step 36 is NaN; from step 25 on again, 34 is too high; then 28 overflows, which lowers the loss
# scale and is no spike; 45 is NaN
SPOILT = ("--spoil=36,0,nan", "--spoil=34,1,high", "--spoil=28,2,overflow", "--spoil=45,2,nan")


def test_fp16_with_three_spikes_and_a_kill_ends_in_the_bytes_of_the_undisturbed_run(
    tmp_path: Path, tokens: Path
) -> None:
    finish(Forked(tokens, tmp_path / "whole", *FP16, *SPOILT), 0)
    rows = (tmp_path / "whole/backtracks.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["36", "34", "45"]
    assert (
        torch.load(tmp_path / "whole/state/step-00000060.pt")["scaler"]["scale"] == 2.0**15
    )  # halved once
    killed = tmp_path / "killed"
    process = Forked(tokens, killed, *FP16, *SPOILT, "--pause=0.05")
    wait_for(killed / "state/step-00000035.pt", process)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert "going on from step" in finish(Forked(tokens, killed, *FP16, *SPOILT), 0)
    for name in LEFT:
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def in_fp16(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(trainer, "native_precision", lambda device, wanted: wanted)
    return replace(recipe, training=replace(recipe.training, precision="fp16"))


def test_an_overflow_that_no_scale_mends_is_a_spike(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls = trainer.accumulate_gradients, [0]

    def overflowing(*arguments: object) -> Gradient:
        gradient = compute(*arguments)  # type: ignore[arg-type]
        calls[0] += 1
        if 30 < calls[0] <= 48:  # from 2^16 on, the 17th falls below 1
            next(arguments[0].parameters()).grad[0, 0] = torch.inf  # type: ignore[attr-defined]
        return gradient

    recipe = in_fp16(train_process.RECIPE, monkeypatch)
    monkeypatch.setattr(trainer, "accumulate_gradients", overflowing)
    result = train_process.run(tokens, tmp_path / "run", recipe)
    assert (tmp_path / "run/backtracks.csv").read_text().splitlines()[1].split(",")[0] == "48"
    assert result.backtracks == 1 and result.steps == 60 and result.validation_loss < 3.5


@pytest.mark.parametrize(("first", "then"), [("fp32", "fp16"), ("fp16", "fp32")])
def test_a_run_goes_on_where_a_device_computes_in_another_precision(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    """A run in bf16 that a T4 takes over computes in fp16 there, and the state has no loss scale."""
    short = replace(train_process.RECIPE, training=replace(train_process.RECIPE.training, steps=20))
    monkeypatch.setattr(trainer, "native_precision", lambda device, wanted: first)
    train_process.run(tokens, tmp_path / "run", short)
    monkeypatch.setattr(trainer, "native_precision", lambda device, wanted: then)
    assert train_process.run(tokens, tmp_path / "run").steps == 60


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
@pytest.mark.skipif(
    " " in sys.prefix, reason="torch.compile does not quote the paths that it gives to the compiler"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_compiled_it_is_the_same_training_to_rounding(tmp_path: Path, tokens: Path) -> None:
    eager = replace(
        train_process.RECIPE, training=replace(train_process.RECIPE.training, steps=12, log_every=1)
    )
    config = replace(train_process.CONFIG, dropout=0.0)
    train_process.run(tokens, tmp_path / "eager", eager, config=config)
    train_process.run(
        tokens,
        tmp_path / "compiled",
        replace(eager, training=replace(eager.training, compile=True)),
        config=config,
    )
    losses = [
        np.loadtxt(tmp_path / name / "training.csv", delimiter=",", skiprows=1)[:, 1]
        for name in ("eager", "compiled")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def with_spikes(monkeypatch: pytest.MonkeyPatch, at: list[int]) -> None:
    """Makes the loss of the n-th step that is computed a NaN, for each n in `at`."""
    compute, calls = trainer.accumulate_gradients, [0]

    def spoilt(*arguments: object) -> Gradient:
        calls[0] += 1
        gradient = compute(*arguments)  # type: ignore[arg-type]
        return replace(gradient, loss=gradient.loss * float("nan")) if calls[0] in at else gradient

    monkeypatch.setattr(trainer, "accumulate_gradients", spoilt)


def test_a_spike_goes_back_to_the_last_stable_state_with_half_the_rate(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_spikes(monkeypatch, [36, 50])  # in step 36; then, back at 20, the 50th computed is step 34
    result = train_process.run(tokens, tmp_path / "run")
    assert result.backtracks == 2 and result.steps == 60
    assert (
        tmp_path / "run" / "backtracks.csv"
    ).read_text() == "step,loss,back_to,rate_scale\n36,nan,20,0.5\n34,nan,20,0.25\n"
    rows = [
        row.split(",") for row in (tmp_path / "run" / "training.csv").read_text().splitlines()[1:]
    ]
    assert [int(row[0]) for row in rows] == list(range(5, 61, 5))  # no step stands twice
    assert steps_of(tmp_path / "run/throughput.csv") == [
        step for step in range(2, 61) if step != 21
    ]  # both times it went on from step 20
    undisturbed = tmp_path / "undisturbed"
    monkeypatch.undo()
    train_process.run(tokens, undisturbed)
    rates = [
        float(row.split(",")[2])
        for row in (undisturbed / "training.csv").read_text().splitlines()[1:]
    ]
    assert [float(row[2]) for row in rows] == pytest.approx(
        [rate * (1 if 5 * i + 5 <= 20 else 0.25) for i, rate in enumerate(rates)], rel=1e-5
    )


def test_a_spike_soon_after_a_backtrack_goes_back_to_the_same_state(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stable when the run went back to it; that no 10 healthy steps follow it yet does not change that."""
    with_spikes(monkeypatch, [46, 50])  # in step 46; then, back at 30, the 50th computed is step 34
    result = train_process.run(tokens, tmp_path / "run")
    assert (tmp_path / "run/backtracks.csv").read_text().splitlines()[1:] == [
        "46,nan,30,0.5",
        "34,nan,30,0.25",
    ]
    assert result.backtracks == 2 and result.steps == 60


def spoil_weights(
    monkeypatch: pytest.MonkeyPatch, at: int, spoil: Callable[[torch.nn.Parameter], None]
) -> None:
    """Does something to the first matrix after the n-th update."""
    update, calls = trainer.update, [0]

    def spoilt(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        update(optimizer, scaler)
        calls[0] += 1
        if calls[0] == at:
            spoil(optimizer.param_groups[0]["params"][0])

    monkeypatch.setattr(trainer, "update", spoilt)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weights: weights.data.add_(
            torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)) * 30
        ),  # the loss leaps
        lambda weights: weights.data[3, 3:].fill_(torch.nan),  # the loss is no number
    ],
    ids=["noise", "nan"],
)
def test_weights_that_are_lost_cost_one_backtrack_and_the_run_ends_healthy(
    tmp_path: Path,
    tokens: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[torch.nn.Parameter], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_weights(monkeypatch, 35, spoil)
    result = train_process.run(tokens, tmp_path / "run")
    assert result.backtracks == 1 and result.steps == 60
    (row,) = (tmp_path / "run/backtracks.csv").read_text().splitlines()[1:]
    step, loss, back_to, rate_scale = map(float, row.split(","))
    assert (step, back_to, rate_scale) == (36, 20, 0.5)
    assert not loss < 3 * 1.5  # what it was before; NaN is not below either
    assert "loss spike" in capsys.readouterr().err
    assert result.validation_loss < 2  # it began at 4.2


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls = trainer.clip, [0]

    def spoilt(model: torch.nn.Module, *arguments: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 60:  # in the last step no later loss would tell
            next(model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]
        return compute(model, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "clip", spoilt)
    result = train_process.run(tokens, tmp_path / "run")
    assert result.backtracks == 1 and result.validation_loss < 3.5


def test_a_stable_state_that_is_damaged_is_passed_over_when_going_back(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(_: torch.nn.Parameter) -> None:
        (tmp_path / "run/state/step-00000020.pt").write_bytes(b"torn")

    with_spikes(monkeypatch, [36])
    spoil_weights(monkeypatch, 35, damage)
    recipe = replace(
        train_process.RECIPE, runtime=replace(train_process.RECIPE.runtime, keep_states=3)
    )
    assert train_process.run(tokens, tmp_path / "run", recipe).backtracks == 1
    assert (tmp_path / "run/backtracks.csv").read_text().splitlines()[1] == "36,nan,10,0.5"


def test_a_full_disk_ends_the_run_in_one_clear_word_and_loses_nothing(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(state: dict[str, dict[str, int]], path: Path) -> None:
        if state["state"]["step"] == 30:
            path.write_bytes(b"half a state")
            raise RuntimeError(
                "[enforce fail at inline_container.cc:1034] . PytorchStreamWriter failed writing file data/13: file write failed"
            )
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OSError,
        match=r"could not save .*step-00000030.pt: .*free some space and run again, it goes on from step 20",
    ):
        train_process.run(tokens, tmp_path / "run")
    monkeypatch.undo()
    train_process.run(tokens, tmp_path / "run")
    train_process.run(tokens, tmp_path / "whole")
    for name in LEFT:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (
            name
        )


def test_the_balance_is_part_of_what_a_resumed_run_goes_on_with(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(
        train_process.RECIPE, loss=replace(train_process.RECIPE.loss, rare_token_power=0.5)
    )
    train_process.run(tokens, tmp_path / "whole", recipe)
    spoil_weights(monkeypatch, 13, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(InterruptedError, match="paused at step 14 of 60"):
        train_process.run(tokens, tmp_path / "paused", recipe)
    monkeypatch.undo()
    train_process.run(tokens, tmp_path / "paused", recipe)
    for name in LEFT:
        assert (tmp_path / "paused" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes(), name
    train_process.run(tokens, tmp_path / "off")
    assert (tmp_path / "off/final.safetensors").read_bytes() != (
        tmp_path / "whole/final.safetensors"
    ).read_bytes()


def test_the_latest_figures_are_there_for_those_who_watch(tmp_path: Path, tokens: Path) -> None:
    train_process.run(tokens, tmp_path / "run")
    live = json.loads((tmp_path / "run/live.json").read_text())
    assert (live["state"], live["step"], live["steps"]) == ("finished", 60, 60)
    assert (
        live["tokens_per_second"] > 0 and live["memory_gb"] > 0 and live["mfu"] is None
    )  # nobody knows the peak of a CPU
    assert live["gradient_norm"] > 0 and live["seconds_left"] == 0


def test_the_metrics_are_there_from_the_first_validation_on(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[trainer.Result] = []
    monkeypatch.setattr(train_process, "Places", partial(trainer.Places, report=reports.append))
    result = train_process.run(tokens, tmp_path / "run")
    assert [report.steps for report in reports] == [0, 20, 40, 60]
    assert reports[0].train_loss is None and reports[0].validation_loss == pytest.approx(
        np.log(64), abs=0.2
    )
    assert reports[1].tokens == 20 * 8 * 16 and reports[1].train_loss is not None
    assert reports[-1] == result


def test_a_backtrack_to_the_untrained_weights_survives_a_kill(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with_spikes(monkeypatch, [7])
    monkeypatch.setattr(
        trainer.Ahead, "close", die
    )  # right after the state of the backtrack is saved
    with pytest.raises(KeyboardInterrupt):
        train_process.run(tokens, tmp_path / "run")
    monkeypatch.undo()
    result = train_process.run(tokens, tmp_path / "run")
    assert result.backtracks == 1
    assert (tmp_path / "run/backtracks.csv").read_text().splitlines()[1:] == ["7,nan,0,0.5"]


def test_spike_after_spike_ends_in_a_clear_word(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_spikes(monkeypatch, [2, 3, 4])
    with pytest.raises(
        TrainingDiverged,
        match=r"loss nan at step 1 after 2 backtracks.*lower optimizer.learning_rate",
    ):
        train_process.run(tokens, tmp_path / "run")


def test_a_recipe_that_does_not_add_up_is_refused() -> None:
    recipe: Recipe = train_process.RECIPE
    with pytest.raises(
        ValueError, match=r"warmup_steps must be below checkpoints.steps \(60\), got 60"
    ):
        replace(recipe, schedule=replace(recipe.schedule, warmup_steps=60))
    with pytest.raises(
        ValueError, match=r"micro_batch must divide the 8 sequences of a device in a step, got 3"
    ):
        replace(recipe, runtime=replace(recipe.runtime, micro_batch=3)).micro_batch(1)
    with pytest.raises(
        ValueError,
        match=r"batch_size must be a multiple of the 3 devices, got 8: set runtime.devices",
    ):
        recipe.micro_batch(3)
