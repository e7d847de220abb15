"""A checkout in which `python -m stages.checkpoints` trains a small model on a few tokens."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from helpers.tiny_pipeline import ENVIRONMENT, WARM, edit

ROOT = Path(__file__).parents[2]
VOCABULARY = 64
PARAMETERS: dict[str, object] = {
    "model.n_layer": 1,
    "model.n_head": 2,
    "model.n_embd": 16,
    "model.block_size": 16,
    "schedule.warmup_steps": 5,
    "checkpoints.steps": 60,
    "checkpoints.batch_size": 8,
    "checkpoints.precision": "fp32",
    "checkpoints.threads": 1,
    "checkpoints.validate_every": 30,
    "checkpoints.validation_tokens": 64,
    "checkpoints.save_every": 10,
    "runtime.device": "cpu",
}
COMMAND = (
    *(sys.executable, "-m", "stages.checkpoints", "data/shards"),
    *("models/checkpoints", "metrics/checkpoints", "plots/checkpoints"),
)
OUTPUTS = (
    *("models/checkpoints/final.safetensors", "models/checkpoints/config.json"),
    *("metrics/checkpoints/summary.json", "metrics/checkpoints/provenance.json"),
    *("plots/checkpoints/training.csv", "plots/checkpoints/validation.csv"),
)


def make(folder: Path, tokens: np.ndarray, parameters: Mapping[str, object]) -> Path:
    """Writes it.

    Args:
        tokens: of the shards, (N,) uint16 below VOCABULARY.
    """
    folder.mkdir()
    for name in ("antimatter", "prompts", "stages"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"))
    edit(folder, {**PARAMETERS, **parameters})
    shards = folder / "data/shards"
    shards.mkdir(parents=True)
    splits = {}
    for name, part in (("train", tokens[:-500]), ("validation", tokens[-500:])):
        np.save(shards / f"{name}.npy", part)
        splits[name] = {"files": [{"name": f"{name}.npy", "tokens": len(part)}]}
    counts = np.bincount(tokens, minlength=VOCABULARY).astype(np.uint64)
    np.save(shards / "token_counts.npy", counts)
    (shards / "texts.json").write_text(json.dumps(["a"] * VOCABULARY))
    index = {"vocab_size": VOCABULARY, "bos": 1, "splits": splits}
    (shards / "index.json").write_text(json.dumps(index))
    return folder


def warm() -> dict[str, str]:
    """The variables with which stages run in warm processes."""
    return {name: ENVIRONMENT[name] for name in WARM if name in ENVIRONMENT}


def start(folder: Path, **variables: str) -> "subprocess.Popen[str]":
    """Starts the stage, with further variables in its environment."""
    # The PATH of this test, which may have a Slurm
    environment = {**os.environ, **warm(), "OMP_NUM_THREADS": "1", **variables}
    # DVC would keep the resume directory
    environment.pop("DVC_STAGE", None)
    return subprocess.Popen(COMMAND, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finish(stage: "subprocess.Popen[str]") -> str:
    """Waits for the end of a stage that must succeed, and returns what it printed."""
    with stage:
        try:
            _, errors = stage.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            # Or the end of the block would wait for it
            stage.kill()
            raise
    assert stage.returncode == 0, errors
    return errors


def train_with_two_processes(folder: Path) -> None:
    """As torchrun would, and no code of ours."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    stages = [start(folder, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in (0, 1)]
    try:
        for stage in stages:
            finish(stage)
    finally:
        # If one has failed, the other waits for it for half an hour
        for stage in stages:
            stage.kill()


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}
