"""Continues unfinished work under other code than it began with, on purpose and on record.

The code of a stage is part of a run's identity, so after a fix a training that was paused for days
would start from the beginning. adopt() renames its directory to the one that the present code looks
for, and records the earlier code; the stage writes that record into its results (resume.adopted).
"""

import difflib
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.errors import UserError, one_line
from antimatter.pipeline import closure, resume


@dataclass(frozen=True)
class Work:
    """A resume directory."""

    folder: Path
    stage: str
    identity: dict[str, Any]
    # Of the newest saved state of a training
    step: int | None
    # Finished, but not recorded by DVC
    is_finished: bool
    # The files of code that differ from those it began with
    changed: list[str]

    def line(self) -> str:
        """One line about it."""
        status = "finished, but not recorded by DVC" if self.is_finished else "unfinished"
        step = "" if self.step is None else f", at step {self.step:,}"
        code = "same code: `dvc repro` resumes it with its parameters and data"
        if self.changed:
            code = f"other code now: {', '.join(self.changed)}"
        return f"{self.folder}: {self.stage}, {status}{step}; {code}"


def works() -> list[Work]:
    """The resume directories that no process is using. One that is damaged is named on stderr."""
    found = []
    for path in sorted(resume.root().glob(f"[!.]*/{resume.IDENTITY}")):
        if files.is_locked(path.parent / resume.LOCK):
            continue
        try:
            found.append(work(path.parent))
        except (OSError, UserError) as error:
            print(f"warning: {one_line(error)}", file=sys.stderr)
    return found


def work(folder: Path) -> Work:
    """Reads a resume directory. Raises UserError if `folder` is none, or damaged."""
    folder = folder.resolve()
    if not (folder / resume.IDENTITY).is_file():
        raise UserError(f"{folder} has no unfinished work: `antimatter resume` lists what there is")
    stage = folder.name.rpartition("-")[0]
    if folder.parent != resume.root().resolve() or not Path(f"stages/{stage}.py").is_file():
        fix = "name one that `antimatter resume` lists"
        raise UserError(f"{folder} is not the unfinished work of a stage here: {fix}")
    identity = files.read_json(folder / resume.IDENTITY)
    before = identity.get("code")
    if not isinstance(before, dict):
        reason = "has no digests of code"
        raise UserError(f"{folder / resume.IDENTITY} {reason}: delete {folder} to start again")
    names = (path.stem.removeprefix("step-") for path in folder.glob("step-*.pt"))
    # Other files are no states, e.g. a copy that somebody made
    steps = [int(name) for name in names if name.isascii() and name.isdigit()]
    now = closure.digests(f"stages.{stage}")
    changed = sorted(name for name in before.keys() | now if before.get(name) != now.get(name))
    is_finished = (folder / resume.FINISHED).exists()
    return Work(folder, stage, identity, max(steps, default=None), is_finished, changed)


def diff(work: Work) -> Iterator[str]:
    """What has changed in the code since the work began, as a unified diff."""
    saved = work.folder / resume.CODE
    texts = files.read_json(saved) if saved.exists() else {}
    for name in work.changed:
        path = Path(name)
        before = str(texts.get(name, "")).splitlines(True)
        now = path.read_text(encoding="utf-8").splitlines(True) if path.is_file() else []
        yield from difflib.unified_diff(before, now, f"{name} (then)", f"{name} (now)")


def adopt(folder: Path) -> Path:
    """Continues the work in `folder` under the present code.

    Returns:
        The new path of the folder.

    Raises:
        UserError: it has no unfinished work, its code is the present one, or a run under the
            present code has begun too.
        Locked: a process is using it.
    """
    known = work(folder)
    folder = known.folder
    with files.lock(folder / resume.LOCK, f"a stage in {folder}"):
        if not known.changed:
            raise UserError(f"{folder} began with the present code: `dvc repro` resumes it")
        code = hashlib.sha256(json.dumps(known.identity["code"]).encode()).hexdigest()
        entry: dict[str, Any] = {"code": code, "changed": known.changed}
        if known.step is not None:
            entry["until_step"] = known.step
        now = closure.digests(f"stages.{known.stage}")
        identity = json.dumps({**known.identity, "code": now}, sort_keys=True)
        place = resume.path_of_identity(known.stage, identity)
        if (place / resume.IDENTITY).exists():
            raise UserError(
                f"{place} has a run that began under the present code: delete it to continue "
                f"{folder} instead"
            )
        files.remove(place)
        earlier = resume.adopted(folder).get("adopted", [])
        files.write_json(folder / resume.ADOPTED, [*earlier, entry])
        folder.rename(place)
        resume.save_code(place, known.stage)
        files.write_text(place / resume.IDENTITY, identity)
    return place
