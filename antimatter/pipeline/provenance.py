"""What made a model, written into it by the stage that makes it.

Only what decides its bytes can stand in there: the code, the parameters, the data, the libraries and the kind of machine. A Git commit cannot,
because dvc.lock, which belongs to the commit, holds the hash of the model; repository/history.py finds it from there (docs/decisions/0025).
"""

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from antimatter import params
from antimatter.pipeline import closure


def of(
    stage: str, sections: Sequence[str], data: Mapping[str, str], machine: Mapping[str, Any]
) -> dict[str, Any]:
    """The provenance of what a stage makes.

    Args:
        sections: of params.yaml that the stage depends on.
        data: sha256 of what it reads, by name.
        machine: on what it is made, as far as that decides about bits.

    Returns:
        code: sha256 over the names and contents of the files that the stage is made of.
        params, data, machine: as given.
        libraries: what those files import, and its version, without the local part that tells builds apart (`+cpu`).
    """
    values, module = params.load(), f"stages.{stage}"
    return {
        "code": hashlib.sha256(json.dumps(closure.digests(module)).encode()).hexdigest(),
        "params": {section: values[section] for section in sections},
        "data": dict(data),
        "libraries": {
            name: str(importlib.import_module(name).__version__).split("+")[0]
            for name in closure.libraries(module)
        },
        "machine": dict(machine),
    }
