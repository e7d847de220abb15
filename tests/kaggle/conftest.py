import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import kaggle_machine
from helpers.kaggle_machine import Machine
from helpers.tiny_pipeline import copy


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    """Makes machines, and asserts at the end that they are clean."""
    if not kaggle_machine.may_confine():
        pytest.skip("root may not confine itself here: run the tests as another user")
    machines: list[Machine] = []

    def make(name: str) -> Machine:
        machines.append(Machine(tmp_path / name))
        return machines[-1]

    yield make
    for each in machines:
        each.check_clean()
        each.root.chmod(0o755)  # or it cannot be deleted


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with tiny parameters, in which nothing has run."""
    return copy(tmp_path_factory.mktemp("kaggle") / "antimatter")


@pytest.fixture(scope="package")
def trained(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkout, in which `dvc repro` has run undisturbed."""
    return shutil.copytree(
        tiny_pipeline, tmp_path_factory.mktemp("trained") / "antimatter", symlinks=True
    )
