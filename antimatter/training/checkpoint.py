"""The whole training state on disk, so that a killed run goes on where it was. It lives outside DVC's outs, which DVC deletes before a stage."""

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from antimatter import files


class Checkpoints:
    """`step-<n>.pt` in a folder: the newest ones to resume from, and older ones to backtrack to."""

    def __init__(self, folder: Path, every: int) -> None:
        """
        Args:
            every: regular states stand at multiples of this step. Only they are backtracked to: the extra one of a pause must not change the result.
        """
        self.folder = folder
        self.every = every

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps. Until the write is complete the older states stand.

        Raises:
            OSError: the disk is full, say; nothing that was there is lost.
        """
        path = self._path(step)
        try:
            with files.replacing(path) as partial:
                torch.save(state, partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OSError(
                f"could not save {path}: {error}; free some space and run again, it goes on from step {max(self.steps(), default=0)}"
            ) from None

    def load(self, step: int, device: torch.device) -> dict[str, Any]:
        return torch.load(self._path(step), map_location=device, weights_only=True)

    def newest(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state that can be read, or None where there is none. A damaged file is named, removed and passed over."""
        for step in sorted(self.steps(), reverse=True):
            try:
                return self.load(step, device)
            except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                print(f"warning: {self._path(step)} is damaged ({reason}): going back to the one before", file=sys.stderr)
                self._path(step).unlink()
        return None

    def steps(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.pt"))

    def stable(self, step: int, healthy: int) -> int | None:
        """The newest regular state that `healthy` steps without a spike followed, seen from `step`. The untrained state is always stable."""
        regular = (saved for saved in self.steps() if saved % self.every == 0)
        return max((saved for saved in regular if saved == 0 or saved + healthy <= step), default=None)

    def rotate(self, step: int, healthy: int) -> None:
        """Drops what is older than the last stable state."""
        oldest = self.stable(step, healthy) or 0
        for saved in self.steps():
            if saved < oldest:
                self._path(saved).unlink()

    def drop_after(self, step: int) -> None:
        for saved in self.steps():
            if saved > step:
                self._path(saved).unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"
