"""What differs between two runs of the pipeline besides chance: parameters, code, packages, and the
machine that metrics/checkpoints/provenance.json describes.
"""

import json
from collections.abc import Collection, Mapping
from importlib import metadata
from typing import Any

from antimatter.pipeline import resume

PROVENANCE = "metrics/checkpoints/provenance.json"
# In PROVENANCE too, but dvc.lock has them for each stage
_LOCKED = {"code", "params", "data", "inputs"}


def changed_inputs(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    reproduced: Collection[str],
    overridden: Collection[str],
) -> list[str]:
    """Inputs of a stage that this run read, and that differ from those recorded in dvc.lock.

    Args:
        old, new: the stage's entries in dvc.lock, as committed and of this run.
        reproduced: paths that this run has computed; they are compared as outputs.
        overridden: names of parameters that were changed on purpose.
    """
    before, after = (
        {entry["path"]: entry.get("md5") for entry in stage.get("deps", [])} for stage in (old, new)
    )
    changed = [
        f"file {path} is not the one of dvc.lock"
        for path in after
        if path not in reproduced and before.get(path) != after[path]
    ]
    old_values, new_values = (
        stage.get("params", {}).get("params.yaml", {}) for stage in (old, new)
    )
    parameters = resume.differences(old_values, new_values)
    return changed + [f"parameter {p}" for p in parameters if p.split(" ")[0] not in overridden]


def packages(lock: str) -> list[str]:
    """Packages whose installed version differs from requirements.lock. A package that is not
    installed does not count: a stage that needed it would have failed.
    """
    changed = []
    for line in lock.splitlines():
        name, separator, version = line.partition("==")
        if not separator or line.startswith("#"):
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        # torch 2.13.0+cpu is a build of 2.13.0
        if installed.partition("+")[0] != version.strip():
            changed.append(f"package {name} {version.strip()} -> {installed}")
    return changed


def provenance(old: bytes, new: bytes) -> list[str]:
    """Differences between two PROVENANCE files besides what dvc.lock has: libraries, machine."""
    try:
        changed = resume.differences(json.loads(old), json.loads(new))
    except ValueError as error:
        return [f"{PROVENANCE} is not JSON: {error}"]
    return [text for text in changed if not _LOCKED & set(text.split(" ")[0].split("."))]
