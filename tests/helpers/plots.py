"""What tests of the plots share: the charts of dvc.yaml, and commands in a repository."""

import os
import subprocess
from pathlib import Path
from typing import Any

from antimatter import params

ROOT = Path(__file__).parents[2]
GRAPH = params.load(ROOT / "dvc.yaml")
CHARTS: dict[str, dict[str, Any]] = {
    name: chart for entry in GRAPH["plots"] for name, chart in entry.items()
}
# A chart of one file is configured with its stage
for _stage in GRAPH["stages"].values():
    for _entry in _stage.get("plots", []):
        for _path, _chart in _entry.items():
            if _path.endswith(".csv"):
                CHARTS[_path] = {**_chart, "y": {_path: _chart["y"]}}
# Files without a row in most runs
BACKTRACKS = ("plots/checkpoints/backtracks.csv", "plots/tuned/backtracks.csv")


def run(folder: Path, *command: str, warns: bool = False) -> str:
    """What a command prints.

    Args:
        warns: DVC may fail to load a file.
    """
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    environment = {**os.environ, **dict.fromkeys(names, "test@localhost")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert warns or "failed to load" not in done.stderr
    return done.stdout
