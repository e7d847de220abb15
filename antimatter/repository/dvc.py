"""DVC as a process: how it is called, what its output says, which stages it would run."""

import json
import os
import subprocess
import sys
from pathlib import Path

from antimatter.errors import UserError
from antimatter.processes import process_group
from antimatter.repository import git

COMMAND = (sys.executable, "-m", "dvc")
# Of a surrounding stage, Git hook or shell: they would lead a command out of its folder
VARIABLES = (
    *git.VARIABLES,
    *("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"),
    "PYTHONSAFEPATH",  # with it `python -m stages.raw` would not find the stages
)


def environment() -> dict[str, str]:
    """The environment of `dvc`. Stages call `python`, which must be this interpreter; their output
    must not be buffered, as the logs are read while they run.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {**inherited, "PATH": path, "PYTHONUNBUFFERED": "1"}


def stale(target: str, root: Path = Path(".")) -> list[str]:
    """The stages, up to and including `target`, that `dvc repro` would run: empty if the outputs
    belong to the present params.yaml and code.

    `checked` does not count. It reads all parameters, also those of later stages, and its output is
    always the same.

    Raises:
        UserError: `dvc status` fails.
    """
    done = subprocess.run(
        [*COMMAND, "status", "--json", "--with-deps", target],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"`dvc status` failed: {last_error(done.stdout + done.stderr)}")
    return [stage for stage in json.loads(done.stdout or "{}") if stage != "checked"]


def last_error(log: str) -> str:
    """The most informative line: the last error of a stage, else of DVC, else the last line."""
    lines = [line.strip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    for prefix in ("error: ", "ERROR: ", ""):
        if matching := [line for line in lines if line.startswith(prefix)]:
            return matching[-1].removeprefix(prefix)
    return "no output"


class Sandbox:
    """DVC in a clone, with the clone's own cache: stages compute their outputs instead of taking
    them from another cache.
    """

    def __init__(self, project: Path, site: Path) -> None:
        """
        Args:
            site: a folder for DVC's notes on this clone; it would keep them in /var/tmp.
        """
        self.project = project
        self.cache = project / ".dvc" / "cache"
        self.environment = {**environment(), "DVC_SITE_CACHE_DIR": str(site)}
        self.use_cache(self.cache)

    def use_cache(self, folder: Path) -> None:
        """Sets the cache in config.local, which takes precedence over the repository's and the
        user's config; those may name a shared cache.
        """
        if self.run("cache", "dir", "--local", str(folder)):
            raise UserError(f"`dvc cache dir` failed in {self.project}: see its error above")

    def run(self, *arguments: str) -> int:
        """Runs `dvc` and returns its exit status. Its output goes to stderr. No process of it
        outlives this call.
        """
        command, output = [*COMMAND, *arguments], sys.stderr.fileno()
        with process_group(command, self.project, self.environment, output) as process:
            return process.wait()
