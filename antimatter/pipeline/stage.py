"""The entry point of a stage: paths from the command line, one line for an error of the user."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

from antimatter.errors import UserError, one_line
from antimatter.launch import inside
from antimatter.pipeline import check, resume


def run(main: Callable[..., None]) -> None:
    """Calls `main` with the paths of the command line, and ends with its status.

    Prints a UserError, or an error of the operating system, as one line and exits with status 1.
    ANTIMATTER_TRACEBACK=1 shows the traceback too. A paused stage exits with status 130, so that
    DVC does not take it for finished.
    """
    if status := _status(main):
        sys.exit(status)


def _status(main: Callable[..., None]) -> int:
    try:
        takes, given = list(inspect.signature(main).parameters), len(sys.argv) - 1
        if given != len(takes):
            raise UserError(f"the stage takes {len(takes)} paths ({', '.join(takes)}), got {given}")
        check.check_once()
        resume.delete_recorded()
        main(*map(Path, sys.argv[1:]))
        status = 0
    except InterruptedError as paused:
        # All processes of a training pause at the same step
        if os.environ.get("RANK", "0") == "0":
            print(paused, file=sys.stderr)
        status = 130
    except (UserError, OSError) as error:
        if os.environ.get("ANTIMATTER_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    # Any other exception is no report, as it may be the loss of another process
    inside.report(status)
    if status == 130 and inside.is_launched():
        # The report says it. At another status Slurm would end the processes that are still saving
        return 0
    return status
