"""Which commit recorded an output."""

from pathlib import Path

from antimatter.pipeline.recorded import LOCK
from antimatter.repository import git


def commit_of(md5: str, root: Path = Path(".")) -> str | None:
    """The first commit of the current branch whose dvc.lock contains the hash of an output; None if
    there is none, or no Git repository.

    That commit has the code, the parameters and the hashes that belong together. While the stage
    ran, the commit before it was checked out.
    """
    commits = git.query("log", "--format=%H", "-S", md5, "--", LOCK.as_posix(), root=root)
    return next(iter(reversed((commits or "").split())), None)
