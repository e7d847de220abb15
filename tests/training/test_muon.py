"""Muon for the hidden matrices, AdamW for the rest: against torch's own optimizers, one of each."""

import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import train_process
from helpers.forked import Forked, finish
from helpers.train_process import CONFIG, Spoilt, assert_same_bytes, trainer_in
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from antimatter import params
from antimatter.data.batches import Batch
from antimatter.errors import UserError
from antimatter.model.config import GPTConfig
from antimatter.model.flops import muon_flops
from antimatter.model.gpt import GPT
from antimatter.planning import plan
from antimatter.training import optimizer as optimizers
from antimatter.training import tuning
from antimatter.training.config import TuneConfig
from antimatter.training.step import Gradient
from antimatter.training.trainer import StepStats

pytestmark = pytest.mark.usefixtures("torch_as_before")

OPTIMIZER = replace(CONFIG.optimizer, kind="muon", embedding_rate=8.0, weight_decay=0.3)
MUON = replace(CONFIG, optimizer=OPTIMIZER)
KIND = "--set=optimizer.kind=muon"
WaitFor = Callable[[Path, Forked], None]


def set_gradients(model: nn.Module, seed: int) -> None:
    """The same for two models of one shape."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def by_hand(model: GPT) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer, Callable[[], None]]:
    """torch's Muon on copies of the hidden matrices, one for each of queries, keys and values;
    torch's AdamW on the other parameters; and a function that takes gradients and weights over.
    """
    weights = dict(model.named_parameters())
    copies: list[tuple[nn.Parameter, list[nn.Parameter]]] = []
    for layer in range(model.config.n_layer):
        for name, parts in (("attn.qkv", 3), ("attn.proj", 1), ("ffn.up", 1), ("ffn.down", 1)):
            weight = weights[f"blocks.{layer}.{name}.weight"]
            pieces = [nn.Parameter(piece.clone()) for piece in weight.detach().chunk(parts)]
            copies.append((weight, pieces))
    hidden = [piece for _, pieces in copies for piece in pieces]
    muon = torch.optim.Muon(hidden, momentum=0.95, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    ours = {id(weight) for weight, _ in copies}
    embedding = model.token_embedding.weight
    rest = [p for p in model.parameters() if id(p) not in ours and p is not embedding]
    matrices, vectors = [p for p in rest if p.ndim == 2], [p for p in rest if p.ndim == 1]
    groups = [
        {"params": [embedding], "weight_decay": 0.3},
        {"params": matrices, "weight_decay": 0.3},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)

    def step() -> None:
        for weight, pieces in copies:
            assert weight.grad is not None
            for piece, gradient in zip(pieces, weight.grad.chunk(len(pieces)), strict=True):
                piece.grad = gradient
        muon.step()
        adamw.step()
        for weight, pieces in copies:
            weight.data = torch.cat([piece.detach() for piece in pieces])

    return muon, adamw, step


def test_steps_are_those_of_muon_and_adamw_of_torch(tiny_config: GPTConfig) -> None:
    model, expected = GPT(tiny_config), GPT(tiny_config)
    optimizer = optimizers.build(model, OPTIMIZER)
    muon, adamw, step_by_hand = by_hand(expected)
    for number, rate in enumerate((0.01, 0.004, 0.02)):
        optimizers.set_learning_rate(optimizer, rate)
        muon.param_groups[0]["lr"] = rate
        for group, times in zip(adamw.param_groups, (8, 1, 1), strict=True):
            group["lr"] = rate * times
        set_gradients(model, number)
        set_gradients(expected, number)
        optimizer.step()
        step_by_hand()
        for (name, parameter), other in zip(
            model.named_parameters(), expected.parameters(), strict=True
        ):
            torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-6, msg=name)


def test_an_update_is_orthogonal_for_each_of_queries_keys_and_values(
    tiny_config: GPTConfig,
) -> None:
    """All directions of the gradient count nearly the same. Its size is that of AdamW's updates."""
    model = GPT(tiny_config)
    optimizer = optimizers.build(model, replace(OPTIMIZER, weight_decay=0.0))
    optimizers.set_learning_rate(optimizer, 0.01)
    weights = dict(model.named_parameters())
    qkv, down = weights["blocks.0.attn.qkv.weight"], weights["blocks.0.ffn.down.weight"]
    before = [weight.detach().clone() for weight in (qkv, down)]
    set_gradients(model, 1)
    optimizer.step()
    updates = [*(before[0] - qkv.detach()).chunk(3), before[1] - down.detach()]
    for update in updates:
        size = update.square().mean().sqrt().item() / 0.01
        assert size == pytest.approx(0.2, rel=0.25)
        singular = torch.linalg.svdvals(update) / (0.01 * 0.2 * max(update.shape) ** 0.5)
        # The iterations end near 1, all but the smallest ones
        assert singular.quantile(0.1) > 0.6 and singular.max() < 1.4


def test_the_planned_flops_are_those_of_torch(tiny_config: GPTConfig) -> None:
    model = GPT(tiny_config)
    optimizer = optimizers.build(model, OPTIMIZER)
    set_gradients(model, 1)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert counter.get_total_flops() == muon_flops(tiny_config)
    preset = plan.read(Path("presets/300m.yaml"), devices=4, mfu=0.4)
    planned = replace(preset, optimizer=OPTIMIZER)
    more = planned.flops(preset.tokens) / preset.flops(preset.tokens) - 1
    # 4 x 300·24·1024³ FLOPs in a step of 2.86e15
    assert more == pytest.approx(0.0108, abs=1e-4)


def test_a_state_has_one_moment_of_a_hidden_matrix_and_two_of_the_rest(
    tiny_config: GPTConfig,
) -> None:
    model = GPT(tiny_config)
    optimizer = optimizers.build(model, OPTIMIZER)
    set_gradients(model, 1)
    optimizer.step()
    kept = 0
    for part in optimizer.state_dict().values():
        tensors = [t for state in part["state"].values() for t in state.values()]
        kept += sum(t.nbytes for t in tensors if t.ndim > 0)
    preset = plan.read(Path("presets/300m.yaml"), devices=1, mfu=0.4)
    planned = replace(preset, model=tiny_config, optimizer=OPTIMIZER)
    assert plan.moment_bytes(planned) == kept < 8 * model.n_parameters()


def test_a_loaded_state_changes_averages_and_no_settings(tiny_config: GPTConfig) -> None:
    model = GPT(tiny_config)
    saved = optimizers.build(model, replace(OPTIMIZER, weight_decay=0.0, momentum=0.5))
    set_gradients(model, 1)
    saved.step()
    loaded = optimizers.build(model, OPTIMIZER)
    loaded.load_state_dict(saved.state_dict())
    (group,) = loaded.state_dict()["muon"]["param_groups"]
    assert (group["weight_decay"], group["momentum"]) == (0.3, 0.95)
    before, after = (each.state_dict()["muon"]["state"][5] for each in (saved, loaded))
    assert torch.equal(before["momentum_buffer"], after["momentum_buffer"])
    # The groups that the learning rate is set in are still those that count
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    optimizers.set_learning_rate(loaded, 0.0)
    loaded.step()
    assert all(map(torch.equal, weights, model.parameters()))


def test_without_muon_in_torch_the_error_names_the_key(
    tiny_gpt: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("torch.optim.Muon")
    with pytest.raises(UserError, match=r"optimizer\.kind is muon, .* install torch 2\.9"):
        optimizers.build(tiny_gpt, OPTIMIZER)
    optimizers.build(tiny_gpt, replace(OPTIMIZER, kind="adamw"))


def test_an_overflow_of_any_gradient_skips_the_update_of_all(tmp_path: Path, tokens: Path) -> None:
    """Also of one that the other optimizer does not know."""

    class Overflowing(Spoilt):
        emulates = True
        unchanged = 0

        def compute_gradient(self, batch: Batch) -> Gradient:
            gradient = super().compute_gradient(batch)
            if self.state.step in (3, 4):
                names = {3: "token_embedding.weight", 4: "blocks.1.ffn.down.weight"}
                spoilt = self.model.get_parameter(names[self.state.step]).grad
                assert spoilt is not None
                spoilt.view(-1)[0] = torch.inf
            return gradient

        def apply_gradient(self, stats: StepStats) -> None:
            before = [parameter.detach().clone() for parameter in self.model.parameters()]
            step = self.state.step
            super().apply_gradient(stats)
            equal = [*map(torch.equal, before, self.model.parameters())]
            assert all(equal) if step in (3, 4) else not any(equal)
            self.unchanged += all(equal)

    config = replace(MUON, training=replace(CONFIG.training, steps=8, precision="fp16"))
    trainer = trainer_in(tmp_path / "run", tokens, config, kind=Overflowing)
    trainer.run()
    assert isinstance(trainer, Overflowing) and trainer.unchanged == 2
    # Halved twice
    assert trainer.scaler.get_scale() == 2.0**14


def test_a_killed_run_ends_in_the_same_bytes_as_an_undisturbed_one(
    tmp_path: Path, tokens: Path, wait_for: WaitFor, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, kind="muon"))
    process = Forked(tokens, killed, KIND, "--pause=0.03")
    wait_for(killed / "state/step-00000020.pt", process)
    process.kill()
    finish(process, -signal.SIGKILL)
    train_process.run(tokens, whole, config)
    train_process.run(tokens, killed, config)
    assert "resuming from step" in capsys.readouterr().err
    assert_same_bytes(killed, whole)


FP16 = (
    "--set=training.precision=fp16",
    "--emulate",
    "--set=spikes.max_backtracks=2",
    "--set=training.save_every=5",
    KIND,
)
# Step 36 is NaN; from step 25 on again, 28 overflows, which is no spike; 34 is NaN
SPOILT = ("--spoil=36,0,nan", "--spoil=28,1,overflow", "--spoil=34,1,nan")


@pytest.mark.slow
def test_so_it_does_in_fp16_with_spikes(tmp_path: Path, tokens: Path, wait_for: WaitFor) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(Forked(tokens, whole, *FP16, *SPOILT), 0)
    backtracks = (whole / "backtracks.csv").read_text().splitlines()[1:]
    assert backtracks == ["36,nan,25,0.5", "34,nan,25,0.25"]
    process = Forked(tokens, killed, *FP16, *SPOILT, "--pause=0.05")
    wait_for(killed / "state/step-00000030.pt", process)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert "resuming from step" in finish(Forked(tokens, killed, *FP16, *SPOILT), 0)
    assert_same_bytes(killed, whole)


def test_two_processes_have_the_losses_of_one(tmp_path: Path, tokens: Path) -> None:
    options = ("--set=model.dropout=0", "--set=training.log_every=1", KIND)
    finish(Forked(tokens, tmp_path / "two", "--devices=2", *options), 0)
    config = replace(
        CONFIG,
        training=replace(CONFIG.training, log_every=1),
        optimizer=replace(CONFIG.optimizer, kind="muon"),
    )
    shape = replace(train_process.SHAPE, dropout=0.0)
    train_process.run(tokens, tmp_path / "one", config, shape=shape)
    one, two = (
        np.loadtxt(tmp_path / name / "training.csv", delimiter=",", skiprows=1)[:, 1]
        for name in ("one", "two")
    )
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_a_tuning_keeps_the_optimizer_of_the_pretraining() -> None:
    tune = params.read(TuneConfig, "tuned")
    recorded = {"params": {"optimizer": {**asdict(OPTIMIZER), "momentum": 0.9}}}
    config, inherited = tuning.trainer_config(tune, recorded, rows=9, runtime=CONFIG.runtime)
    assert (config.optimizer.kind, config.optimizer.momentum) == ("muon", 0.9)
    assert (inherited["optimizer"], inherited["momentum"]) == ("muon", 0.9)
    # Weights from before there was a choice
    older = {"params": {"optimizer": asdict(OPTIMIZER)}}
    for key in ("kind", "momentum"):
        del older["params"]["optimizer"][key]
    config, inherited = tuning.trainer_config(tune, older, rows=9, runtime=CONFIG.runtime)
    assert config.optimizer.kind == inherited["optimizer"] == "adamw"
