"""Mends what a kill can leave of the files that DVC (3.67) writes in place: dvc.lock, and
.dvc/tmp/rwlock. With either of them incomplete every `dvc` command fails, and its message does not
say what to do.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.errors import UserError
from antimatter.pipeline.recorded import LOCK

RWLOCK = Path(".dvc/tmp/rwlock")
SETTLES = 0.5  # seconds; a DVC that runs meanwhile writes its file in less


def mend(root: Path = Path(".")) -> Iterator[str]:
    """Mends both; a line for people on each.

    Raises:
        ValueError: dvc.lock holds a merge conflict, which somebody has to decide.
    """
    lock, rwlock = root / LOCK, root / RWLOCK
    if lock.is_file() and not _is_lock(lock):
        if "\n<<<<<<< " in f"\n{lock.read_text(encoding='utf-8', errors='replace')}":
            fix = f"`git checkout --ours {LOCK} metrics plots`, then `dvc repro`"
            raise UserError(f"{LOCK} holds a merge conflict: {fix}")
        time.sleep(SETTLES)
        if not _is_lock(lock):
            rest = "what ran since then comes from DVC's run-cache, not computed again"
            yield f"{LOCK} was incomplete, as a kill can leave it: {_restore(lock)}; {rest}"
    if rwlock.is_file() and not _is_json(rwlock):
        time.sleep(SETTLES)
        if not _is_json(rwlock):
            files.remove(rwlock)
            yield f"{RWLOCK} was incomplete, as a kill can leave it: removed, DVC makes a new one"


def _restore(lock: Path) -> str:
    """Puts the committed dvc.lock in place, or none if there is none; says which."""
    command = ["git", "show", f"HEAD:./{lock.name}"]
    committed = subprocess.run(command, cwd=lock.parent, capture_output=True)
    if committed.returncode:
        files.remove(lock)
        return "removed, DVC makes a new one"
    with files.replacing(lock) as partial:
        partial.write_bytes(committed.stdout)
    return "it is that of the last commit again"


def _is_lock(path: Path) -> bool:
    """Whether DVC would take it: by its schema (dvc/schema.py), as far as a file that ends early
    can break it.
    """
    try:
        found = params.load(path)
    except ValueError:
        return False
    stages = found.get("stages", {})
    return (
        found.get("schema") == "2.0"
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
    right = all(isinstance(entry[key], kind) for key, kind in types.items() if key in entry)
    md5 = entry.get("md5")
    return "path" in entry and right and (not md5 or len(str(md5)) > 2)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
