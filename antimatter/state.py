"""Where unfinished work lives: outside of DVC's outs, which DVC deletes before a stage runs."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antimatter import closure, files

IDENTITY = "identity.json"


@contextmanager
def kept(stage: str, **identity: Any) -> Iterator[Path]:
    """Yields the folder in which a run of exactly this stage's code and these values (parameters, inputs) keeps what it has done.

    It goes when the block ends well and stays when it does not, so that the next call goes on from there. It lies under the main repository, also in
    `dvc exp run --temp`. `runtime` belongs in no identity: a run may go on with other workers, or on another machine. Work that begins anew beside
    unfinished work of the same stage says so, and what sets them apart.

    Raises:
        BlockingIOError: another process is at the same work.
    """
    place, text = folder(stage, **identity), _text(stage, identity)
    with files.lock(place / "lock", holder=f"the stage {stage} with these parameters"):
        if not (place / IDENTITY).exists():
            _tell_of_others(place, stage, json.loads(text))
            files.write_text(place / IDENTITY, text)
        yield place
        gone = place.with_name(f".{place.name}")  # a removal that is killed in the middle must not look like work to go on with
        files.remove(gone)
        os.rename(place, gone)
        files.remove(gone)


def folder(stage: str, **identity: Any) -> Path:
    """Where kept() keeps it, for a process that works under another one's lock."""
    name = hashlib.sha256(_text(stage, identity).encode()).hexdigest()[:16]
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".state" / f"{stage}-{name}"


def fingerprint(place: Path, pattern: str) -> dict[str, str]:
    """The files of a folder as an identity: sha256 by name."""
    return {path.name: files.sha256(path) for path in sorted(place.glob(pattern))}


def digest(fingerprints: dict[str, str]) -> str:
    """All of them in one sha256."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()


def _text(stage: str, identity: dict[str, Any]) -> str:
    return json.dumps({"code": closure.digests(f"stages.{stage}"), **identity}, sort_keys=True)


def _tell_of_others(place: Path, stage: str, mine: dict[str, Any]) -> None:
    for path in sorted(place.parent.glob(f"{stage}-*/{IDENTITY}")):
        if files.is_locked(path.with_name("lock")):  # not unfinished: at work
            continue
        theirs = files.read_json(path)
        found = differences(theirs, mine)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        print(
            f"note: {stage} begins anew; unfinished work lies in {path.parent}, set apart by {', '.join(found[:3])}{more}. "
            "Undo that to go on with it, or delete the folder",
            file=sys.stderr,
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What sets two identities apart, each as `name old -> new`; of digests only the name."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [text for key in keys for text in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)]
    if old == new:
        return []
    change = f"{name} {old} -> {new}"
    return [change if len(change) < 80 else name.removeprefix("code.")]
