"""Where unfinished work lives: outside of DVC's outs, which DVC deletes before a stage runs."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.pipeline import closure, recorded

IDENTITY = "identity.json"
CODE = "code.json"
ADOPTED = "adopted.json"
FINISHED = "finished.json"
LOCK = "lock"


@contextmanager
def kept(stage: str, outputs: Sequence[Path], **identity: Any) -> Iterator[Path]:
    """Yields the folder in which a run of exactly this stage's code and these values (parameters, inputs) keeps what it has done.

    It is kept when the block fails, so that the next call can resume, and also when it succeeds,
    until DVC has recorded the outputs: between the end of a stage and that moment DVC hashes and
    caches what may be days of work, and a full disk or a kill there would lose it. Then
    forget_recorded() deletes it, before any stage, so `dvc repro --force` computes anew. Without
    DVC it is deleted at once.

    It lies under the main repository, also in `dvc exp run --temp`. `runtime` belongs in no
    identity: a run may be resumed with other workers, or on another machine. A run that starts
    afresh beside unfinished work of its stage says so, and what sets them apart.

    Args:
        outputs: what the block leaves for DVC to cache; files or folders, relative to the folder
            that the stage runs in.

    Raises:
        BlockingIOError: another process runs the same work.
    """
    place, text = folder(stage, **identity), _text(stage, identity)
    with files.lock(place / LOCK, holder=f"the stage {stage} with these parameters"):
        if (place / FINISHED).exists():
            origin = f"its results come from {place}"
            print(
                f"note: {stage} had finished, but DVC did not record it: {origin}", file=sys.stderr
            )
        elif not (place / IDENTITY).exists():
            _tell_of_others(place, stage, json.loads(text))
            note_code(place, stage)
            files.write_text(place / IDENTITY, text)
        yield place
        if "DVC_STAGE" in os.environ:
            digests = {path.as_posix(): recorded.md5(path) for path in outputs}
            note = {"stage": stage, "workspace": str(Path.cwd()), "outputs": digests}
            files.write_json(place / FINISHED, note)
        else:
            _delete(place)


def forget_recorded() -> None:
    """Deletes what kept() has kept of finished stages whose outputs DVC has recorded by now. Every
    stage calls it before it starts.
    """
    for gone in root().glob(".*-*"):  # a removal was killed in the middle
        with contextlib.suppress(FileNotFoundError):
            files.remove(gone)
    for path in root().glob(f"*/{FINISHED}"):
        with contextlib.suppress(BlockingIOError), files.lock(path.with_name(LOCK), "a stage"):
            if path.exists() and _is_recorded(path.parent):
                _delete(path.parent)


def _is_recorded(place: Path) -> bool:
    """Whether DVC can restore the outputs of a finished run without it: its cache holds them, and
    dvc.lock names them.

    dvc.lock alone does not tell: in a fresh clone it names outputs that this machine does not have.
    Of an experiment whose temporary workspace is gone, the cache alone is asked.
    """
    finished = files.read_json(place / FINISHED)
    workspace, outputs = Path(finished["workspace"]), finished["outputs"]
    if workspace.is_dir():
        try:
            named = recorded.hashes({"": recorded.stages(workspace).get(finished["stage"], {})})
        except (OSError, ValueError):
            return False
        if any(named.get(path) != digest for path, digest in outputs.items()):
            return False
    return all(recorded.is_cached(digest, place.parent.parent) for digest in outputs.values())


def folder(stage: str, **identity: Any) -> Path:
    """Where kept() keeps it, for a process that works under another one's lock."""
    return place_of(stage, _text(stage, identity))


def place_of(stage: str, identity: str) -> Path:
    """The folder of an identity, as kept() writes it."""
    return root() / f"{stage}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def note_code(place: Path, stage: str) -> None:
    """Keeps the text of a stage's code, so that one can see later what has changed since."""
    texts = {
        path.as_posix(): path.read_text(encoding="utf-8")
        for path in closure.files(f"stages.{stage}")
    }
    files.write_json(place / CODE, texts)


def record(place: Path) -> dict[str, Any]:
    """What a stage writes into what it leaves if work in this folder was begun under other code:
    `adopted`, that code, oldest first.

    Nothing unless `antimatter resume` let it go on.
    """
    return {"adopted": files.read_json(place / ADOPTED)} if (place / ADOPTED).exists() else {}


def fingerprint(place: Path, pattern: str) -> dict[str, str]:
    """The files of a folder as an identity: sha256 by name."""
    return {path.name: files.sha256(path) for path in sorted(place.glob(pattern))}


def digest(fingerprints: dict[str, str]) -> str:
    """All of them in one sha256."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()


def root() -> Path:
    """The folder of all of it."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".state"


def _delete(place: Path) -> None:
    # A removal that is killed in the middle must not look like work to resume
    gone = place.with_name(f".{place.name}")
    files.remove(gone)
    os.rename(place, gone)
    files.remove(gone)


def _text(stage: str, identity: dict[str, Any]) -> str:
    return json.dumps({"code": closure.digests(f"stages.{stage}"), **identity}, sort_keys=True)


def _tell_of_others(place: Path, stage: str, mine: dict[str, Any]) -> None:
    for path in sorted(place.parent.glob(f"{stage}-*/{IDENTITY}")):
        if files.is_locked(path.with_name(LOCK)):  # not unfinished: at work
            continue
        theirs = files.read_json(path)
        found = differences(theirs, mine)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        only_code = {**theirs, "code": None} == {**mine, "code": None}
        way_out = "undo that to resume it"
        if only_code:
            way_out = f"`antimatter resume {path.parent}` lets it go on under this code"
        what = (
            "finished work that DVC did not record"
            if (path.parent / FINISHED).exists()
            else "unfinished work"
        )
        print(
            f"note: {stage} starts afresh; {what} lies in {path.parent}, set apart by {', '.join(found[:3])}{more}: {way_out}, or delete the folder",
            file=sys.stderr,
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What sets two identities apart, each as `name old -> new`; of digests only the name."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            text
            for key in keys
            for text in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    if old == new:
        return []
    change = f"{name} {old} -> {new}"
    return [change if len(change) < 80 else name.removeprefix("code.")]
