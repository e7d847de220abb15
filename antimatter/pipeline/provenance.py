"""The provenance of a model, which the stage that makes it writes into it.

Only what decides its bytes can be part of it: the code, the parameters, the data, the libraries
and the kind of machine. A Git commit cannot, because dvc.lock, which belongs to the commit,
contains the hash of the model. antimatter/repository/history.py finds the commit from there
(docs/decisions/0025).
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
        sections: the sections of params.yaml on which the stage depends.
        data: the sha256 of its inputs, by name.
        machine: what of the machine decides bits.

    Returns:
        code: sha256 over what the files of the stage compute (closure.digests).
        params, data, machine: as given.
        libraries: the versions of the packages that those files import, without the local part
            that tells builds apart (`+cpu`).
    """
    values, module = params.load(), f"stages.{stage}"
    versions = {
        name: str(importlib.import_module(name).__version__).split("+")[0]
        for name in closure.libraries(module)
    }
    return {
        "code": hashlib.sha256(json.dumps(closure.digests(module)).encode()).hexdigest(),
        "params": {section: values[section] for section in sections},
        "data": dict(data),
        "libraries": versions,
        "machine": dict(machine),
    }


def nearest(provenance: Mapping[str, Any], section: str, key: str) -> Any:
    """A value of the provenance, or else of that of the weights from which the training started.

    None if neither has it.
    """
    while key not in provenance.get(section, {}):
        if "initial" not in provenance:
            return None
        provenance = provenance["initial"]
    return provenance[section][key]
