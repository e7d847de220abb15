"""A hub on loopback with small copies of two data sets, and processes that read from it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from helpers import hub_reader, hub_server
from helpers.hub_data import C4, WEB, c4, refinedweb
from helpers.hub_reader import Reader, contents

from antimatter.data.sources.hub import Lane


@pytest.fixture(scope="module")
def server() -> Iterator[hub_server.Hub]:
    with hub_server.running({C4.name: c4(4), WEB.name: refinedweb(5)}) as server:
        yield server


@pytest.fixture
def no_faults(server: hub_server.Hub) -> Iterator[None]:
    yield
    server.faults.clear()


@pytest.fixture(scope="module")
def start(
    server: hub_server.Hub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Reader]]:
    with ExitStack() as readers:

        def start(endpoint: str = server.url) -> Reader:
            home = tmp_path_factory.mktemp("home")
            return readers.enter_context(hub_reader.started(endpoint, home))

        yield start


@pytest.fixture(scope="module")
def reader(start: Callable[..., Reader]) -> Reader:
    return start()


@pytest.fixture(scope="module")
def undisturbed(
    reader: Reader, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Lane], dict[str, bytes]]:
    """Two lanes of each layout, and the files that they leave."""
    folder = tmp_path_factory.mktemp("undisturbed")
    lanes = reader.lanes(C4, replace(WEB, weight=2.0), total_mb=0.36)
    reader.read_all(lanes, folder)
    assert len(contents(folder)) == 2 * 3 + 2 * 6
    return lanes, contents(folder)
