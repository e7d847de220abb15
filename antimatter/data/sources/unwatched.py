"""Which files of a user DVC does not watch: it compares only those in the folder that is a
dependency of the stage.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from antimatter.data.sources.paths import located, matches
from antimatter.errors import UserError


def unwatched(patterns: Iterable[str], folder: Path) -> dict[str, Path]:
    """The first unwatched file of each pattern that names one.

    A file is unwatched if it is outside of the folder, or behind a link to another folder: DVC
    follows links to files, but not to folders.

    Raises:
        UserError: a file is in the same folder of the main repository alone.
    """
    inside = folder.resolve()

    @cache
    def is_watched(parent: Path) -> bool:
        return parent.resolve().is_relative_to(inside)

    first: dict[str, Path] = {}
    for pattern in patterns:
        for name in matches(pattern):
            path = located(name)
            if is_watched(path.parent):
                continue
            if Path(name).is_relative_to(folder) and not Path(name).exists():
                raise UserError(_untracked(Path(name), path, folder))
            first.setdefault(pattern, path)
    return first


def _untracked(name: Path, path: Path, folder: Path) -> str:
    """The error for a file that a queued experiment would read in the main repository.

    To DVC the folder is the same in all such experiments, so its run-cache would answer a later one
    with what an earlier one has read.
    """
    top = folder / name.relative_to(folder).parts[0]
    why = "neither Git nor DVC tracks it, so an experiment cannot tell whether it changed"
    return f"raw.files: {path}: {why}: `dvc add {top}`, then commit {top}.dvc"
