"""Git as a process: every call of `git` goes through here."""

import os
import subprocess
from pathlib import Path

from antimatter.errors import UserError

# Set by Git hooks, and by some shells. They name a repository, and `root` has to decide instead
VARIABLES = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"),
    *("GIT_OBJECT_DIRECTORY", "GIT_PREFIX"),
)


def run(*arguments: str, root: Path = Path(".")) -> "subprocess.CompletedProcess[str]":
    """Runs `git` in the folder `root`, whatever its exit status.

    Raises:
        UserError: Git is not installed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment,
            # So that it never waits for an answer
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            # A name or a file may have any bytes
            errors="replace",
        )
    except FileNotFoundError:
        raise UserError("`git` is not installed: install it, then run again") from None


def output(*arguments: str, root: Path = Path("."), fix: str = "") -> str:
    """What a command prints.

    Args:
        fix: ends the message of an error.

    Raises:
        UserError: the command fails.
    """
    done = run(*arguments, root=root)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"`git {arguments[0]}` failed ({reason}){fix and ': '}{fix}")
    return done.stdout


def query(*arguments: str, root: Path = Path(".")) -> str | None:
    """What a command prints; None if it fails, or Git is not installed."""
    try:
        done = run(*arguments, root=root)
    except UserError:
        return None
    return None if done.returncode else done.stdout


def changed_files(*patterns: str, root: Path = Path(".")) -> list[str]:
    """Tracked files that differ from the last commit, relative to the top of the repository.

    Args:
        patterns: Git's pathspecs, relative to `root`; none is the whole repository.
    """
    lines = output("status", "--porcelain", "--untracked-files=no", "--", *patterns, root=root)
    return [line[3:].strip('"') for line in lines.splitlines()]
