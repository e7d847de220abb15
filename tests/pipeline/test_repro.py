"""The whole pipeline with DVC, at a tiny size, in copies of this checkout: what a newcomer does, and what happens when a machine dies."""

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
from helpers.tiny_pipeline import ENVIRONMENT, dvc, keep_stages, run
from ruamel.yaml import YAML

from antimatter.pipeline import stage as entry


def test_a_second_repro_runs_nothing_and_git_is_clean(a_copy: Path) -> None:
    said = dvc(a_copy, "repro")
    assert "Running stage" not in said and "up to date" in said
    assert run(a_copy, "git", "status", "--porcelain").stdout == ""


def test_every_artefact_has_its_name(made: Path) -> None:
    for name in (
        "data/tokenizer/tokenizer.json", "models/checkpoints/final.safetensors", "models/checkpoints/config.json", "models/gguf/antimatter-f16.gguf",
        "models/ollama/Modelfile", "models/ollama/models/manifests", "models/ollama/models/blobs", "metrics/evaluation/samples.md", "metrics/checkpoints/throughput.json",
        "plots/checkpoints/training.csv", "plots/checkpoints/validation.csv", "plots/checkpoints/throughput.csv", "plots/report/loss.png",
    ):  # fmt: skip
        assert (made / name).exists(), name
    # Nothing is unfinished, and what was finished is recorded
    assert [path.name for path in (made / ".state").iterdir()] == ["checked"]


@pytest.mark.parametrize(("stage", "state"), [("checkpoints", 20), ("tuned", 5)])
def test_a_training_that_was_killed_ends_in_the_same_lock(
    made: Path, a_copy: Path, stage: str, state: int
) -> None:
    """The other stages are up to date before, and again afterwards.

    Args:
        state: the step of the first state that it saves.
    """
    shutil.rmtree(a_copy / ".dvc/cache/runs")  # else DVC would take the model from there
    yaml = YAML()
    lock = yaml.load(a_copy / "dvc.lock")
    del lock["stages"][stage]
    yaml.dump(lock, a_copy / "dvc.lock")
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", stage],
        cwd=a_copy,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as repro:
        deadline = time.monotonic() + 300
        while not (saved := list(a_copy.glob(f".state/*/step-{state:08}.pt"))):
            assert repro.poll() is None and time.monotonic() < deadline, f"no state of step {state}"
            time.sleep(0.01)
        trainer = int((saved[0].parent / "lock").read_text())
        os.kill(trainer, signal.SIGKILL)
        assert repro.wait(60) != 0
    assert not (a_copy / "models" / stage).exists()
    # For `dvc metrics show`, meanwhile
    assert "validation_loss" in json.loads((a_copy / f"metrics/{stage}.json").read_text())
    said = dvc(a_copy, "repro", stage)
    assert re.search(r"going on from step \d+ of \d+", said)
    assert yaml.load(a_copy / "dvc.lock") == yaml.load(made / "dvc.lock")
    assert dvc(a_copy, "status", "--quiet") == ""  # fails if a stage would run


def test_an_experiment_runs_what_its_change_concerns_and_shows_in_the_diffs(a_copy: Path) -> None:
    stages = list(YAML().load(a_copy / "dvc.yaml")["stages"])
    keep_stages(
        a_copy, *stages[: stages.index("evaluation") + 1]
    )  # of what follows, the one that has metrics and plots
    said = dvc(a_copy, "exp", "run", "-S", "checkpoints.steps=40")
    assert re.findall(r"Running stage '(\w+)'", said) == ["checked", "checkpoints", "evaluation"]
    assert "validation.perplexity" in dvc(a_copy, "metrics", "diff")
    assert run(a_copy, sys.executable, "tools/plots_page.py", ".dvc/tmp/plots.html").returncode == 0
    dvc(a_copy, "config", "--local", "plots.html_template", "tmp/plots.html")  # both as `make` does
    assert "failed to load" not in dvc(a_copy, "plots", "diff", "--out", "page")
    page = (a_copy / "page/index.html").read_text()
    assert "vegaEmbed" in page and "workspace" in page and "HEAD" in page
    assert "<script src=" not in page  # offline


def test_a_value_of_the_tuning_concerns_no_stage_before_it(a_copy: Path) -> None:
    params = a_copy / "params.yaml"
    params.write_text(params.read_text().replace("warmup_fraction: 0.02", "warmup_fraction: 0.1"))
    said = dvc(a_copy, "repro", "--dry")
    # What follows is not said: whether it changes is known once the tuning has run
    assert re.findall(r"Running stage '(\w+)'", said) == ["checked", "tuned"]


def test_conversations_of_ones_own_are_learnt_and_a_bad_file_is_one_line(a_copy: Path) -> None:
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
    found = json.loads((a_copy / "metrics/conversations/summary.json").read_text())["sources"]
    [source] = [name for name in found if "mine" in name]
    assert found[source]["conversations"] == 40

    lock = yaml.load(a_copy / "dvc.lock")["stages"]["conversations"]
    own.write_text(json.dumps({"messages": [{"role": "assistant", "content": "Hi"}]}) + "\n")
    entry["weight"] = 3
    yaml.dump(values, params)
    done = run(a_copy, sys.executable, "-m", "dvc", "repro", "conversations")
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "mine/talks.jsonl" in line and "assistant" in line
    # Of the failed run DVC records the check of the values alone
    assert yaml.load(a_copy / "dvc.lock")["stages"]["conversations"] == lock


ARGUMENTS = {"raw": "data/raw m p", "checkpoints": "data/shards models/checkpoints m p t v b l s"}


def refused(
    stage: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The one line with which a stage ends that was called with these arguments, here in this process."""
    monkeypatch.setattr(sys, "argv", [stage, *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.run(importlib.import_module(f"stages.{stage}").main)
    (error,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    return error


@pytest.mark.parametrize(
    ("stage", "old", "new", "words"),
    [
        (
            "checkpoints",
            "optimizer:",
            "optimizer:\n  momentum: 0.9",
            r"optimizer\.momentum is not a parameter",
        ),
        (
            "checkpoints",
            "grad_clip: 1.0",
            "grad_clip: high",
            r"optimizer\.grad_clip must be a number, got 'high'",
        ),
        (
            "checkpoints",
            "beta2: 0.999",
            "beta2: 1.5",
            r"optimizer\.beta2 must lie in \[0, 1\), got 1\.5",
        ),
        ("raw", "source: embedded", "source: web", r"raw\.source must be one of .*; got 'web'"),
        ("raw", "click: 8.5.1", "click: 1.0.0", r"click must be 1\.0\.0, 8\.5\.1 is installed"),
    ],
)
def test_bad_parameters_are_one_line_and_lose_nothing(
    a_copy: Path,
    stage: str,
    old: str,
    new: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(a_copy)
    params = a_copy / "params.yaml"
    good = params.read_text()
    assert old in good
    params.write_text(good.replace(old, new, 1))
    before = contents(a_copy)
    assert re.search(words, refused(stage, ARGUMENTS[stage].split(), monkeypatch, capsys))
    assert contents(a_copy) == before


def contents(folder: Path) -> dict[Path, int]:
    """All that stages leave, with the times of the last changes."""
    found = {
        path: path.stat().st_mtime_ns
        for name in ("data", "models")
        for path in folder.glob(f"{name}/**/*")
    }
    assert len(found) > 10
    return found


BARE = ("torch", "torchgen", "functorch", "numpy", "numpy.libs", "safetensors", "yaml", "_yaml")
BARE += (
    "sympy",
    "mpmath",
    "networkx",
    "jinja2",
    "markupsafe",
    "filelock",
    "fsspec",
    "typing_extensions.py",
    "setuptools",
)  # what torch asks for


def test_a_bare_machine_with_prepared_shards_trains_to_the_same_bytes(
    a_copy: Path, tmp_path: Path
) -> None:
    """torch, numpy, safetensors and a YAML reader: no dvc, no tokenizer, nothing of the data stages."""
    site = Path(np.__file__).parents[1]
    for name in BARE:
        if (site / name).exists():
            (tmp_path / "site").mkdir(exist_ok=True)
            (tmp_path / "site" / name).symlink_to(site / name)
    names = (
        "checkpoints",
        "metrics.json",
        "provenance.json",
        "training.csv",
        "validation.csv",
        "backtracks.csv",
        "live.json",
        "throughput.csv",
    )
    outputs = [str(tmp_path / name) for name in names]
    command = [
        sys.executable,
        "-S",
        "-m",
        "stages.checkpoints",
        "data/shards",
        *outputs,
    ]  # -S: without this Python's own packages
    environment = {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}.", "PATH": os.environ["PATH"]}
    assert (
        subprocess.run(
            [sys.executable, "-S", "-c", "import dvc"],
            cwd=a_copy,
            env=environment,
            capture_output=True,
        ).returncode
        == 1
    )
    done = subprocess.run(
        command, cwd=a_copy, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "checkpoints/final.safetensors").read_bytes() == (
        a_copy / "models/checkpoints/final.safetensors"
    ).read_bytes()
    assert (tmp_path / "checkpoints/config.json").read_bytes() == (
        a_copy / "models/checkpoints/config.json"
    ).read_bytes()
    assert (tmp_path / "training.csv").read_bytes() == (a_copy / "plots/checkpoints/training.csv").read_bytes()


def test_a_truncated_shard_stops_training_before_it_begins(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("data/shards", "params.yaml", "LICENSE"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy2)(
            made / name, tmp_path / Path(name).name
        )
    path = tmp_path / "shards/train-00000.npy"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1000])
    monkeypatch.chdir(tmp_path)
    assert "train-00000.npy is damaged" in refused(
        "checkpoints", ["shards", "out", *"mptvbls"], monkeypatch, capsys
    )
    assert not (tmp_path / "out").exists()
