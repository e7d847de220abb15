"""How a stage starts and how it fails: paths from the command line, one line for an error that a person can mend."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from antimatter.pipeline import check, resume

# Read by libgomp when torch is imported, which a stage does later. By default threads that wait
# spin for milliseconds; beside another busy
# process a training then stands still (benchmarks/contention.py). No stage's result depends on it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def run(main: Callable[..., None]) -> None:
    """Calls `main` with the command line's paths. An error that names its way out is printed as one line, without a traceback."""
    try:
        check.once()
        resume.forget_recorded()
        main(*map(Path, sys.argv[1:]))
    # No error: it says how to go on; but DVC must not take the stage for done
    except InterruptedError as paused:
        print(paused, file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("ANTIMATTER_TRACEBACK"):
            raise
        way_out = (
            ": free some space and run again, what is finished is kept"
            if "No space left" in str(error)
            else ""
        )
        print(f"error: {error}{way_out}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
