"""What Git knows of an output: the commit whose dvc.lock recorded it."""

import subprocess
from pathlib import Path

from antimatter.pipeline.recorded import LOCK


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
