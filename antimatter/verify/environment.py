"""What sets two runs of the pipeline apart besides chance: parameters, code, packages, and what metrics/provenance.json tells of the machine."""

import json
from collections.abc import Collection, Mapping
from importlib import metadata
from typing import Any

from antimatter.pipeline import resume

PROVENANCE = "metrics/provenance.json"
# In PROVENANCE too, but dvc.lock has them for each stage
_LOCKED = {"code", "params", "data", "inputs"}


def stale(
    old: Mapping[str, Any], new: Mapping[str, Any], made: Collection[str], known: Collection[str]
) -> list[str]:
    """What a stage's entry in dvc.lock was made with and the commit no longer has, or not as this run used it.

    Args:
        old, new: the stage's entries in dvc.lock.
        made: outputs of the stages that ran before it, which are compared themselves.
        known: names of parameters that were changed on purpose.
    """
    before, after = (
        {entry["path"]: entry.get("md5") for entry in stage.get("deps", [])} for stage in (old, new)
    )
    found = [
        f"file {path} is not the one of dvc.lock"
        for path in after
        if path not in made and before.get(path) != after[path]
    ]
    changed = resume.differences(
        old.get("params", {}).get("params.yaml", {}), new.get("params", {}).get("params.yaml", {})
    )
    return found + [f"parameter {text}" for text in changed if text.split(" ")[0] not in known]


def packages(lock: str) -> list[str]:
    """Packages whose installed version is not the one of requirements.lock. One that is not installed was not needed, or a stage has said so."""
    found = []
    for line in lock.splitlines():
        name, separator, version = line.partition("==")
        if not separator or line.startswith("#"):
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if installed.partition("+")[0] != version.strip():  # torch 2.13.0+cpu is a build of 2.13.0
            found.append(f"package {name} {version.strip()} -> {installed}")
    return found


def provenance(old: bytes, new: bytes) -> list[str]:
    """What differs between two PROVENANCE files, besides what dvc.lock has too: libraries, the machine, whatever else it records."""
    try:
        found = resume.differences(json.loads(old), json.loads(new))
    except ValueError as error:
        return [f"{PROVENANCE} is not JSON: {error}"]
    return [text for text in found if not _LOCKED & set(text.split(" ")[0].split("."))]
