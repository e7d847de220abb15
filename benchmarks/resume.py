"""One training, killed 20 times by SIGKILL at random moments and started again each time: are its bytes those of the same training undisturbed?

    python benchmarks/resume.py [--kills 20] [--seed 0]

The training is the stage itself, as DVC would start it, on a tiny model over random tokens; a state is saved every 20 steps. The moments are drawn so
that they fall everywhere: in the start of the process, in a step, in the middle of saving, in the validation.
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
OUTPUTS = ("checkpoints", "metrics.json", "training.csv", "validation.csv", "backtracks.csv")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = Random(given.seed)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).resolve()
        prepare(folder)
        begin = time.monotonic()
        assert start(folder, "whole").wait() == 0
        whole = time.monotonic() - begin
        print(f"undisturbed: {whole:.1f} s", flush=True)
        kills, reached = 0, [0]
        while True:
            process = start(folder, "killed")
            try:
                process.wait(
                    random.uniform(0.2, 2 * whole / given.kills + 2)
                    if kills < given.kills
                    else None
                )
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                steps = [
                    int(path.stem.removeprefix("step-"))
                    for path in folder.glob("state-killed/.state/*/step-*.pt")
                ]
                reached.append(max(steps, default=0))
                assert reached[-1] >= reached[-2], "a saved state was lost"
                continue
            assert process.returncode == 0, process.returncode
            break
        same = {
            name: digest(folder / "whole" / name) == digest(folder / "killed" / name)
            for name in OUTPUTS
        }
        print(f"{kills} kills, newest saved state after each: {reached[1:]}")
        for output, equal in same.items():
            print(f"{output:16}{'identical' if equal else 'DIFFERENT'}")
        sys.exit(
            0
            if all(same.values()) and kills == given.kills
            else "the runs differ, or the training ended before all kills: raise steps in CHANGES"
        )


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
        np.save(shards / f"{split}-00000.npy", ids)
        listed = {
            "name": f"{split}-00000.npy",
            "tokens": tokens,
            "documents": 1,
            "sha256": files.sha256(shards / f"{split}-00000.npy"),
        }
        splits[split] = {"tokens": tokens, "documents": 1, "bytes": 4 * tokens, "files": [listed]}
    np.save(
        shards / "token_counts.npy",
        np.bincount(np.load(shards / "train-00000.npy"), minlength=512).astype(np.uint64),
    )
    files.write_json(
        shards / "index.json", {"vocab_size": 512, "bos": 1, "eos": 2, "splits": splits}
    )
    files.write_json(shards / "texts.json", [f" {id}" for id in range(512)])
    for name in ("antimatter", "stages"):
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    outputs = [str(folder / name / output) for output in (*OUTPUTS, "live.json", "throughput.csv")]
    environment = {
        **os.environ,
        "DVC_ROOT": str(folder / f"state-{name}"),
        "PYTHONPATH": str(folder),
    }
    (folder / f"state-{name}").mkdir(exist_ok=True)
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stages.checkpoints", "shards", *outputs],
            cwd=folder,
            env=environment,
            stderr=log,
        )


def digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


if __name__ == "__main__":
    main()
