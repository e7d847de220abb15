"""The golden trainings of tests/training/test_golden.py, and what records them.

# From the root of the repository; needs no pytest
PYTHONPATH=.:tests python -m helpers.golden --device cuda
PYTHONPATH=.:tests python -m helpers.golden --portable
"""

# Before torch: it sets how threads wait
import stages  # noqa: F401

# isort: split
import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from antimatter import files
from antimatter.pipeline import portable
from antimatter.training import numerics
from antimatter.training.config import TrainerConfig
from helpers import train_process

GOLDEN = Path("tests/golden/losses.json")
STEPS = 30


def variants(device: str = "cpu") -> dict[str, tuple[dict[str, object], TrainerConfig]]:
    """The trainings: changes of the model, and the configuration."""
    config = replace(
        train_process.CONFIG,
        training=replace(train_process.CONFIG.training, steps=STEPS, log_every=1),
        runtime=replace(train_process.CONFIG.runtime, device=device),
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


def machine(device: str = "cpu") -> str:
    """The kind of machine to which the bits of a run belong."""
    kind, _ = numerics.describe_hardware(device, "fp32")
    kind = f"cuda, {kind}" if device == "cuda" else kind
    return f"torch {torch.__version__.split('+')[0]}, {kind}"


def is_comparable(name: str, kind: str, device: str) -> bool:
    """Whether the losses of a run on `device` are near those of this kind of machine: with dropout
    a GPU draws other numbers than a CPU.
    """
    return "dropout" not in name or ("cuda, " in kind) == (device == "cuda")


def golden(name: str, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Loss and gradient norm of each step and the validation losses, to six digits, and a digest of
    all bits of the weights.
    """
    random = np.random.default_rng(0)
    tokens = np.zeros(3000, dtype=np.uint16)
    for i in range(1, len(tokens)):
        tokens[i] = (tokens[i - 1] * 5 + 3) % 64 if random.random() < 0.9 else random.integers(64)
    # One token is frequent, the others are rare
    np.save(folder / "tokens.npy", np.where(tokens < 32, tokens, 7))
    change, config = variants(device)[name]
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


def all_runs(device: str) -> dict[str, Any]:
    """Those of this machine, by variant."""
    runs = {}
    for name in variants(device):
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = golden(name, Path(folder), device)
    return runs


def record(device: str) -> None:
    """Writes the runs of this kind of machine into GOLDEN, and how far its losses are from those of
    the others.
    """
    written = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    kind, runs = machine(device), all_runs(device)
    for other, theirs in written.items():
        names = [name for name in runs if name in theirs and is_comparable(name, other, device)]
        curves = [(runs[name]["losses"], theirs[name]["losses"]) for name in names]
        furthest = max(np.abs(np.divide(ours, known) - 1).max() for ours, known in curves)
        is_same = all(runs[name] == theirs[name] for name in names)
        print(f"{kind}: losses differ by at most {furthest:.2e} from {other}; same bits: {is_same}")
    files.write_text(GOLDEN, json.dumps({**written, kind: runs}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--portable", action="store_true", help="with checkpoints.portable")
    parser.add_argument("--print", action="store_true", help="print the runs, record nothing")
    arguments = parser.parse_args()
    if arguments.portable and not portable.in_effect():
        # The variables must be there before torch is imported
        command = [sys.executable, "-m", "helpers.golden", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | portable.SETTINGS)
    if arguments.print:
        print(json.dumps({machine(arguments.device): all_runs(arguments.device)}))
    else:
        record(arguments.device)
