"""Fixtures of several folders: a small model, small token files, a tiny pipeline, a browser."""

# Before torch: it sets how threads wait, here and in the processes that tests start
import stages  # noqa: F401

# isort: split
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers.tiny_pipeline import commit, copy, dvc, once

from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT
from antimatter.tasks.config import TasksRuntime

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Chromium without its background services, which would look for updates
CHROMIUM = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]

# A shell ignores SIGINT in its background jobs, and nohup SIGHUP; what tests start would inherit it
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Workers of the data stages and small trainings (helpers/forked.py) are forks of a process that has
# imported their modules, so that not each of them imports torch
multiprocessing.set_forkserver_preload(
    [
        "antimatter.data.cleaning.pipeline",
        "antimatter.data.shards.writer",
        "antimatter.data.sources.collect",
        "antimatter.training.trainer",
        # Every optimizer imports it
        "torch._dynamo",
    ]
)

# The files whose tests wait for pipelines, experiments and servers. They start first, so that no
# process is still busy with one of them when the others have no more tests
FIRST = (
    "kaggle/test_session.py",
    "verify/test_verify.py",
    "ladder/test_ladder.py",
    "pipeline/test_repro.py",
    "pipeline/test_guard_rails.py",
    "data/sources/test_raw_stage.py",
    "launch/test_real_slurm.py",
    "launch/test_training_on_nodes.py",
    "tasks/test_executor.py",
    "training/test_distributed.py",
)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, as many tests wait for servers and deadlines."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) + 1
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    missing = [name for name in FIRST if not (here / name).is_file()]
    assert not missing, f"tests/conftest.py puts {missing} first, which are not there"

    def position(item: pytest.Item) -> int:
        name = item.path.relative_to(here).as_posix()
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=position)


@pytest.fixture
def torch_as_before() -> Iterator[None]:
    """Restores the threads and the determinism that a Trainer sets for its whole process."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="session")
def runtime() -> TasksRuntime:
    """One process on this machine."""
    return TasksRuntime(
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
        residual_scale=1.0,
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
    """Tokens with a rule to learn: nine in ten follow from the token before, others are random."""

    def make(length: int, vocabulary: int = 64, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        tokens = np.zeros(length, dtype=np.uint16)
        for i in range(1, length):
            if random.random() < 0.9:
                tokens[i] = (tokens[i - 1] * 5 + 3) % vocabulary
            else:
                tokens[i] = random.integers(vocabulary)
        return tokens

    return make


# Not for the session: Playwright runs an event loop in this thread, where asyncio tests need theirs
@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The system's Chromium, without a window. It must be installed where CI is set.

    Debian's chromium-headless-shell is the same engine without the code for a desktop, which takes
    four fifths of the time of an empty page.
    """
    from playwright.sync_api import expect, sync_playwright

    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if not executable:
        end = pytest.fail if os.environ.get("CI") else pytest.skip
        fix = f"on Debian: apt-get install {names[0]}"
        end(f"none of {', '.join(names)} is on PATH, so pages are not tested; {fix}")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout after `dvc repro` at a tiny size, with committed results.

    All test processes share it. Do not change its files, and run no DVC in it, which would lock it:
    `a_copy` is for that.
    """

    def make(folder: Path) -> None:
        copy(folder / "antimatter")
        dvc(folder / "antimatter", "repro")
        commit(folder / "antimatter", "results")

    return once(tmp_path_factory, "a folder with spaces", make) / "antimatter"


@pytest.fixture
def a_copy(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """The tiny pipeline with its data, models and cache, for one test, which may change it."""
    return shutil.copytree(tiny_pipeline, tmp_path / "a copy", symlinks=True)
