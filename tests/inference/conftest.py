from collections.abc import Iterator

import pytest
from helpers import gguf_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gguf_model.Tiny]:
    yield gguf_model.make(tmp_path_factory.mktemp("tiny"))
