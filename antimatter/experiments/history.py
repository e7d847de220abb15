"""What Git and dvc.lock know of an output: the commit that recorded it, and the hashes beside it."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from antimatter import params

LOCK = Path("dvc.lock")


def commit_of(md5: str, root: Path = Path(".")) -> str | None:
    """The first commit of the current branch in whose dvc.lock an output with this hash stands; None if none is known.

    Code, parameters and hashes that belong together stand in it; the commit that was checked out while the stage ran is the one before.
    """
    command = ["git", "log", "--format=%H", "-S", md5, "--", LOCK.as_posix()]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no Git, or no repository
        return None
    return next(iter(reversed(done.stdout.split())), None)


def locked(root: Path = Path(".")) -> dict[str, Any]:
    """The stages of dvc.lock.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged.
    """
    if not (root / LOCK).is_file():
        raise FileNotFoundError(f"{LOCK} is missing: run `dvc repro`, or `git checkout {LOCK}`")
    stages = params.load(root / LOCK).get("stages")
    if not isinstance(stages, dict):
        raise ValueError(f"{LOCK} holds no stages: run `dvc repro`, or `git checkout {LOCK}`")
    return stages


def hashes(stages: dict[str, Any]) -> dict[str, str]:
    """The md5 of each output, by its path."""
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def md5(path: Path) -> str:
    """As in dvc.lock: of a file's bytes; for a folder, of the list of its files, with the ending `.dir`."""
    if path.is_dir():
        found = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in path.rglob("*") if file.is_file()]
        return hashlib.md5(json.dumps(sorted(found, key=lambda item: item["relpath"])).encode()).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
