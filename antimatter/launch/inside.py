"""What a process of a training knows when a cluster has started it, and what it reports.

The process that submitted the training is on another machine. The two share nothing but the folder
of the attempt, in .state.
"""

import os
from pathlib import Path

from antimatter import files
from antimatter.errors import UserError

# In the environment of a process that a cluster has started: the folder of the attempt, and the
# name of the resume directory that the submitting process expects
ATTEMPT, TRAINING = "ANTIMATTER_ATTEMPT", "ANTIMATTER_TRAINING"
# In the environment of a process that must end with the one that started it: the id of that one
PARENT = "ANTIMATTER_PARENT"
# The report of a process that has lost another one
LOST = 75


def is_launched() -> bool:
    """Whether a cluster has started this process. It must train, and never submit again."""
    return ATTEMPT in os.environ


def report(status: int) -> None:
    """Records how this process ends: with 0, 1 (an error of the user), 130 (paused) or LOST.

    A process that was killed reports nothing.
    """
    if is_launched():
        rank = os.environ.get("RANK", "0")
        files.write_text(Path(os.environ[ATTEMPT]) / f"status-{rank}", f"{status}\n")


def statuses(attempt: Path) -> dict[str, int]:
    """What the processes of an attempt have reported, by rank."""
    found = {}
    for path in attempt.glob("status-*"):
        # A job script does not write it as a whole, so it may be empty for a moment
        if text := path.read_text(encoding="utf-8").strip():
            found[path.name.removeprefix("status-")] = int(text)
    return found


def is_over(attempt: Path) -> bool:
    """Whether the reports say that the training has ended, whatever other processes still do."""
    found = statuses(attempt)
    # Others end before the first one, which still writes the outputs
    return "0" in found or bool({1, LOST} & {*found.values()})


def check(states: Path) -> None:
    """Raises UserError if this is not the training that was submitted.

    A job may wait in the queue for hours, and params.yaml may be edited in between.
    """
    expected = os.environ.get(TRAINING, states.name)
    if states.name != expected:
        raise UserError(
            "params.yaml, the code or the data changed after this job was submitted: "
            "run `dvc repro` again for the new values, or undo the change"
        )
