from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import gguf_model
from helpers.command import ROOT

from antimatter import params
from antimatter.export.ollama import OllamaConfig


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with params.yaml and a model, as `dvc repro` leaves them."""
    folder = tmp_path_factory.mktemp("a project")
    assert params.read(OllamaConfig, "ollama", ROOT / "params.yaml").type == "f16"
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    gguf_model.make(folder / "models" / "gguf")
    yield folder
