"""A checkout in which `python -m stages.checkpoints` trains a small model on a few tokens."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from helpers.tiny_pipeline import edit

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
    for name in ("antimatter", "stages"):
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


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}
