"""Repairs the files that DVC (3.67) writes in place, after a kill in the middle: dvc.lock and
.dvc/tmp/rwlock. If either is incomplete, every `dvc` command fails with a message that does not say
what to do.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.errors import UserError
from antimatter.pipeline.recorded import LOCK
from antimatter.repository import git

RWLOCK = Path(".dvc/tmp/rwlock")
# Seconds. A DVC that is running now takes less to write a file
SETTLES = 0.5


def repair(root: Path = Path(".")) -> Iterator[str]:
    """Repairs both files, and yields a message for each one that it repaired.

    Raises:
        UserError: dvc.lock has a merge conflict, which a person has to resolve.
    """
    lock, rwlock = root / LOCK, root / RWLOCK
    if lock.is_file() and not is_valid_lock(lock):
        if "\n<<<<<<< " in f"\n{lock.read_text(encoding='utf-8', errors='replace')}":
            fix = f"`git checkout --ours {LOCK} metrics plots`, then `dvc repro`"
            raise UserError(f"{LOCK} has a merge conflict: {fix}")
        time.sleep(SETTLES)
        if not is_valid_lock(lock):
            rest = "stages that ran since then are restored from DVC's run-cache"
            yield f"{LOCK} was incomplete, as after a kill: {_restore(lock)}; {rest}"
    if rwlock.is_file() and not _is_json(rwlock):
        time.sleep(SETTLES)
        if not _is_json(rwlock):
            files.remove(rwlock)
            yield f"{RWLOCK} was incomplete, as after a kill: removed, DVC writes a new one"


def _restore(lock: Path) -> str:
    """Restores the committed dvc.lock, or removes the file if there is none. Says which."""
    committed = git.run("show", f"HEAD:./{lock.name}", root=lock.parent)
    if committed.returncode:
        files.remove(lock)
        return "removed, DVC writes a new one"
    files.write_text(lock, committed.stdout)
    return "restored from the last commit"


def is_valid_lock(path: Path) -> bool:
    """Whether DVC accepts the file. Checks those parts of its schema (dvc/schema.py) that a file
    can break by ending early.
    """
    try:
        content = params.load(path)
    except ValueError:
        return False
    stages = content.get("stages", {})
    return (
        content.get("schema") == "2.0"
        and isinstance(stages, dict)
        and all(map(_is_stage, stages.values()))
    )


def _is_stage(stage: Any) -> bool:
    if not isinstance(stage, dict) or not isinstance(stage.get("cmd"), str | list):
        return False
    entries = [stage.get(kind, []) for kind in ("deps", "outs")]
    parameters = stage.get("params", {})
    return (
        all(isinstance(some, list) and all(map(_is_entry, some)) for some in entries)
        and isinstance(parameters, dict)
        and all(isinstance(values, dict) for values in parameters.values())
    )


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    types = {"path": str, "hash": str, "size": int, "nfiles": int, "md5": str | int | None}
    is_typed = all(isinstance(entry[key], kind) for key, kind in types.items() if key in entry)
    md5 = entry.get("md5")
    return "path" in entry and is_typed and (not md5 or len(str(md5)) > 2)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
