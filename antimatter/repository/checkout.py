"""Git and DVC of the checkout, called as processes: what the ladder asks of them."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antimatter.errors import UserError
from antimatter.repository.dvc import COMMAND, environment, stale


class Repository:
    def __init__(self, root: Path) -> None:
        """Raises ValueError outside of a Git repository with DVC, or before its first commit."""
        self.root = root
        if not (root / ".dvc").is_dir() or self._git("rev-parse", "--git-dir").returncode:
            raise UserError(
                f"{root.resolve()} is no Git repository with DVC, and rungs are its experiments: run this at the root of a clone"
            )
        if self._git("rev-parse", "--verify", "--quiet", "HEAD").returncode:
            raise UserError(
                "there is no commit yet, and a DVC experiment belongs to one: `git add --all && git commit` first"
            )

    def check_clean(self) -> None:
        """Raises ValueError naming a tracked file that differs from the commit, but for the ladder's own: DVC would take it into every rung."""
        lines = self._git("status", "--porcelain", "--untracked-files=no").stdout.splitlines()
        changed = [
            name for line in lines if not (name := line[3:].strip('"')).startswith("ladder/")
        ]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UserError(
                f"{changed[0]}{more} differs from the last commit, to which rungs belong: `git commit` or `git stash`, then run again"
            )

    def check_data(self) -> None:
        """Raises ValueError if the shards are not those of params.yaml and the code: each rung would make them anew."""
        if changed := stale("shards", self.root):
            raise UserError(
                f"the stage {changed[0]} has changed since data/shards was made: `dvc repro shards`, commit dvc.lock, run again"
            )

    def experiments(self) -> dict[str, str]:
        """Finished experiments of any commit: their Git reference by name."""
        lines = self._git(
            "for-each-ref", "--sort=creatordate", "--format=%(refname)", "refs/exps"
        ).stdout.splitlines()
        return {name.rpartition("/")[2]: name for name in lines}

    def show(self, reference: str, path: str) -> Any:
        """A JSON file as an experiment has committed it. Git alone is asked, which takes milliseconds."""
        done = self._git("show", f"{reference}:{path}")
        if done.returncode:
            name = reference.rpartition("/")[2]
            raise UserError(
                f"the experiment {name} has no {path}: `dvc exp remove {name}`, then run again"
            )
        return json.loads(done.stdout)

    def start(
        self, name: str, target: str, values: Mapping[str, Any], log: Path
    ) -> "subprocess.Popen[bytes]":
        """An experiment in a folder of its own, as a process group of its own; the log is locked as long as one of its processes lives."""
        import fcntl

        words = [
            word for key, value in values.items() for word in ("--set-param", f"{key}={value}")
        ]
        with log.open("wb", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = subprocess.Popen(
                [*COMMAND, "exp", "run", "--temp", "--name", name, *words, target],
                cwd=self.root,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
            stream.write(f"process group {process.pid}\n".encode())
        return process

    def _git(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                ["git", *arguments], cwd=self.root, capture_output=True, text=True
            )
        except FileNotFoundError:
            raise UserError("there is no `git` here: install it") from None
