"""The resume directory of a run: what a stage has done, kept until DVC has recorded the result.

It lies outside of DVC's outs, because DVC deletes those before a stage runs.
"""

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
from antimatter.launch import inside
from antimatter.pipeline import closure, recorded

IDENTITY = "identity.json"
CODE = "code.json"
ADOPTED = "adopted.json"
FINISHED = "finished.json"
LOCK = "lock"
# Seconds for which a file server holds the locks of a machine that was lost: 90 in NFS of Linux
LEASE = 120.0


@contextmanager
def directory(stage: str, outputs: Sequence[Path], **identity: Any) -> Iterator[Path]:
    """Yields the directory of a run of exactly this code with these values (parameters, inputs).

    It is kept if the block fails, so that the next call can resume. It is also kept on success,
    until DVC has recorded the outputs: between the end of a stage and that moment DVC hashes and
    caches what may be days of work, and a full disk or a kill there would lose it. After that
    delete_recorded(), which every stage calls first, deletes it, so `dvc repro --force` computes
    everything again. Without DVC it is deleted at once.

    It lies under the main repository, also in `dvc exp run --temp`. `runtime` belongs in no
    identity: a run may resume with other workers, or on another machine. A run that starts from
    the beginning beside unfinished work of its stage reports it, and how the two differ.

    Args:
        outputs: what the block writes for DVC to cache; files or folders, relative to the folder
            in which the stage runs.

    Raises:
        Locked: another process runs the same work.
    """
    text = _identity(stage, identity)
    place = path_of_identity(stage, text)
    wait = LEASE if inside.is_launched() else 0
    with files.lock(place / LOCK, f"the stage {stage} with these parameters", wait):
        if (place / FINISHED).exists():
            print(
                f"note: {stage} had finished, but DVC did not record it: its results come from "
                f"{place}",
                file=sys.stderr,
            )
        elif not (place / IDENTITY).exists():
            _report_other_runs(place, stage, json.loads(text))
            save_code(place, stage)
            files.write_text(place / IDENTITY, text)
        yield place
        if "DVC_STAGE" in os.environ:
            digests = {path.as_posix(): recorded.md5(path) for path in outputs}
            finished = {"stage": stage, "workspace": str(Path.cwd()), "outputs": digests}
            files.write_json(place / FINISHED, finished)
        else:
            _delete(place)


def delete_recorded() -> None:
    """Deletes the directories of finished stages whose outputs DVC has recorded."""
    # A deletion that was killed half-way left its renamed directory
    for deleted in root().glob(".*-*"):
        with contextlib.suppress(FileNotFoundError):
            files.remove(deleted)
    for path in root().glob(f"*/{FINISHED}"):
        with contextlib.suppress(files.Locked), files.lock(path.with_name(LOCK), "a stage"):
            if path.exists() and _is_recorded(path.parent):
                _delete(path.parent)


def _is_recorded(place: Path) -> bool:
    """Whether DVC can restore the outputs of a finished run without this directory: its cache holds
    them, and dvc.lock names them.

    dvc.lock alone is not enough: in a fresh clone it names outputs that this machine does not have.
    For an experiment whose temporary workspace is gone, the cache alone decides.
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


def path_of(stage: str, **identity: Any) -> Path:
    """The path of directory(), for a process that works under the lock of another."""
    return path_of_identity(stage, _identity(stage, identity))


def path_of_identity(stage: str, identity: str) -> Path:
    """The path that belongs to an identity, given as directory() writes it."""
    return root() / f"{stage}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def save_code(place: Path, stage: str) -> None:
    """Saves the text of a stage's code, so that `antimatter resume` can show what changed since."""
    code = closure.files(f"stages.{stage}")
    texts = {path.as_posix(): path.read_text(encoding="utf-8") for path in code}
    files.write_json(place / CODE, texts)


def adopted(place: Path) -> dict[str, Any]:
    """The entry `adopted` of a result whose work began under other code: that code, oldest first.

    Empty unless `antimatter resume` continued the work.
    """
    return {"adopted": files.read_json(place / ADOPTED, list)} if (place / ADOPTED).exists() else {}


def root() -> Path:
    """The folder of all resume directories."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".state"


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """How two identities differ, each as `name old -> new`; of a digest only the name."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            found += differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return found
    if old == new:
        return []
    change = f"{name} {old} -> {new}"
    return [change if len(change) < 80 else name.removeprefix("code.")]


def _identity(stage: str, values: dict[str, Any]) -> str:
    return json.dumps({"code": closure.digests(f"stages.{stage}"), **values}, sort_keys=True)


def _delete(place: Path) -> None:
    # Renamed first: a deletion that is killed half-way must not look like work to resume
    renamed = place.with_name(f".{place.name}")
    files.remove(renamed)
    os.rename(place, renamed)
    files.remove(renamed)


def _report_other_runs(place: Path, stage: str, mine: dict[str, Any]) -> None:
    for path in sorted(place.parent.glob(f"{stage}-*/{IDENTITY}")):
        folder = path.parent
        # A locked one is running, not unfinished
        if files.is_locked(folder / LOCK):
            continue
        theirs = files.read_json(path)
        different = differences(theirs, mine)
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        work = "unfinished work"
        if (folder / FINISHED).exists():
            work = "finished work that DVC did not record"
        fix = "undo that to resume it"
        if {**theirs, "code": None} == {**mine, "code": None}:
            fix = f"`antimatter resume {folder}` continues it with this code"
        print(
            f"note: {stage} starts from the beginning; {work} is in {folder}, which differs in "
            f"{', '.join(different[:3])}{more}: {fix}, or delete the folder",
            file=sys.stderr,
        )
