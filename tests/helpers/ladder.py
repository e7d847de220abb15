"""`antimatter ladder` on small repositories: in this process with a fake DVC, or as another
process. Its runs are the rungs of two widths, without their neighbours.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from antimatter.cli import main as cli
from antimatter.ladder import configs
from helpers import tiny_pipeline
from helpers.tiny_pipeline import ENVIRONMENT, TINY

ROOT = Path(__file__).parents[2]
FAKE_DVC = Path(__file__).parent / "fake_dvc"
WIDTHS = (0.5, 1.0)
BUDGETS = (0.4, 0.7)  # besides the whole one: 200 and 350 of 500 steps
SCRIPT = f"""
import sys
from antimatter.cli.main import main
from antimatter.ladder import configs
runs = configs.runs
configs.WIDTHS, configs.BUDGETS = {WIDTHS}, tuple(map(float, sys.argv[1].split()))
configs.runs = lambda base, limit: [run for run in runs(base, limit) if run.kind == "rung"]
sys.exit(main(["ladder", *sys.argv[2:]]))
"""


def make_repository(folder: Path) -> None:
    """Commits tiny parameters; beside them are tiny shards. The real DVC cannot run there."""
    shards = folder / "data/shards"
    shards.mkdir(parents=True)
    for name in ("antimatter", "stages", "presets"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    splits = {}
    for split, tokens in (("train", 4000), ("validation", 1000)):
        np.save(shards / f"{split}.npy", np.ones(tokens, dtype=np.uint16))
        files = [{"name": f"{split}.npy", "tokens": tokens}]
        splits[split] = {"tokens": tokens, "bytes": 2 * tokens, "files": files}
    index = {"vocab_size": TINY["tokenizer.vocab_size"], "splits": splits}
    (shards / "index.json").write_text(json.dumps(index))
    tiny_pipeline.edit(folder, {**TINY, "checkpoints.steps": 500})
    git(folder, "init", "--quiet")
    tiny_pipeline.commit(folder, "parameters of the ladder")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout


def experiments(folder: Path) -> dict[str, str]:
    """Git's references of the experiments, by name without the digest."""
    names = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return {name.rpartition("/")[2].rpartition("-")[0]: name for name in names}


def processes(folder: Path) -> list[str]:
    """Command lines of the other processes that run below a folder."""
    lines = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        if link.parent.name == str(os.getpid()):
            continue
        try:
            if Path(os.readlink(link)).is_relative_to(folder):
                lines.append((link.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            # It has ended, or belongs to another user
            continue
    return lines


def start(
    folder: Path, environment: Mapping[str, str], budgets: Sequence[float], *arguments: str
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, " ".join(map(str, budgets)), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe
    )


class Ladder:
    """`antimatter ladder` in this process, with the fake DVC."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture
        patch.chdir(folder)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setattr(configs, "WIDTHS", WIDTHS)
        patch.setattr(configs, "BUDGETS", BUDGETS)
        patch.setattr(configs, "runs", _rungs(configs.runs))
        self.plan()

    def plan(self, **plan: str) -> dict[str, str]:
        """Says what the fake DVC does. Returns the environment for start()."""
        self.patch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE_DVC), str(ROOT)]))
        self.patch.setenv("FAKE_DVC", json.dumps({"status": "{}", **plan}))
        return dict(os.environ)

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        self.capture.readouterr()
        status = cli.main(["ladder", *arguments])
        return subprocess.CompletedProcess([], status, *self.capture.readouterr())


def _rungs(runs: Callable[..., list[configs.RunConfig]]) -> Callable[..., list[configs.RunConfig]]:
    return lambda base, limit: [run for run in runs(base, limit) if run.kind == "rung"]
