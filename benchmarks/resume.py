"""Are the bytes of a training that was killed 20 times by SIGKILL at random moments, and restarted
each time, those of the same training without interruption?

    python benchmarks/resume.py [--kills 20] [--seed 0]

The training is the stage `checkpoints`, started as DVC starts it, of a tiny model on random tokens.
It saves a state every 20 steps. The kills happen anywhere: while the process starts, in a step,
while it saves or validates.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np
from ruamel.yaml import YAML

from antimatter import files

CHANGES = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 128, "block_size": 64, "dropout": 0.1},
    "loss": {"rare_token_power": 0.5},
    "schedule": {"warmup_steps": 20},
    "checkpoints": {
        "steps": 3000,
        "batch_size": 8,
        "validate_every": 50,
        "validation_tokens": 2048,
        "save_every": 20,
    },
}
# Folders, as in dvc.yaml
OUTPUTS = ("models", "metrics", "plots")
# Speeds differ in each run
SPEEDS = ("throughput.json", "throughput.csv")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        prepare(folder)
        begin = time.monotonic()
        assert start(folder, "whole").wait() == 0
        whole = time.monotonic() - begin
        print(f"without a kill: {whole:.1f} s", flush=True)
        reached = run_with_kills(folder, arguments.kills, 2 * whole / arguments.kills + 2, random)
        print(f"{len(reached)} kills, newest saved state after each: {reached}")
        is_same = {
            output: digest(folder / "whole" / output) == digest(folder / "killed" / output)
            for output in OUTPUTS
        }
    for output, same in is_same.items():
        print(f"{output:16}{'identical' if same else 'DIFFERENT'}")
    if not all(is_same.values()):
        sys.exit("the runs differ")
    if len(reached) < arguments.kills:
        sys.exit("the training ended before all kills: raise steps in CHANGES")


def run_with_kills(folder: Path, kills: int, longest: float, random: Random) -> list[int]:
    """Returns the step of the newest saved state after each kill.

    Args:
        longest: seconds between a start and a kill.
    """
    reached: list[int] = []
    while True:
        process = start(folder, "killed")
        try:
            process.wait(random.uniform(0.2, longest) if len(reached) < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            states = folder.glob("state-killed/.state/*/step-*.pt")
            steps = [int(path.stem.removeprefix("step-")) for path in states]
            newest = max(steps, default=0)
            assert not reached or newest >= reached[-1], "a saved state was lost"
            reached.append(newest)
        else:
            if process.returncode:
                sys.exit((folder / "killed.log").read_text())
            return reached


def prepare(folder: Path) -> None:
    """Params and shards of random tokens, some frequent and some rare."""
    yaml = YAML()
    values = yaml.load(Path("params.yaml"))
    for section, changes in CHANGES.items():
        values[section].update(changes)
    yaml.dump(values, folder / "params.yaml")
    shards, random = folder / "shards", np.random.default_rng(0)
    shards.mkdir()
    splits = {}
    for split, tokens in (("train", 200_000), ("validation", 5000)):
        ids = np.minimum(random.geometric(0.02, tokens), 511).astype(np.uint16)
        path = shards / f"{split}-00000.npy"
        np.save(path, ids)
        entry = {"name": path.name, "tokens": tokens, "documents": 1, "sha256": files.sha256(path)}
        splits[split] = {"tokens": tokens, "documents": 1, "bytes": 4 * tokens, "files": [entry]}
    counts = np.bincount(np.load(shards / "train-00000.npy"), minlength=512).astype(np.uint64)
    np.save(shards / "token_counts.npy", counts)
    index = {"vocab_size": 512, "bos": 1, "eos": 2, "splits": splits}
    files.write_json(shards / "index.json", index)
    files.write_json(shards / "texts.json", [f" {id}" for id in range(512)])
    for name in ("antimatter", "stages"):
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    outputs = [str(folder / name / output) for output in OUTPUTS]
    state = folder / f"state-{name}"
    state.mkdir(exist_ok=True)
    environment = {**os.environ, "DVC_ROOT": str(state), "PYTHONPATH": str(folder)}
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stages.checkpoints", "shards", *outputs],
            cwd=folder,
            env=environment,
            stderr=log,
        )


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in SPEEDS:
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


if __name__ == "__main__":
    main()
