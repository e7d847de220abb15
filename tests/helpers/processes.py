"""Other processes, by /proc."""

import contextlib
from pathlib import Path


def children(pid: int) -> list[int]:
    """The living child processes."""
    processes = _processes().items()
    return [child for child, (state, parent) in processes if parent == pid and state != "Z"]


def is_alive(pid: int) -> bool:
    return _processes().get(pid, ("Z", 0))[0] != "Z"


def _processes() -> dict[int, tuple[str, int]]:
    """The state and the parent of each process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            found[int(path.parent.name)] = (state, int(parent))
    return found
