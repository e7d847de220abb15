"""The whole training state on disk, so that a killed run goes on where it was. It lives outside DVC's outs, which DVC deletes before a stage."""

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
            every: regular states stand at multiples of this step. Only they are backtracked to: the extra one of a pause must not change the result.
            keep: the newest states that stay at least, in case one is damaged.
        """
        self.folder = folder
        self.every = every
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps. Until the write is complete the older states stand.

        Raises:
            OSError: the disk is full, say; nothing that was there is lost.
        """
        path = self.path(step)
        try:
            with files.replacing(path) as partial:
                torch.save(state, partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            free, needed = (
                shutil.disk_usage(self.folder).free,
                max((self.path(saved).stat().st_size for saved in self.steps()), default=0),
            )
            reason = (
                f"the disk has {free / 1e6:,.0f} MB left"
                if free < needed
                else str(error).splitlines()[0]
            )
            raise OSError(
                f"could not save {path}: {reason}; free some space and run again, it goes on from step {max(self.steps(), default=0):,}"
            ) from None

    def load(self, step: int) -> dict[str, Any]:
        """The state after `step` steps, on the CPU, read by memory map: a second copy on the device would be 4 GB at 300M.

        Raises:
            FileNotFoundError: it is not here; for a machine of several that does not see the folder of the first.
        """
        path = self.path(step)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing on this machine: all machines of a training must see one folder {self.folder}"
            )
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    def newest(self, regular_up_to: int | None = None) -> int | None:
        """The step of the newest state that is whole, or None in a folder without any. A damaged file is named, put aside and passed over.

        Args:
            regular_up_to: look at regular states up to this step only.

        Raises:
            ValueError: there were states, and all are damaged. To begin anew then is the user's decision.
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
            print(
                f"warning: {path} is damaged ({reason}): going back to the one before",
                file=sys.stderr,
            )
            path.rename(path.with_suffix(".damaged"))
        if any(self.folder.glob("step-*.damaged")):
            which = (
                "every saved state"
                if regular_up_to is None
                else f"every stable state (up to step {regular_up_to})"
            )
            raise UserError(
                f"{which} in {self.folder} is damaged: restore one from a backup, or delete the folder to begin at step 0"
            )
        return None

    def steps(self) -> list[int]:
        return sorted(
            int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.pt")
        )

    def stable(self, step: int, healthy: int, proven: int = 0) -> int | None:
        """The newest regular state, seen from `step`, that `healthy` steps without a spike
        followed.

        Args:
            proven: states up to this step count as stable too: those that the run went back to. By
                default only the untrained one.
        """
        return max(
            (
                saved
                for saved in self.steps()
                if self._is_regular(saved) and (saved <= proven or saved + healthy <= step)
            ),
            default=None,
        )

    def newest_stable(self, step: int, healthy: int, proven: int = 0) -> int | None:
        """As stable(), but whole."""
        stable = self.stable(step, healthy, proven)
        return None if stable is None else self.newest(regular_up_to=stable)

    def rotate(self, step: int, healthy: int, proven: int = 0) -> None:
        """Drops what is older than the last stable state, but for the newest `keep`. Younger ones stay: each may be the next that is stable."""
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
    """Why a state cannot be read, or None. Checks every byte: torch.load sees a missing end, but takes flipped bits for weights."""
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
