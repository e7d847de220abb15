import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # serve_fuzz
sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny_gguf is shared by export, serve and test_cli
import tiny_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny_gguf.Tiny]:
    yield tiny_gguf.make(tmp_path_factory.mktemp("tiny"))
