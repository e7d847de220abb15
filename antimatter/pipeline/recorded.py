"""What DVC has recorded: the outputs in dvc.lock, and the objects in its cache. Read from their
files, so that DVC need not be here.
"""

import configparser
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antimatter import params
from antimatter.errors import UserError

LOCK = Path("dvc.lock")


def stages(root: Path = Path(".")) -> dict[str, Any]:
    """The stages of dvc.lock.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged.
    """
    if not (root / LOCK).is_file():
        raise FileNotFoundError(f"{LOCK} is missing: run `dvc repro`, or `git checkout {LOCK}`")
    found = params.load(root / LOCK).get("stages")
    if not isinstance(found, dict):
        raise UserError(f"{LOCK} holds no stages: run `dvc repro`, or `git checkout {LOCK}`")
    return found


def hashes(stages: Mapping[str, Any]) -> dict[str, str]:
    """The md5 of each output, by its path."""
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def md5(path: Path) -> str:
    """As in dvc.lock: of a file's bytes; for a folder, of the list of its files, with the ending
    `.dir`.
    """
    if path.is_dir():
        names = [file for file in path.rglob("*") if file.is_file()]
        found = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in names]
        text = json.dumps(sorted(found, key=lambda item: item["relpath"]))
        return hashlib.md5(text.encode()).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def is_cached(digest: str, root: Path) -> bool:
    """Whether the cache of the repository at `root` holds an object. DVC puts a folder there after
    all of its files.
    """
    return (cache(root) / "files/md5" / digest[:2] / digest[2:]).is_file()


def cache(root: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of DVC's cache: `cache.dir` of the nearest of its config files that has one, else
    .dvc/cache.
    """
    user = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dvc"
    for folder, name in (
        (root / ".dvc", "config.local"),
        (root / ".dvc", "config"),
        (user, "config"),
    ):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(folder / name, encoding="utf-8")
        if place := parser.get("cache", "dir", fallback="").strip("\"'"):
            return folder / Path(place).expanduser()
    return root / ".dvc/cache"
