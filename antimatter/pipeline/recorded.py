"""What DVC has recorded: the outputs in dvc.lock and the objects in its cache.

Read from their files, so that DVC need not be installed.
"""

import configparser
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antimatter import params
from antimatter.errors import UserError

LOCK = Path("dvc.lock")


def stages(root: Path = Path(".")) -> dict[str, Any]:
    """The stages of dvc.lock. Raises UserError if it is missing or damaged."""
    fix = f"run `dvc repro`, or `git checkout {LOCK}`"
    if not (root / LOCK).is_file():
        raise UserError(f"{LOCK} is missing: {fix}")
    found = params.load(root / LOCK).get("stages")
    if not isinstance(found, dict):
        raise UserError(f"{LOCK} has no stages: {fix}")
    return found


def hashes(stages: Mapping[str, Any]) -> dict[str, str]:
    """The md5 of each output, by its path."""
    outputs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outputs}


def md5(path: Path) -> str:
    """The hash that dvc.lock records: of a file's bytes, or of the list of a folder's files.

    That of a folder ends in `.dir`.
    """
    if path.is_dir():
        names = [file for file in path.rglob("*") if file.is_file()]
        entries = [
            {"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in names
        ]
        text = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]))
        return hashlib.md5(text.encode()).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


@dataclass(frozen=True)
class Cache:
    """DVC's cache, as its documentation describes it (internal files).

    An object is stored under its digest, a folder as JSON that lists the digests of its files.
    """

    folder: Path

    def path(self, digest: str) -> Path:
        return self.folder / "files" / "md5" / digest[:2] / digest[2:]

    def members(self, digest: str) -> dict[str, str]:
        """The digests of a folder's files, by their path in it; a file itself has the path "".

        Raises OSError if the cache does not have the folder.
        """
        if not digest.endswith(".dir"):
            return {"": digest}
        entries = json.loads(self.path(digest).read_bytes())
        return {entry["relpath"]: entry["md5"] for entry in entries}

    def holds(self, digest: str) -> bool:
        """Whether the cache has an object and, of a folder, each of its files."""
        return self.path(digest).is_file() and all(
            self.path(member).is_file() for member in self.members(digest).values()
        )


def is_cached(digest: str, root: Path) -> bool:
    """Whether the cache of the repository at `root` has an object.

    DVC adds a folder after all of its files.
    """
    return Cache(cache(root)).path(digest).is_file()


def cache(root: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of DVC's cache: `cache.dir` of the most specific config file, else .dvc/cache."""
    user = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dvc"
    project = root / ".dvc"
    for folder, name in ((project, "config.local"), (project, "config"), (user, "config")):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(folder / name, encoding="utf-8")
        if place := parser.get("cache", "dir", fallback="").strip("\"'"):
            return folder / Path(place).expanduser()
    return root / ".dvc/cache"
