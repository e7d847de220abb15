"""Golden losses, which make refactoring safe: a change of code that must not change results leaves
them as they are, to the bit.

They belong to one kind of machine. On another kind float32 sums have another order, which 30 steps
at a high learning rate amplify, so there the losses must agree within 2%. Those of portable
arithmetic belong to every x86-64 processor with AVX2. After a change that must change results, or
to add a kind of machine: python tests/training/test_golden.py, and again with --portable
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import train_process

from antimatter import files
from antimatter.pipeline import portable
from antimatter.training import numerics
from antimatter.training.config import TrainerConfig

GOLDEN = Path("tests/golden/losses.json")
STEPS = 30


def variants() -> dict[str, tuple[dict[str, object], TrainerConfig]]:
    """The trainings: changes of the model, and the configuration."""
    config = replace(
        train_process.CONFIG,
        training=replace(train_process.CONFIG.training, steps=STEPS, log_every=1),
    )
    return {
        "plain": ({"dropout": 0.0}, config),
        "dropout, untied head": ({"dropout": 0.1, "tied_embeddings": False}, config),
        "rare-token balance": (
            {"dropout": 0.0},
            replace(config, loss=replace(config.loss, rare_token_power=0.5)),
        ),
        "one micro-batch": (
            {"dropout": 0.0},
            replace(config, runtime=replace(config.runtime, micro_batch=8)),
        ),
        # Large enough that PyTorch and MKL divide the work
        "two threads": (
            {"dropout": 0.0, "n_embd": 128, "block_size": 64},
            replace(config, training=replace(config.training, steps=10, threads=2)),
        ),
        "muon": (
            {"dropout": 0.0},
            replace(config, optimizer=replace(config.optimizer, kind="muon")),
        ),
    }


def machine() -> str:
    kind, _ = numerics.describe_hardware("cpu", "fp32")
    return f"torch {torch.__version__.split('+')[0]}, {kind}"


def golden(name: str, folder: Path) -> dict[str, Any]:
    """Loss and gradient norm of each step and the validation losses, to six digits, and a digest of
    all bits of the weights.
    """
    random = np.random.default_rng(0)
    tokens = np.zeros(3000, dtype=np.uint16)
    for i in range(1, len(tokens)):
        tokens[i] = (tokens[i - 1] * 5 + 3) % 64 if random.random() < 0.9 else random.integers(64)
    # One token is frequent, the others are rare
    np.save(folder / "tokens.npy", np.where(tokens < 32, tokens, 7))
    change, config = variants()[name]
    shape = replace(train_process.SHAPE, **change)  # type: ignore[arg-type]
    train_process.run(folder / "tokens.npy", folder / "run", config, shape=shape)
    rows = [
        np.loadtxt(folder / "run" / file, delimiter=",", skiprows=1)
        for file in ("training.csv", "validation.csv")
    ]
    columns = {"losses": rows[0][:, 1], "norms": rows[0][:, 3], "validation": rows[1][:, 1]}
    return {
        **{name: column.tolist() for name, column in columns.items()},
        "weights": files.sha256(folder / "run/final.safetensors"),
    }


@pytest.mark.usefixtures("torch_as_before")
@pytest.mark.parametrize("name", variants())
def test_the_losses_are_golden(tmp_path: Path, name: str) -> None:
    recorded, result = json.loads(GOLDEN.read_text()), golden(name, tmp_path)
    assert len(recorded) > 0
    for kind, runs in recorded.items():
        for curve in ("losses", "validation"):
            assert result[curve] == pytest.approx(runs[name][curve], rel=0.02), kind
    if machine() in recorded:
        assert result == recorded[machine()][name]


@pytest.fixture(scope="module")
def portable_runs() -> dict[str, Any]:
    """All trainings in a process that has the variables before it imports torch."""
    if not portable.has_avx2():
        pytest.skip("portable needs AVX2")
    paths = os.pathsep.join([".", "tests"])
    environment = {**os.environ, **portable.SETTINGS, "PYTHONPATH": paths}
    command = [sys.executable, __file__, "--print"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs: dict[str, Any] = json.loads(done.stdout)
    return runs


def test_portable_losses_are_golden_on_every_processor(portable_runs: dict[str, Any]) -> None:
    version = torch.__version__.split("+")[0]
    kind = f"torch {version}, {numerics.PORTABLE}"
    recorded = json.loads(GOLDEN.read_text())
    if kind not in recorded:
        pytest.skip(f"no portable losses are recorded for torch {version}")
    assert portable_runs == {kind: recorded[kind]}


def all_runs() -> dict[str, Any]:
    runs = {}
    for name in variants():
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = golden(name, Path(folder))
    return {machine(): runs}


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(json.dumps(all_runs()))
    elif "--portable" in sys.argv and not portable.in_effect():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | portable.SETTINGS)
    else:
        written = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        files.write_text(GOLDEN, json.dumps(written | all_runs(), indent=1) + "\n")
