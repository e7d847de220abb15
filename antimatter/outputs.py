"""What a command may replace: outputs that a user names are checked before the work, so that
nothing is lost and no work is done in vain.
"""

import fnmatch
import os
from collections.abc import Collection
from pathlib import Path

from antimatter.errors import UserError


def check_file(path: Path, option: str) -> None:
    """Checks that a file can be written at `path`. A link there is replaced, not followed.

    Raises:
        UserError: it is a folder or has no name, or its folder cannot be made or written to.
    """
    if path.is_dir() or path.name in ("", ".."):
        raise UserError(f"{option} {path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{option} {path} is not a regular file: name another one")
    _check_parent(path, option)


def check_folder(folder: Path, option: str, names: Collection[str]) -> None:
    """Checks that a folder can be written, which replaces an earlier one.

    Args:
        names: patterns of the paths below it that the command writes; the earlier folder may hold
            nothing else.

    Raises:
        UserError: it is a file or a link, or has no name, or holds something else, or its parent
            cannot be made or written to.
    """
    if folder.name in ("", ".."):
        raise UserError(f"{option} '{folder}' is used as a whole: name a folder in it")
    if folder.is_symlink():
        raise UserError(f"{option} {folder} is a link: name the folder itself")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{option} {folder} is a file: name a folder")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder and not any(fnmatch.fnmatchcase(name, pattern) for pattern in names):
            reason = f"has {name}, which this command does not write"
            raise UserError(f"{option} {folder} {reason}: name another folder")
    _check_parent(folder, option)


def _check_parent(path: Path, option: str) -> None:
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise UserError(f"{option} {path}: {parent} is not a folder: name another one")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: {parent} is not writable: name another folder")
