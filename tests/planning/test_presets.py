"""The presets keep the budgets of docs/presets.md, by the arithmetic of `antimatter plan`."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from antimatter.cli import main as cli
from antimatter.ladder import forecast
from antimatter.pipeline import check
from antimatter.planning import budget, gpus, plan, presets, reads

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "presets").glob("*.yaml"))
BY_SIZE = ["nano", "own", "10m", "kaggle", "125m", "300m"]


def preset(name: str) -> presets.Preset:
    [one] = presets.read([ROOT / "presets" / f"{name}.yaml"], mfu=None)
    return one


def changed(name: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of a preset with other values."""
    text = (ROOT / "presets" / f"{name}.yaml").read_text()
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["10m", "kaggle", "125m"])
def test_every_value_of_a_preset_is_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert check.problems(ROOT / f"presets/{name}.yaml") == []


def test_the_presets_are_those_of_this_page() -> None:
    assert sorted(BY_SIZE) == [path.stem for path in FILES]


@pytest.mark.parametrize(("name", "passes"), [("10m", 1), ("kaggle", 1), ("125m", 1), ("300m", 4)])
def test_the_text_of_the_hub_is_read_once_and_that_of_300m_four_times(
    name: str, passes: int
) -> None:
    one = preset(name)
    assert one.reads.kept_bytes is not None
    tokens = one.reads.kept_bytes / one.reads.bytes_per_token
    assert 0.97 < passes * tokens / one.plan.tokens < 1.05


def session(path: Path) -> tuple[float, float]:
    """Hours and bytes of a session on Kaggle."""
    planned = replace(plan.read(path, devices=1, mfu=None), devices=budget.KAGGLE.devices)
    [card] = gpus.choose([budget.KAGGLE.gpu], None)
    parts = budget.parts(planned, reads.read(path), budget.KAGGLE, card)
    return sum(part.hours for part in parts), budget.peak(parts)[0]


def test_kaggle_fits_one_session_and_no_longer_with_twice_the_steps_or_the_text(
    tmp_path: Path,
) -> None:
    hours, disk = session(ROOT / "presets/kaggle.yaml")
    # With an hour and a half for what was not foreseen
    assert hours < budget.KAGGLE.hours - 1.5 and disk < budget.KAGGLE.disk - 5e9
    hours, _ = session(changed("kaggle", tmp_path, ("  steps: 5000 ", "  steps: 10000 ")))
    assert hours > budget.KAGGLE.hours
    _, disk = session(changed("kaggle", tmp_path, ("total_mb: 6600 ", "total_mb: 13200 ")))
    assert disk > budget.KAGGLE.disk
    hours, _ = session(changed("kaggle", tmp_path, ("  epochs: 2\n", "  epochs: 8\n")))
    assert hours > budget.KAGGLE.hours


def test_the_hours_and_the_disk_of_kaggle_worked_out_by_hand() -> None:
    one = preset("kaggle")
    [card] = gpus.choose(["T4"], None)
    parts = budget.parts(replace(one.plan, devices=2), one.reads, budget.KAGGLE, card)
    by_name = {part.name: part for part in parts}
    # 6,600 MB / (3.3 MB/s x 4 cores x 0.4) = 1,250 s; / 10 MB/s = 660 s
    assert by_name["cleaned"].hours * 3600 == pytest.approx(1250)
    assert by_name["raw"].hours * 3600 == pytest.approx(660)
    # (5,000 x 262,144 + 20 x 524,288 / 3) tokens x 4.907e8 FLOPs / (2 x 65e12 x 0.2), and 20 states
    # of 841 MB at 200 MB/s
    seconds = (5000 * 262144 + 20 * 524288 / 3) * 4.9073e8 / 26e12 + 20 * 841e6 / 200e6
    assert by_name["checkpoints"].hours * 3600 == pytest.approx(seconds, rel=1e-3)
    # Twice 80,000 conversations of 4,000 bytes, and 24 of each topic of the persona
    tokens = 2 * (80_000 * 4_000 + 24 * reads.PERSONA) / 4.18
    seconds = tokens * 4.9073e8 / 26e12 + tokens / (64 * 1024) / 100 * 841e6 / 200e6
    assert by_name["tuned"].hours * 3600 == pytest.approx(seconds, rel=1e-3)
    # raw, and three times raw while `cleaned` runs, besides what it leaves
    raw = 6.6e9 * 0.45
    assert budget.peak(parts) == (pytest.approx(raw + raw * 38 / 45 + 3 * raw), "cleaned")


@pytest.mark.parametrize(
    ("name", "flops", "tokens"),
    [
        # Tokens of the text x FLOPs a token x validation_fraction
        ("10m", 71.8e6, 620e6 * 38 / 45 / 3.90 * 0.005),
        ("300m", 2.7246e9, 38e9 / 4.47 * 0.001),
    ],
)
def test_evaluation_reads_the_validation_split_of_the_text_however_often_it_is_trained_on(
    name: str, flops: float, tokens: float
) -> None:
    one = preset(name)
    [card] = gpus.choose(["T4"], None)
    parts = budget.parts(replace(one.plan, devices=2), one.reads, budget.KAGGLE, card)
    [evaluation] = [part for part in parts if part.name == "evaluation"]
    # Three readings, each forward alone
    seconds = tokens * flops / (65e12 * 0.04)
    assert evaluation.hours * 3600 == pytest.approx(seconds, rel=1e-2)


def seconds(one: presets.Preset, name: str) -> float:
    """Of training and tuning on a card."""
    [card] = gpus.choose([name], None)
    tuning = one.plan.tuning.epochs * one.reads.conversation_tokens
    return plan.seconds(one.plan, card, one.plan.tokens + tuning)


def test_a_night_and_an_hour_are_not_exceeded() -> None:
    small, card = preset("10m"), preset("125m")
    tokens = small.plan.tokens + small.plan.tuning.epochs * small.reads.conversation_tokens
    assert tokens * 71.8e6 / presets.CPU < 11 * 3600
    assert seconds(small, "T4") < 3600
    assert seconds(card, "RTX 4090") < 9 * 3600
    assert seconds(card, "L4") < 16 * 3600
    cards = gpus.choose(["RTX 4090", "L4"], None)
    assert [plan.fitting(card.plan, each) for each in cards] == [card.plan.micro_batch] * 2


@pytest.mark.parametrize(
    ("name", "gpu"), [("10m", "T4"), ("125m", "RTX 4090"), ("125m", "L4"), ("300m", "H100")]
)
def test_the_page_of_the_presets_has_the_hours_and_the_memory_of_the_plan(
    name: str, gpu: str
) -> None:
    one = preset(name)
    lines = presets.table([one], [(gpus.choose([gpu], None)[0], 1)], {})
    [row] = [re.split(r" {2,}", line.strip()) for line in lines if f"  {gpu}  " in line]
    memory, training, tuning = row[-4:-1]
    page = (ROOT / "docs/presets.md").read_text()
    assert f"| {gpu} | {training} | {tuning} | {memory} | " in page


def on_cpu(one: presets.Preset) -> list[str]:
    """The training, the tuning and the memory of the table."""
    lines = presets.table([one], [(gpus.CARDS[0], 1)], {})
    [row] = [re.split(r" {2,}", line.strip()) for line in lines if "  CPU  " in line]
    return [row[-3], row[-2], row[-4]]


def test_a_cpu_with_avx2_computes_in_fp32_and_the_page_has_its_figures() -> None:
    one = preset("10m")
    training = replace(one.plan.training, precision="fp32")
    exact = sum(plan.memory(replace(one.plan, training=training), one.plan.micro_batch).values())
    cells = on_cpu(one)
    assert one.plan.training.precision == "bf16" and cells[2] == f"{exact / 1e9:.1f} GB"
    page = (ROOT / "docs/presets.md").read_text()
    assert f"| CPU, four cores with AVX2 | {' | '.join(cells)} | " in page


def test_muon_takes_its_time_on_a_cpu_too() -> None:
    one = preset("nano")
    planned = replace(one.plan, optimizer=replace(one.plan.optimizer, kind="muon"))
    muon = replace(one, plan=planned)
    model, plain = planned.model, one.plan.tokens / 1024
    # Both stages have 4 x 256 tokens in a step
    share = 300 * model.n_layer * model.n_embd**3 * plain / one.plan.flops(one.plan.tokens)
    before, after = (float(on_cpu(each)[0].removesuffix(" s")) for each in (one, muon))
    assert share > 0.05 and after / before == pytest.approx(1 + share, rel=0.03)


def test_the_page_of_kaggle_has_the_session_of_the_plan() -> None:
    hours, disk = session(ROOT / "presets/kaggle.yaml")
    page = (ROOT / "docs/kaggle.md").read_text()
    assert f"| sum | {hours:.1f} of 11.5 | at most {disk / 1e9:.1f} of 20 GB" in page


def test_conversations_are_estimated_as_the_default_run_has_them() -> None:
    one = preset("nano")
    summary = json.loads((ROOT / "metrics/conversations/summary.json").read_text())
    assert one.reads.conversation_tokens == pytest.approx(summary["train"]["tokens"], rel=0.1)


def test_small_models_do_not_reach_the_mfu_of_large_ones(tmp_path: Path) -> None:
    [h100] = gpus.choose(["H100"], None)
    assert plan.mfu(preset("300m").plan, h100) == plan.mfu(preset("125m").plan, h100) == 0.4
    small = preset("10m").plan
    assert plan.mfu(small, h100) == pytest.approx(0.4 * 320 / 768)
    # 1,000 steps of two layers take a millisecond a layer, however fast the GPU
    assert plan.seconds(preset("nano").plan, h100, 1000 * 1024) == pytest.approx(2.0)
    # Unless the user knows better
    assert plan.mfu(replace(small, mfu=0.01), h100) == 0.01


def rows(output: str) -> list[list[str]]:
    """The cells of the table, which two spaces divide; the first row is its header."""
    lines = output[: output.index("\n\n")].splitlines()
    return [re.split(r" {2,}", line.strip()) for line in lines]


def test_the_table_has_each_preset_on_each_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", "--gpu", "t4,H100", "--gpu", "RTX 4090"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 100
    header, *body = rows(output)
    assert header == list(presets.HEADER)
    firsts = [row for row in body if len(row) == len(header)]
    assert [row[0] for row in firsts] == BY_SIZE
    assert [row[1] for row in firsts] == "1.73 M,1.33 M,10 M,70 M,124 M,356 M".split(",")
    devices = [row[-6] for row in body]
    gpu = ["T4", "H100", "RTX 4090"]
    assert devices == 3 * ["CPU", *gpu] + 3 * gpu
    # 3.3974e10 tokens x 2.7246e9 FLOPs / (989e12 x 0.4) = 65.0 h, and the tuning, at 4.76 US$
    h100 = body[-2]
    assert h100[0] == "H100" and h100[1] == "32" and h100[3] == "65.0 h"
    assert float(h100[5]) == pytest.approx(4.76 * (65.0 + float(h100[4].split()[0])), rel=0.01)
    assert "T4 20%, H100 40%, RTX 4090 40%" in output and "0.3 TFLOP/s" in output


@pytest.mark.parametrize("options", [["--price", "100"], ["--mfu", "0.001"], []])
def test_the_table_of_every_gpu_fits_a_terminal(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    every = ",".join(card.name for card in gpus.CARDS)
    assert cli.main(["plan", "--gpu", every, "--devices", "4", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("prices ") for line in lines) == ("--price" not in options)


def test_by_default_the_table_has_the_two_t4_of_kaggle(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan"]) == 0
    body = rows(capsys.readouterr().out)[1:]
    start = next(i for i, row in enumerate(body) if row[0] == "kaggle")
    devices = [row[-6] for row in body[start : start + 4]]
    assert devices == ["T4", "2 T4", "RTX 4090", "H100"]
    # 1.311e9 tokens x 4.907e8 FLOPs / (2 x 65e12 x 0.2)
    assert body[start + 1][-3:-1] == ["6.9 h", "49 min"]


def test_devices_that_do_not_divide_a_batch_and_cards_that_are_too_small_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", "--gpu", "A100", "--devices", "8"]) == 0
    output = capsys.readouterr().out
    assert "no share: the devices do not divide checkpoints.batch_size" in output
    body = rows(output)[1:]
    shares = [row[-3] for row in body if row[-6] == "8 A100"]
    # nano and own have batches of 4
    assert shares[:2] == ["no share"] * 2 and all(" " in each for each in shares[2:])
    tiny = replace(gpus.CARDS[0], memory=6)
    lines = presets.table([preset("300m")], [(tiny, 1)], {})
    assert re.split(r" {2,}", lines[1])[-4:] == ["9.3 GB", "too small", "-", "-"]


def test_the_forecast_is_that_of_the_ladder() -> None:
    """From the rungs alone, without the shards that the ladder read."""
    law = forecast.read(ROOT / "ladder")
    known = json.loads((ROOT / "ladder/ladder.json").read_text())["forecast"]
    assert law is not None and known["run"] == "300m"
    planned = preset("300m").plan
    steps = known["tokens"] * planned.training.steps // planned.tokens
    planned = replace(planned, training=replace(planned.training, steps=steps))
    assert planned.tokens == known["tokens"]
    predicted = law.of(planned, None)
    assert predicted is not None
    for name, value in known["bits_per_byte"].items():
        assert getattr(predicted.bits_per_byte, name) == pytest.approx(value, rel=0.02)
    # Its bytes per token are unknown
    assert law.of(preset("own").plan, None) is None
    # Text that is read twice is worth less than twice as much
    once, repeated = law.of(planned, 38e9), law.of(planned, 19e9)
    assert once and repeated
    assert predicted.loss.median <= once.loss.median < repeated.loss.median


def test_without_a_ladder_and_without_a_run_there_is_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan"]) == 1
    assert "presets/ has no preset" in capsys.readouterr().err
    (tmp_path / "presets").mkdir()
    changed("10m", tmp_path / "presets")
    assert cli.main(["plan", "--gpu", "L4"]) == 0
    [first, _] = rows(capsys.readouterr().out)[1:]
    assert first[3:5] == ["-", "-"]


def test_a_loss_is_measured_only_if_the_lock_records_it_for_these_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lock, file = tmp_path / "dvc.lock", tmp_path / "metrics/evaluation/summary.json"
    for folder in (tmp_path / "presets", file.parent):
        folder.mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes(changed("10m", tmp_path / "presets").read_bytes())
    file.write_text('{"bits_per_byte": 1.25, "perplexity": 40.2}')
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    of_tokenizer = "{initial: '', vocab_size: 8192, train_mb: 200}"

    def loss() -> list[str]:
        assert cli.main(["plan", "--gpu", "L4"]) == 0
        return rows(capsys.readouterr().out)[1][3:5]

    def write(digest: str, values: str) -> None:
        lock.write_text(
            f"stages:\n  tokenizer:\n    params:\n      params.yaml:\n"
            f"        tokenizer: {values}\n  evaluation:\n    outs:\n"
            f"    - path: metrics/evaluation/summary.json\n      md5: {digest}\n"
        )

    assert loss() == ["-", "-"]
    write(digest, of_tokenizer)
    assert loss() == ["1.25", "40 measured"]
    # Another preset was chosen, and has not run yet
    write(digest, of_tokenizer.replace("8192", "4096"))
    assert loss() == ["-", "-"]
    write("0" * 32, of_tokenizer)
    assert loss() == ["-", "-"]


@pytest.mark.parametrize("text", ["kind,weights\nrung,x\n", "", "kind\nrung\n", "\0"])
def test_a_damaged_ladder_is_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("presets", "ladder"):
        (tmp_path / folder).mkdir()
    changed("10m", tmp_path / "presets")
    (tmp_path / "ladder/rungs.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan"]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ladder/rungs.csv is damaged")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"), [("kaggle", "It fits: "), ("125m", "It does NOT fit: ")]
)
def test_the_parts_of_a_session_are_printed(
    name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(ROOT / f"presets/{name}.yaml"), "--kaggle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and lines[-1].startswith(words)
    total = re.search(r"fit: ([\d.]+) of|fits: ([\d.]+) of", lines[-1])
    hours = sum(float(re.split(r" {2,}", line)[1]) for line in lines[3:-1])
    assert total is not None and hours == pytest.approx(float(total[1] or total[2]), abs=0.5)


@pytest.mark.parametrize("options", [["--gpu", "H100"], ["--devices", "4"], ["--price", "0"]])
def test_a_session_on_kaggle_has_no_other_gpus(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(ROOT / "presets/kaggle.yaml"), "--kaggle", *options]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: --kaggle is about two T4")
    assert output.err.count("\n") == 1


def test_a_session_needs_a_file_and_a_model_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", "--kaggle"]) == 1
    assert capsys.readouterr().err.startswith("error: --kaggle needs a file")
    huge = changed("300m", tmp_path, ("n_layer: 24", "n_layer: 96"))
    assert cli.main(["plan", str(huge), "--kaggle"]) == 1
    assert "a T4 is too small for this model" in capsys.readouterr().err
