"""The checkout as a Git repository with DVC, and its experiments."""

import fcntl
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antimatter.errors import UserError
from antimatter.repository import dvc, git


class Repository:
    def __init__(self, root: Path) -> None:
        """
        Raises:
            UserError: `root` is not a Git repository with DVC, or has no commit yet.
        """
        self.root = root
        if not (root / ".dvc").is_dir() or git.run("rev-parse", "--git-dir", root=root).returncode:
            raise UserError(
                f"{root.resolve()} is not a Git repository with DVC, which experiments need:"
                " run this at the root of a clone"
            )
        if git.query("rev-parse", "--verify", "--quiet", "HEAD", root=root) is None:
            raise UserError(
                "there is no commit yet, and a DVC experiment belongs to one:"
                " `git add --all && git commit` first"
            )

    def check_clean(self) -> None:
        """Raises UserError if a tracked file outside of ladder/ differs from the last commit: DVC
        would include the change in every experiment.
        """
        changed = git.changed_files(":/", ":!ladder", root=self.root)
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UserError(
                f"{changed[0]}{more} differs from the last commit, and experiments would include"
                " the change: `git commit` or `git stash`, then run again"
            )

    def check_data(self) -> None:
        """Raises UserError if data/shards does not belong to params.yaml and the code: every run
        would compute it again.
        """
        if changed := dvc.stale("shards", self.root):
            raise UserError(
                f"the stage {changed[0]} has changed since data/shards was made:"
                " `dvc repro shards`, commit dvc.lock, run again"
            )

    def experiments(self) -> dict[str, str]:
        """Finished experiments of any commit: their Git reference by name."""
        # Sorted, so that of several experiments with a name the newest counts
        arguments = ("--sort=creatordate", "--format=%(refname)", "refs/exps")
        names = git.output("for-each-ref", *arguments, root=self.root).splitlines()
        return {name.rpartition("/")[2]: name for name in names}

    def show(self, reference: str, path: str) -> Any:
        """A JSON file that an experiment has committed. Reads it from Git, which takes
        milliseconds; `dvc` takes a second.
        """
        text = git.query("show", f"{reference}:{path}", root=self.root)
        if text is None:
            name = reference.rpartition("/")[2]
            raise UserError(
                f"the experiment {name} has no {path}: `dvc exp remove {name}`, then run again"
            )
        return json.loads(text)

    def start(
        self, name: str, target: str, values: Mapping[str, Any], log: Path
    ) -> "subprocess.Popen[bytes]":
        """Starts an experiment in a temporary folder of DVC, as a new process group. `log` stays
        locked while one of its processes lives.
        """
        parameters = [f"--set-param={key}={value}" for key, value in values.items()]
        with log.open("wb", buffering=0) as stream:
            # The processes inherit the open file, and its lock lasts until all have ended
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = subprocess.Popen(
                [*dvc.COMMAND, "exp", "run", "--temp", "--name", name, *parameters, target],
                cwd=self.root,
                env=dvc.environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
            stream.write(f"process group {process.pid}\n".encode())
        return process
