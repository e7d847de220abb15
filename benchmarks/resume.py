"""Are the bytes of a training that was killed 20 times by SIGKILL at random moments, and restarted
each time, those of the same training without interruption?

    python benchmarks/resume.py [--kills 20] [--seed 0]
    # Layers of the 300M preset's width in bf16, compiled on a GPU; a kill after each of two states
    python benchmarks/resume.py --large --kills 2

The training is the stage `checkpoints`, started as DVC starts it, of a tiny model on random tokens,
on the GPU if there is one. It saves a state every 20 steps. The kills happen anywhere: while the
process starts, in a step, while it saves or validates. Without kills it is the same training twice.
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

from antimatter import files, params
from antimatter.model import devices

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
LARGE = {
    "model": {"n_layer": 4, "n_head": 16, "n_embd": 1024, "block_size": 512, "dropout": 0.1},
    "checkpoints": {"steps": 80, "batch_size": 16, "validate_every": 40},
}
# Folders, as in dvc.yaml
OUTPUTS = ("models", "metrics", "plots")
# Speeds differ in each run
SPEEDS = ("throughput.json", "throughput.csv")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    random = Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        prepare(folder, arguments.large)
        begin = time.monotonic()
        if start(folder, "whole").wait():
            sys.exit((folder / "whole.log").read_text())
        whole = time.monotonic() - begin
        print(f"without a kill: {whole:.1f} s", flush=True)
        longest = 0.0 if arguments.large else 2 * whole / max(1, arguments.kills) + 2
        reached = run_with_kills(folder, arguments.kills, longest, random)
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
        longest: seconds between a start and a kill; 0: until another state has been saved.
    """
    reached: list[int] = []
    while True:
        process = start(folder, "killed")
        if not longest and len(reached) < kills:
            while process.poll() is None and newest_state(folder) <= max(reached, default=0):
                time.sleep(0.1)
        try:
            process.wait(random.uniform(0.2, longest or 0.5) if len(reached) < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            newest = newest_state(folder)
            assert not reached or newest >= reached[-1], "a saved state was lost"
            reached.append(newest)
        else:
            if process.returncode:
                sys.exit((folder / "killed.log").read_text())
            return reached


def newest_state(folder: Path) -> int:
    states = folder.glob("state-killed/.state/*/step-*.pt")
    return max((int(path.stem.removeprefix("step-")) for path in states), default=0)


def prepare(folder: Path, large: bool) -> None:
    """Params and shards of random tokens, some frequent and some rare."""
    values = params.load(Path("params.yaml"))
    for changes in (CHANGES, LARGE if large else {}):
        for section, keys in changes.items():
            values[section].update(keys)
    values["checkpoints"]["compile"] = large and devices.has_gpu()
    # JSON is YAML, and a bare GPU machine has no ruamel.yaml
    files.write_json(folder / "params.yaml", values)
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
    for name in ("antimatter", "stages", "prompts"):
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
