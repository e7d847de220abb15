"""What several tests share: a small model, small token files, a tiny pipeline."""

from collections.abc import Callable
from pathlib import Path

import a_pipeline
import numpy as np
import pytest

from antimatter import stage  # noqa: F401, before torch: it sets how threads wait, here and in what the tests start
from antimatter.data.engine import EngineRuntime
from antimatter.model.gpt import GPT, GPTConfig


@pytest.fixture(scope="session")
def runtime() -> EngineRuntime:
    """One process; dataclasses.replace() makes others of it."""
    return EngineRuntime(executor="local", workers=1, address="", partition="", time_limit="00:10:00", memory_gb=1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole pipeline at a tiny size, made once: a repository with its results committed. Who changes it puts it back, or works in a copy."""
    return a_pipeline.make(tmp_path_factory.mktemp("a folder with spaces") / "antimatter")


@pytest.fixture
def tiny_config() -> GPTConfig:
    return GPTConfig(n_layer=2, n_head=4, n_embd=32, block_size=16, negative_slope=0.01, dropout=0.0, tied_embeddings=True, seed=1, vocab_size=64)


@pytest.fixture
def tiny_gpt(tiny_config: GPTConfig) -> GPT:
    return GPT(tiny_config).eval()


@pytest.fixture
def token_file() -> Callable[..., np.ndarray]:
    """Tokens with something to learn: each one follows from the one before, most of the time."""

    def make(length: int, vocabulary: int = 64, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        tokens = np.zeros(length, dtype=np.uint16)
        for i in range(1, length):
            tokens[i] = (tokens[i - 1] * 5 + 3) % vocabulary if random.random() < 0.9 else random.integers(vocabulary)
        return tokens

    return make
