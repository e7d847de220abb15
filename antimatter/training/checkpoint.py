"""The whole training state on disk, from which a killed run resumes.

It lies outside of DVC's outs, because DVC deletes those before a stage runs.
"""

import pickle
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from antimatter import files
from antimatter.errors import UserError


class Checkpoints:
    """`step-<n>.pt` in a folder: the newest ones to resume from, and older ones to backtrack to."""

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        """
        Args:
            every: regular states are those of multiples of this step. A backtrack returns only to
                them, as the extra state of a pause must not change the result.
            keep: how many of the newest states are kept at least, in case one is damaged.
        """
        self.folder = folder
        self.every = every
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps. The older states are kept until it is complete.

        Raises:
            UserError: it cannot be written, for example because the disk is full. No older state
                is lost.
        """
        path = self.path(step)
        try:
            with files.replacing(path) as partial:
                torch.save(state, partial)
        # torch reports a full disk as RuntimeError
        except (OSError, RuntimeError) as error:
            sizes = [self.path(saved).stat().st_size for saved in self.steps()]
            free = shutil.disk_usage(self.folder).free
            reason = str(error).splitlines()[0]
            if free < max(sizes, default=0):
                reason = f"the disk has {free / 1e6:,.0f} MB left"
            newest = max(self.steps(), default=0)
            raise UserError(
                f"could not save {path}: {reason}; free some space and run again, it resumes from "
                f"step {newest:,}"
            ) from None

    def load(self, step: int) -> dict[str, Any]:
        """The state after `step` steps, on the CPU.

        Read by memory map: a second copy on the device would be 4 GB for 300M weights.

        Raises:
            UserError: it is not here, because this machine does not see the folder of the first.
        """
        path = self.path(step)
        if not path.is_file():
            raise UserError(
                f"{path} is missing on this machine: all machines of a training must share the "
                f"folder {self.folder}"
            )
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    def newest(self, regular_up_to: int | None = None) -> int | None:
        """The step of the newest whole state, or None in a folder without states.

        A damaged file is reported, renamed and skipped.

        Args:
            regular_up_to: consider only regular states up to this step.

        Raises:
            UserError: there were states, and all are damaged. Whether to start from the beginning
                is then the user's decision.
        """
        candidates = [
            step
            for step in self.steps()
            if regular_up_to is None or (step <= regular_up_to and self._is_regular(step))
        ]
        for step in reversed(candidates):
            path = self.path(step)
            reason = _damage(path)
            if reason is None:
                return step
            print(f"warning: {path} is damaged ({reason}): trying the one before", file=sys.stderr)
            path.rename(path.with_suffix(".damaged"))
        if any(self.folder.glob("step-*.damaged")):
            which = "every saved state"
            if regular_up_to is not None:
                which = f"every stable state (up to step {regular_up_to})"
            raise UserError(
                f"{which} in {self.folder} is damaged: restore one from a backup, or delete the "
                "folder to start from step 0"
            )
        return None

    def steps(self) -> list[int]:
        return sorted(
            int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.pt")
        )

    def stable(self, step: int, healthy: int, proven: int = 0) -> int | None:
        """The newest regular state that `healthy` steps without a spike have followed at `step`.

        Args:
            proven: states up to this step count as stable too, because the run returned to one of
                them before. By default only the untrained one.
        """
        candidates = (
            saved
            for saved in self.steps()
            if self._is_regular(saved) and (saved <= proven or saved + healthy <= step)
        )
        return max(candidates, default=None)

    def newest_stable(self, step: int, healthy: int, proven: int = 0) -> int | None:
        """As stable(), but whole."""
        stable = self.stable(step, healthy, proven)
        return None if stable is None else self.newest(regular_up_to=stable)

    def rotate(self, step: int, healthy: int, proven: int = 0) -> None:
        """Deletes the states older than the last stable one, except the newest `keep`.

        Younger ones are kept, as each may become the next stable one.
        """
        steps = self.steps()
        oldest = min(self.stable(step, healthy, proven) or 0, *steps[-self.keep :])
        for saved in steps:
            if saved < oldest:
                self.path(saved).unlink()

    def drop_after(self, step: int) -> None:
        for saved in self.steps():
            if saved > step:
                self.path(saved).unlink()

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def _is_regular(self, step: int) -> bool:
        return step % self.every == 0


def _damage(path: Path) -> str | None:
    """Why a state cannot be read, or None.

    Checks every byte: torch.load notices a missing end, but reads flipped bits as weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"the checksum of {broken} is wrong"
        torch.load(path, map_location="meta", weights_only=True)
    except (
        zipfile.BadZipFile,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None
