"""DVC as a process: how it is called, what it says, which stages it would run."""

import json
import os
import subprocess
import sys
from pathlib import Path

from antimatter.errors import UserError

COMMAND = (sys.executable, "-m", "dvc")


def stale(target: str, root: Path = Path(".")) -> list[str]:
    """The stages, up to and including `target`, that `dvc repro` would run anew: empty if its
    outputs are those of params.yaml and the code.

    `checked` does not count. It reads all parameters, also those of later stages, and its output is
    always the same.

    Raises:
        ValueError: `dvc status` fails.
    """
    done = subprocess.run(
        [*COMMAND, "status", "--json", "--with-deps", target],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"`dvc status` fails: {last_words(done.stdout + done.stderr)}")
    return [stage for stage in json.loads(done.stdout or "{}") if stage != "checked"]


def environment() -> dict[str, str]:
    """The stages call `python`, which has to be this one; a log shows each line at once."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def last_words(text: str) -> str:
    """The line that tells most: the last error of a stage, else that of DVC, else the last line."""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    for start in ("error: ", "ERROR: ", ""):
        if found := [line for line in lines if line.startswith(start)]:
            return found[-1].removeprefix(start)
    return "it said nothing"
