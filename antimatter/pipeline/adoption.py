"""Lets unfinished work go on under other code than it was begun with: on purpose, and on record.

A run's identity holds all code of its stage, so after a fix a paused training of days would start
afresh. adopt() renames its folder to what the present code looks for, and notes the code before;
the stage writes the note into what it leaves (state.adopted).
"""

import difflib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.errors import UserError
from antimatter.pipeline import closure, resume


@dataclass(frozen=True)
class Work:
    """A folder of .state."""

    folder: Path
    stage: str
    identity: dict[str, Any]
    step: int | None  # of the newest saved state of a training
    is_finished: bool  # and not recorded by DVC
    changed: list[str]  # files of code that are not as they were

    def line(self) -> str:
        """One line for people."""
        how = "finished, but not recorded by DVC" if self.is_finished else "unfinished"
        step = "" if self.step is None else f", at step {self.step:,}"
        code = "same code: `dvc repro` resumes it with its parameters and data"
        if self.changed:
            code = f"other code now: {', '.join(self.changed)}"
        return f"{self.folder}: {self.stage}, {how}{step}; {code}"


def works() -> list[Work]:
    """What lies in .state and is not being worked at."""
    found = sorted(resume.root().glob(f"[!.]*/{resume.IDENTITY}"))
    return [work(path.parent) for path in found if not files.is_locked(path.with_name(resume.LOCK))]


def work(folder: Path) -> Work:
    """What a folder holds. Raises FileNotFoundError if that is no unfinished work."""
    folder = folder.resolve()
    if not (folder / resume.IDENTITY).is_file():
        fix = "`antimatter resume` lists what there is"
        raise FileNotFoundError(f"{folder} holds no unfinished work: {fix}")
    stage, identity = folder.name.rpartition("-")[0], files.read_json(folder / resume.IDENTITY)
    steps = [int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt")]
    then, now = identity["code"], closure.digests(f"stages.{stage}")
    changed = sorted(name for name in then.keys() | now if then.get(name) != now.get(name))
    is_finished = (folder / resume.FINISHED).exists()
    return Work(folder, stage, identity, max(steps, default=None), is_finished, changed)


def diff(work: Work) -> Iterator[str]:
    """What has changed in the code since the work was begun, as a unified diff."""
    texts = (
        files.read_json(work.folder / resume.CODE) if (work.folder / resume.CODE).exists() else {}
    )
    for name in work.changed:
        old, path = texts.get(name, ""), Path(name)
        new = path.read_text(encoding="utf-8") if path.is_file() else ""
        then, now = old.splitlines(True), new.splitlines(True)
        yield from difflib.unified_diff(then, now, f"{name} (then)", f"{name} (now)")


def adopt(folder: Path) -> Path:
    """Lets the work in `folder` go on under the present code; where it lies then.

    Raises:
        FileNotFoundError: there is no unfinished work in it.
        FileExistsError: a run under the present code has begun too.
        BlockingIOError: a process works in it.
        ValueError: its code is the present one.
    """
    known = work(folder)
    folder = known.folder
    with files.lock(folder / resume.LOCK, f"a stage in {folder}"):
        if not known.changed:
            raise UserError(f"{folder} needs no consent, its code is as it was: run `dvc repro`")
        code = hashlib.sha256(json.dumps(known.identity["code"]).encode()).hexdigest()
        note: dict[str, Any] = {"code": code, "changed": known.changed}
        if known.step is not None:
            note["until_step"] = known.step
        now = closure.digests(f"stages.{known.stage}")
        identity = json.dumps({**known.identity, "code": now}, sort_keys=True)
        place = resume.place_of(known.stage, identity)
        if (place / resume.IDENTITY).exists():
            fix = "delete it if this one is to go on instead"
            raise FileExistsError(
                f"{place} holds a run that was begun under the present code: {fix}"
            )
        files.remove(place)
        before = resume.record(folder).get("adopted", [])
        files.write_json(folder / resume.ADOPTED, [*before, note])
        folder.rename(place)
        resume.note_code(place, known.stage)
        files.write_text(place / resume.IDENTITY, identity)
    return place
