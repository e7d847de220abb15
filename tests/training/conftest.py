from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def torch_as_before() -> Iterator[None]:
    """train() pins threads and determinism for its whole process."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
