"""The whole pipeline with DVC, at a tiny size, in copies of this checkout: what a newcomer does, and what happens when a machine dies."""

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
from a_pipeline import ENVIRONMENT, copy, dvc, run


def test_a_second_repro_runs_nothing_and_git_is_clean(made: Path) -> None:
    said = dvc(made, "repro")
    assert "Running stage" not in said and "up to date" in said
    assert run(made, "git", "status", "--porcelain").stdout == ""


def test_every_artefact_has_its_name(made: Path) -> None:
    for name in (
        "data/tokenizer/tokenizer.json", "models/checkpoints/final.safetensors", "models/checkpoints/config.json", "models/gguf/antimatter-f16.gguf",
        "models/ollama/Modelfile", "models/ollama/models/manifests", "models/ollama/models/blobs", "metrics/samples.md", "metrics/throughput.json",
        "plots/training.csv", "plots/validation.csv", "plots/throughput.csv", "plots/loss.png",
    ):  # fmt: skip
        assert (made / name).exists(), name
    assert not (made / ".state").exists() or not any((made / ".state").iterdir())


def test_a_training_that_was_killed_ends_in_the_same_lock(made: Path, tmp_path: Path) -> None:
    folder = copy(tmp_path / "killed")
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as repro:
        deadline = time.monotonic() + 300
        while not (saved := list(folder.glob(".state/*/step-00000040.pt"))):
            assert repro.poll() is None and time.monotonic() < deadline, "the training did not come to step 40"
            time.sleep(0.01)
        trainer = int((saved[0].parent / "lock").read_text())
        os.kill(trainer, signal.SIGKILL)
        assert repro.wait(60) != 0
    assert not (folder / "models/checkpoints").exists()
    said = dvc(folder, "repro")
    assert re.search(r"going on from step \d+ of 200", said)
    assert (folder / "dvc.lock").read_bytes() == (made / "dvc.lock").read_bytes()


def test_an_experiment_runs_what_its_change_concerns_and_shows_in_the_diffs(made: Path) -> None:
    said = dvc(made, "exp", "run", "-S", "optimizer.learning_rate=0.001")
    ran = re.findall(r"Running stage '(\w+)'", said)
    assert ran[0] == "checkpoints" and sorted(ran) == ["checkpoints", "evaluation", "gguf", "ollama"]
    assert "validation.perplexity" in dvc(made, "metrics", "diff")
    assert run(made, sys.executable, "tools/plots_page.py", ".dvc/tmp/plots.html").returncode == 0
    dvc(made, "config", "--local", "plots.html_template", "tmp/plots.html")  # both as `make` does
    assert "failed to load" not in dvc(made, "plots", "diff", "--out", "page")
    page = (made / "page/index.html").read_text()
    assert "vegaEmbed" in page and "workspace" in page and "HEAD" in page
    assert "<script src=" not in page  # offline
    assert run(made, "git", "checkout", "--quiet", ".").returncode == 0


@pytest.mark.parametrize(
    ("stage", "old", "new", "words"),
    [
        ("checkpoints", "optimizer:", "optimizer:\n  momentum: 0.9", r"optimizer\.momentum is not a parameter"),
        ("checkpoints", "grad_clip: 1.0", "grad_clip: high", r"optimizer\.grad_clip must be a number, got 'high'"),
        ("checkpoints", "beta2: 0.95", "beta2: 1.5", r"optimizer\.beta2 must lie in \[0, 1\), got 1\.5"),
        ("raw", "source: embedded", "source: web", r"raw\.source must be one of .*; got 'web'"),
        ("raw", "click: 8.5.1", "click: 1.0.0", r"click must be 1\.0\.0, 8\.5\.1 is installed"),
    ],
)
def test_bad_parameters_are_one_line_and_lose_nothing(made: Path, stage: str, old: str, new: str, words: str) -> None:
    params = made / "params.yaml"
    good = params.read_text()
    assert old in good
    before = {path: path.stat().st_mtime_ns for path in made.glob("data/**/*")}
    try:
        params.write_text(good.replace(old, new, 1))
        inputs = {"raw": "data/raw m p", "checkpoints": "data/shards models/checkpoints m p t v b l s"}[stage]
        done = run(made, sys.executable, "-m", f"stages.{stage}", *inputs.split())
    finally:
        params.write_text(good)
    assert done.returncode == 1
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1 and re.search(words, errors[0]), done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in made.glob("data/**/*")}


BARE = ("torch", "torchgen", "functorch", "numpy", "numpy.libs", "safetensors", "yaml", "_yaml")
BARE += ("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions.py", "setuptools")  # what torch asks for


def test_a_bare_machine_with_prepared_shards_trains_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    """torch, numpy, safetensors and a YAML reader: no dvc, no tokenizer, nothing of the data stages."""
    dvc(made, "checkout")  # the experiment above has left its weights
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
    command = [sys.executable, "-S", "-m", "stages.checkpoints", "data/shards", *outputs]  # -S: without this Python's own packages
    environment = {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}.", "PATH": os.environ["PATH"]}
    assert subprocess.run([sys.executable, "-S", "-c", "import dvc"], cwd=made, env=environment, capture_output=True).returncode == 1
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "checkpoints/final.safetensors").read_bytes() == (made / "models/checkpoints/final.safetensors").read_bytes()
    assert (tmp_path / "checkpoints/config.json").read_bytes() == (made / "models/checkpoints/config.json").read_bytes()
    assert (tmp_path / "training.csv").read_bytes() == (made / "plots/training.csv").read_bytes()


def test_a_truncated_shard_stops_training_before_it_begins(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "data/shards", tmp_path / "shards")
    path = tmp_path / "shards/train-00000.npy"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1000])
    done = run(made, sys.executable, "-m", "stages.checkpoints", str(tmp_path / "shards"), str(tmp_path / "out"), *"mptvbls")
    assert done.returncode == 1
    assert "train-00000.npy is damaged" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
