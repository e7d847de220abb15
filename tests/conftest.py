"""What several tests share: a small model, small token files, a tiny pipeline."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers import tiny_pipeline

from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT
from antimatter.pipeline import stage  # noqa: F401, before torch: it sets how threads wait, here and in what the tests start
from antimatter.tasks.config import EngineRuntime

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Of Chromium only what a test of a page needs; the rest would look for updates
CHROMIUM = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()


# Workers of the data stages and small trainings (helpers/forked.py) are forked from a process that
# has imported what they need, instead of importing it once each.
multiprocessing.set_forkserver_preload(
    [
        "antimatter.data.cleaning.pipeline",
        "antimatter.data.shards.writer",
        "antimatter.data.sources.collect",
        "antimatter.training.trainer",
        "torch._dynamo",  # every optimizer imports it
    ]
)

# The files whose tests wait for pipelines, experiments and servers. They begin first, so that none
# of
# them is left for the end, when the other processes have no more tests to take over.
FIRST = (
    "kaggle/test_kaggle.py",
    "verify/test_verify.py",
    "ladder/test_ladder.py",
    "pipeline/test_repro.py",
    "pipeline/test_guard_rails.py",
    "data/test_raw_stage.py",
    "tasks/test_executor.py",
    "training/test_distributed.py",
)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, as many tests wait for servers and deadlines."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return cores + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(here).as_posix()
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)


@pytest.fixture
def torch_as_before() -> Iterator[None]:
    """train() pins threads and determinism for its whole process."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="session")
def runtime() -> EngineRuntime:
    """One process; dataclasses.replace() makes others of it."""
    return EngineRuntime(
        executor="local", workers=1, address="", partition="", time_limit="00:10:00", memory_gb=1
    )


@pytest.fixture
def tiny_config() -> GPTConfig:
    return GPTConfig(
        n_layer=2,
        n_head=4,
        n_embd=32,
        block_size=16,
        negative_slope=0.01,
        dropout=0.0,
        tied_embeddings=True,
        seed=1,
        vocab_size=64,
    )


@pytest.fixture
def tiny_gpt(tiny_config: GPTConfig) -> GPT:
    return GPT(tiny_config).eval()


@pytest.fixture(scope="session")
def token_file() -> Callable[..., np.ndarray]:
    """Tokens with something to learn: each one follows from the one before, most of the time."""

    def make(length: int, vocabulary: int = 64, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        tokens = np.zeros(length, dtype=np.uint16)
        for i in range(1, length):
            tokens[i] = (
                (tokens[i - 1] * 5 + 3) % vocabulary
                if random.random() < 0.9
                else random.integers(vocabulary)
            )
        return tokens

    return make


@pytest.fixture(
    scope="module"
    # Not for the session: Playwright keeps an event loop running in this thread, where asyncio tests
    # want theirs
)
def browser() -> Iterator["Browser"]:
    """The system's Chromium, without a window. Where CI is set it must be there.

    Debian's chromium-headless-shell is the same engine without the parts of a desktop, which take
    four fifths of the time of an empty page.
    """
    from playwright.sync_api import expect, sync_playwright

    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if not executable:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        way_out = f"on Debian: apt-get install {names[0]}"
        say(f"none of {', '.join(names)} is on PATH, so pages are not tested; {way_out}")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout in which `dvc repro` has run at a tiny size, and its results are committed.

    All test processes share it: leave its files as they are, and run no DVC in it, which would lock it. `a_copy` is for
    that.
    """

    def make(folder: Path) -> None:
        tiny_pipeline.copy(folder / "antimatter")
        tiny_pipeline.dvc(folder / "antimatter", "repro", environment=tiny_pipeline.COLD)
        tiny_pipeline.commit(folder / "antimatter", "results")

    return tiny_pipeline.once(tmp_path_factory, "a folder with spaces", make) / "antimatter"


@pytest.fixture
def a_copy(made: Path, tmp_path: Path) -> Path:
    """The tiny pipeline with its data, models and cache, for a test to change."""
    return shutil.copytree(made, tmp_path / "a copy", symlinks=True)
