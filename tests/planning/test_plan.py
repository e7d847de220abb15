from dataclasses import replace
from pathlib import Path

import pytest
import torch

from antimatter.cli import main as cli
from antimatter.model import gpt
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT
from antimatter.planning import gpus, plan

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "presets" / "300m.yaml"


@pytest.fixture
def preset() -> plan.Plan:
    return plan.read(PRESET, devices=1, mfu=0.4)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tiny_config: GPTConfig, tied: bool) -> None:
    config = replace(tiny_config, tied_embeddings=tied)
    assert sum(plan.parameters(config).values()) == GPT(config).n_parameters()


def test_the_preset_has_the_sizes_that_the_readme_names(preset: plan.Plan) -> None:
    counts = plan.parameters(preset.model)
    assert counts["blocks"] / 1e6 == pytest.approx(302.3, abs=0.05)
    assert sum(counts.values()) / 1e6 == pytest.approx(355.9, abs=0.05)
    untied = plan.parameters(replace(preset.model, tied_embeddings=False))
    assert sum(untied.values()) / 1e6 == pytest.approx(407.3, abs=0.05)
    assert preset.tokens == 32400 * 512 * 2048


def kept_by_autograd(config: GPTConfig, micro_batch: int, half: bool) -> int:
    """Bytes of the distinct storages that GPT.hidden saves for backward, without parameters."""
    model = GPT(config).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    # Alive until the end, so that no address is used twice
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    ids = torch.zeros(micro_batch, config.block_size, dtype=torch.long)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.hidden(ids)
    storages = [tensor.untyped_storage() for tensor in kept]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for address, size in sizes.items() if address not in own)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_embd", "block_size", "micro_batch"),
    [(1, 2, 64, 128, 4), (3, 4, 96, 64, 8), (2, 8, 128, 256, 2)],
)
def test_activations_are_what_autograd_keeps(
    tiny_config: GPTConfig,
    n_layer: int,
    n_head: int,
    n_embd: int,
    block_size: int,
    micro_batch: int,
    half: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Attention as a GPU computes it
    monkeypatch.setattr(gpt, "SHORT", 0)
    config = replace(
        tiny_config, n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=block_size
    )
    # The blocks' matrices in bf16, which memory() counts separately
    copies = 2 * 12 * n_layer * n_embd**2 if half else 0
    computed = plan.activation_bytes(config, micro_batch * block_size, width=2 if half else 4)
    assert computed == pytest.approx(kept_by_autograd(config, micro_batch, half) - copies, rel=0.02)


def test_memory_of_weights_and_optimizer_is_16_bytes_a_parameter(preset: plan.Plan) -> None:
    parts = plan.memory(preset, 1)
    n = sum(plan.parameters(preset.model).values())
    assert parts["weights"] + parts["gradients"] + parts["moments"] == 16 * n
    # All but biases, norms and positions
    assert parts["bf16 copies"] == 2 * (n - 24 * 13 * 1024 - 2048 * 1024 - 2048)


def test_a_card_that_is_too_small_gets_the_largest_power_of_two_that_fits(
    preset: plan.Plan,
) -> None:
    fits = {card.name: plan.fitting(preset, card) for card in gpus.CARDS}
    assert fits["H100"] == 32
    assert fits["L4"] == 4
    small = replace(gpus.CARDS[0], memory=6)
    assert plan.fitting(preset, small) is None
    assert "-  too small: micro-batch 1 needs " in plan.report(preset, [small])[13]


def test_hours_and_money_worked_out_by_hand(preset: plan.Plan) -> None:
    [h100] = gpus.choose(["h100"], price=2.0)
    # 3.3974e10 tokens x 2.7246e9 FLOPs / (989e12 x 0.4) = 233,990 s
    assert plan.hours(preset, h100) == pytest.approx(65.0, abs=0.01)
    four = plan.read(PRESET, devices=4, mfu=0.4)
    assert 4 * plan.hours(four, h100) == pytest.approx(plan.hours(preset, h100))
    assert plan.report(four, [h100])[13].split() == "H100 80 GB 32 989 40% 16.2 2.00 130.00".split()


@pytest.mark.parametrize(
    ("precision", "end"),
    [("bf16", " 1,978.0 0.00 0.00 in fp16"), ("fp32", "to fp16"), ("fp16", " 1,978.0 0.00 0.00")],
)
def test_a_t4_computes_in_fp16_by_itself(preset: plan.Plan, precision: str, end: str) -> None:
    changed = replace(preset, training=replace(preset.training, precision=precision))
    changed = replace(changed, mfu=None)
    line = plan.report(changed, gpus.choose(["T4"], None))[13]
    assert " ".join(line.split()).endswith(end)


def test_muon_takes_its_flops_in_each_step_whatever_the_batch(preset: plan.Plan) -> None:
    muon = replace(preset, optimizer=replace(preset.optimizer, kind="muon"))
    # 300 x 24 layers x 1024³ in each of 32,400 steps
    own = muon.flops(muon.tokens) - preset.flops(preset.tokens)
    assert own == pytest.approx(300 * 24 * 1024**3 * 32_400, rel=1e-6)
    assert "            of them 2.5e+17 in Muon's updates (0.3%)" in plan.report(muon, gpus.CARDS)
    assert not any("Muon" in line for line in plan.report(preset, gpus.CARDS))
    # `tuned` has 64 rows in a step instead of 512
    assert preset.training.batch_size == 8 * preset.tuning.batch_size
    rate = muon.muon_flops(1e9, muon.tuning.batch_size)
    assert rate == pytest.approx(8 * muon.muon_flops(1e9))
    [h100] = gpus.choose(["H100"], None)
    longer = plan.seconds(muon, h100, 1e9, 64) - plan.seconds(preset, h100, 1e9, 64)
    assert longer == pytest.approx(rate / (989e12 * 0.4))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        # 38 GB of text / 4.47 bytes a token x 2 bytes
        ("presets/300m.yaml", "; 17.0 GB of shards, read 4.0 times"),
        ("presets/10m.yaml", "; 268.5 MB of shards, read 1.0 times"),
        # The size of its text is unknown
        ("presets/own.yaml", " of shards to read no token twice"),
    ],
)
def test_the_disk_holds_the_text_once(
    file: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(ROOT / file)]) == 0
    [disk] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("disk ")]
    assert disk.endswith(words)


@pytest.mark.parametrize("preset_file", ["params.yaml", "presets/300m.yaml"])
@pytest.mark.parametrize("options", [(), ("--devices", "4", "--price", "1")])
def test_the_report_fits_a_terminal(
    preset_file: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(ROOT / preset_file), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("Prices") for line in lines) == (not options)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("--devices", "3", "must divide checkpoints.batch_size (512), got 3"),
        ("--price", "-1", "must be 0 or more US$ per GPU-hour, got -1"),
        ("--gpu", "H101", "'H101' is not known: take one of T4, RTX 4090, L4, L40S, A100, H100, "),
        ("--gpu", "T4,", "'' is not known: take one of T4, "),
    ],
)
def test_a_bad_option_is_one_line(
    capsys: pytest.CaptureFixture[str], option: str, value: str, error: str
) -> None:
    assert cli.main(["plan", str(PRESET), option, value]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith(f"error: {option} {error}")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("micro_batch: 32", "micro_batch: 7", "runtime.micro_batch must divide the 512 sequences"),
        ("n_head: 16", "n_head: 15", "model.n_embd must be a multiple of n_head (15), got 1024"),
        ("vocab_size: 50257", "vocab_size: 0", "tokenizer.vocab_size must be at least 262"),
        ("runtime:", "runtimes:", "section `runtime` is missing (did you mean `runtimes`?)"),
    ],
)
def test_a_bad_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, error: str
) -> None:
    file, text = tmp_path / "params.yaml", PRESET.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert cli.main(["plan", str(file)]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and error in output.err
    assert output.err.count("\n") == 1


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(tmp_path / "absent.yaml")]) == 1
    assert "absent.yaml is missing" in capsys.readouterr().err


def test_a_gpu_setting_that_this_machine_lacks_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PRESET.read_text().replace("device: auto", "device: cuda"))
    assert plan.read(file, devices=8, mfu=0.4).micro_batch == 32
