"""Where unfinished work lives: outside of DVC's outs, which DVC deletes before a stage runs."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antimatter import closure, files


@contextmanager
def kept(stage: str, *identity: object) -> Iterator[Path]:
    """Yields the folder in which a run of exactly this stage's code and these values (parameters, inputs) keeps what it has done.

    It goes when the block ends well and stays when it does not, so that the next call goes on from there. It lies under the main repository, also in
    `dvc exp run --temp`. `runtime` belongs in no identity: a run may go on with other workers, or on another machine.

    Raises:
        BlockingIOError: another process is at the same work.
    """
    name = hashlib.sha256(json.dumps([closure.digest(f"stages.{stage}"), *identity], sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".state" / f"{stage}-{name}"
    with files.lock(folder / "lock", holder=f"the stage {stage} with these parameters"):
        yield folder
        gone = folder.with_name(f".{folder.name}")  # a removal that is killed in the middle must not look like work to go on with
        files.remove(gone)
        os.rename(folder, gone)
        files.remove(gone)


def fingerprint(folder: Path, pattern: str) -> list[tuple[str, str]]:
    """The files of a folder as an identity: (name, sha256), by name."""
    return [(path.name, files.sha256(path)) for path in sorted(folder.glob(pattern))]
