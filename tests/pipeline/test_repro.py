"""The whole pipeline with DVC, at a tiny size, in copies of this checkout: the steps of a new user,
killed runs, and a machine with little more than torch.
"""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_pipeline import COLD, DVC, ENVIRONMENT, copy, dvc, keep_stages, run
from ruamel.yaml import YAML

from antimatter.llama.header import read_header
from antimatter.pipeline import stage as entry


def test_a_second_repro_runs_nothing_and_git_is_clean(a_copy: Path) -> None:
    output = dvc(a_copy, "repro")
    assert "Running stage" not in output and "up to date" in output
    assert run(a_copy, "git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_stages_that_start_as_they_do_for_users_end_in_the_same_lock(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    """In another folder, and not in forks of a process that has imported their libraries."""
    cold = copy(tmp_path / "cold")
    dvc(cold, "repro", environment=COLD)
    assert (cold / "dvc.lock").read_text() == (tiny_pipeline / "dvc.lock").read_text()


def test_every_artefact_has_its_name(tiny_pipeline: Path) -> None:
    for name in (
        "data/tokenizer/tokenizer.json",
        "models/checkpoints/final.safetensors",
        "models/checkpoints/config.json",
        "models/tuned/final.safetensors",
        "models/gguf/antimatter-f16.gguf",
        "models/ollama/Modelfile",
        "models/ollama/models/manifests",
        "models/ollama/models/blobs",
        "metrics/evaluation/samples.yaml",
        "metrics/answers/conversations.yaml",
        "metrics/checkpoints/throughput.json",
        "plots/checkpoints/training.csv",
        "plots/checkpoints/validation.csv",
        "plots/checkpoints/throughput.csv",
        "plots/report/loss.png",
    ):
        assert (tiny_pipeline / name).exists(), name
    # No work is unfinished, and DVC has recorded all that is finished
    assert [path.name for path in (tiny_pipeline / ".state").iterdir()] == ["checked"]


def test_a_gguf_file_has_the_facts_of_its_run(tiny_pipeline: Path) -> None:
    keys = read_header(tiny_pipeline / "models/gguf/antimatter-f16.gguf").keys
    tuned = json.loads((tiny_pipeline / "models/tuned/config.json").read_text())["result"]
    for stage, result in (("tuned", tuned), ("checkpoints", tuned["initial"])):
        summary = json.loads((tiny_pipeline / f"metrics/{stage}/summary.json").read_text())
        for key in ("steps", "tokens", "train_loss", "validation_loss"):
            assert result[key] == summary[key]
    assert keys["antimatter.result.tokens"] == str(tuned["tokens"])
    assert keys["antimatter.result.initial.tokens"] == str(200 * 4 * 64)
    names = [keys[f"general.dataset.{i}.name"] for i in range(keys["general.dataset.count"])]
    assert names == ["click 8.5.1", "prompt_toolkit 3.0.53"]
    assert "51,200 tokens of text" in keys["general.description"]


@pytest.mark.parametrize(
    ("stage", "state"), [("checkpoints", 20), pytest.param("tuned", 5, marks=pytest.mark.slow)]
)
def test_a_training_that_was_killed_ends_in_the_same_lock(
    tiny_pipeline: Path, a_copy: Path, stage: str, state: int
) -> None:
    """The other stages are up to date before and after it.

    Args:
        state: the step of the first state that it saves.
    """
    # From there DVC would restore the model
    shutil.rmtree(a_copy / ".dvc/cache/runs")
    yaml = YAML()
    lock = yaml.load(a_copy / "dvc.lock")
    del lock["stages"][stage]
    yaml.dump(lock, a_copy / "dvc.lock")
    with subprocess.Popen(
        [*DVC, "repro", stage],
        cwd=a_copy,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as repro:
        deadline = time.monotonic() + 300
        while not (saved := list(a_copy.glob(f".state/*/step-{state:08}.pt"))):
            assert repro.poll() is None and time.monotonic() < deadline, f"no state of step {state}"
            time.sleep(0.01)
        trainer = int((saved[0].parent / "lock").read_text().split()[0])
        os.kill(trainer, signal.SIGKILL)
        assert repro.wait(60) != 0
    assert not (a_copy / "models" / stage).exists()
    # `dvc metrics show` needs it before the training ends
    assert "validation_loss" in json.loads((a_copy / f"metrics/{stage}/summary.json").read_text())
    assert re.search(r"resuming from step \d+ of \d+", dvc(a_copy, "repro", stage))
    assert yaml.load(a_copy / "dvc.lock") == yaml.load(tiny_pipeline / "dvc.lock")
    # Fails if a stage would run
    assert dvc(a_copy, "status", "--quiet") == ""


@pytest.mark.slow
def test_an_experiment_runs_the_affected_stages_and_appears_in_the_diffs(a_copy: Path) -> None:
    stages = list(YAML().load(a_copy / "dvc.yaml")["stages"])
    # evaluation is the first stage behind the training that has metrics and plots
    keep_stages(a_copy, *stages[: stages.index("evaluation") + 1])
    output = dvc(a_copy, "exp", "run", "-S", "checkpoints.steps=40")
    assert ran(output) == ["checked", "checkpoints", "evaluation"]
    assert "perplexity" in dvc(a_copy, "metrics", "diff")
    # These two as in the Makefile
    assert run(a_copy, sys.executable, "tools/plots_page.py", ".dvc/tmp/plots.html").returncode == 0
    dvc(a_copy, "config", "--local", "plots.html_template", "tmp/plots.html")
    assert "failed to load" not in dvc(a_copy, "plots", "diff", "--out", "page")
    page = (a_copy / "page/index.html").read_text()
    assert "vegaEmbed" in page and "workspace" in page and "HEAD" in page
    # It works offline
    assert "<script src=" not in page


def test_a_value_of_the_tuning_affects_no_stage_before_it(a_copy: Path) -> None:
    params = a_copy / "params.yaml"
    params.write_text(params.read_text().replace("warmup_fraction: 0.02", "warmup_fraction: 0.1"))
    # --dry does not list later stages: whether they change is known when the tuning has run. The
    # report lists all values
    assert ran(dvc(a_copy, "repro", "--dry")) == ["checked", "tuned", "report"]


@pytest.mark.slow
def test_conversations_of_a_user_are_learnt_and_a_bad_file_is_one_line(a_copy: Path) -> None:
    own, params = a_copy / "mine/talks.jsonl", a_copy / "params.yaml"
    own.parent.mkdir()
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n + 1}."} for n in range(40)]
    own.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    yaml = YAML()
    values = yaml.load(params)
    entry = {"pattern": "mine/*.jsonl", "licence": "our own", "weight": 2}
    values["conversations"]["files"] = [entry]
    yaml.dump(values, params)
    dvc(a_copy, "repro", "conversations")
    sources = json.loads((a_copy / "metrics/conversations/summary.json").read_text())["sources"]
    (source,) = [name for name in sources if "mine" in name]
    assert sources[source]["conversations"] == 40

    lock = yaml.load(a_copy / "dvc.lock")["stages"]["conversations"]
    own.write_text(json.dumps({"messages": [{"role": "assistant", "content": "Hi"}]}) + "\n")
    entry["weight"] = 3
    yaml.dump(values, params)
    done = run(a_copy, *DVC, "repro", "conversations")
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "mine/talks.jsonl" in line and "assistant" in line
    # DVC records only the check of the values from the failed run
    assert yaml.load(a_copy / "dvc.lock")["stages"]["conversations"] == lock


def ran(output: str) -> list[str]:
    """The stages that DVC has run, or would run."""
    return re.findall(r"Running stage '(\w+)'", output)


ARGUMENTS = {"raw": "corpus data/raw m p", "checkpoints": "data/shards models/checkpoints m p"}


def error_of(
    stage: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """Runs a stage that must fail in this process, and returns its one line of output."""
    monkeypatch.setattr(sys, "argv", [stage, *arguments])
    with pytest.raises(SystemExit) as end:
        entry.run(importlib.import_module(f"stages.{stage}").main)
    (error,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1
    return error


@pytest.mark.parametrize(
    ("stage", "old", "new", "error"),
    [
        ("checkpoints", "optimizer:", "optimizer:\n  nesterov: 0.9", r"optimizer\.nesterov is not"),
        ("checkpoints", "grad_clip: 1.0", "grad_clip: high", r"optimizer\.grad_clip .* got 'high'"),
        ("checkpoints", "beta2: 0.999", "beta2: 1.5", r"optimizer\.beta2 .* got 1\.5"),
        ("raw", "source: embedded", "source: web", r"raw\.source must be one of .* got 'web'"),
        ("raw", "click: 8.5.1", "click: 1.0.0", r"click must be 1\.0\.0, 8\.5\.1 is installed"),
    ],
)
def test_an_invalid_parameter_is_one_line_and_loses_nothing(
    a_copy: Path,
    stage: str,
    old: str,
    new: str,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(a_copy)
    params = a_copy / "params.yaml"
    valid = params.read_text()
    assert old in valid
    params.write_text(valid.replace(old, new, 1))
    before = contents(a_copy)
    assert re.search(error, error_of(stage, ARGUMENTS[stage].split(), monkeypatch, capsys))
    assert contents(a_copy) == before


def contents(folder: Path) -> dict[Path, int]:
    """The outputs of all stages, with the times of their last changes."""
    times = {
        path: path.stat().st_mtime_ns
        for name in ("data", "models")
        for path in folder.glob(f"{name}/**/*")
    }
    assert len(times) > 10
    return times


# The packages of a machine with little more than torch, and the dependencies of torch
BARE = [
    *("torch", "torchgen", "functorch", "numpy", "numpy.libs", "safetensors", "yaml", "_yaml"),
    *("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec"),
    *("typing_extensions.py", "setuptools"),
]


def test_a_bare_machine_with_prepared_shards_trains_to_the_same_bytes(
    a_copy: Path, tmp_path: Path
) -> None:
    """It has torch, numpy, safetensors and a YAML reader, but no DVC, tokenizers or datatrove."""
    installed, bare = Path(np.__file__).parents[1], tmp_path / "site"
    bare.mkdir()
    for name in BARE:
        if (installed / name).exists():
            (bare / name).symlink_to(installed / name)
    # -S: without the packages of this Python
    python = [sys.executable, "-S"]
    options = {
        "cwd": a_copy,
        "env": {"PYTHONPATH": f"{bare}{os.pathsep}.", "PATH": os.environ["PATH"]},
        "capture_output": True,
        "text": True,
        "timeout": 400,
    }
    assert subprocess.run([*python, "-c", "import dvc"], **options).returncode == 1
    outputs = [tmp_path / name for name in ("checkpoints", "metrics", "plots")]
    command = [*python, "-m", "stages.checkpoints", "data/shards", *map(str, outputs)]
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    for name, other in (
        ("checkpoints/final.safetensors", "models/checkpoints/final.safetensors"),
        ("checkpoints/config.json", "models/checkpoints/config.json"),
        ("metrics/provenance.json", "metrics/checkpoints/provenance.json"),
        ("metrics/summary.json", "metrics/checkpoints/summary.json"),
        ("plots/training.csv", "plots/checkpoints/training.csv"),
        ("plots/validation.csv", "plots/checkpoints/validation.csv"),
    ):
        assert (tmp_path / name).read_bytes() == (a_copy / other).read_bytes(), name


def test_a_truncated_shard_stops_training_before_it_begins(
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(tiny_pipeline / "data/shards", tmp_path / "shards")
    for name in ("params.yaml", "LICENSE"):
        shutil.copy2(tiny_pipeline / name, tmp_path)
    shutil.copytree(tiny_pipeline / "prompts", tmp_path / "prompts")
    path = tmp_path / "shards/train-00000.npy"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1000])
    monkeypatch.chdir(tmp_path)
    error = error_of("checkpoints", ["shards", "out", "m", "p"], monkeypatch, capsys)
    assert "train-00000.npy is damaged" in error
    assert not (tmp_path / "out").exists()
