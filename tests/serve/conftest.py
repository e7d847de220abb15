import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # serve_fuzz
from helpers import gguf_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gguf_model.Tiny]:
    yield gguf_model.make(tmp_path_factory.mktemp("tiny"))


OpenPage = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[OpenPage]:
    """Opens `url` in a fresh profile (or beside `tab`, in that page's) with Playwright's options for a context.

    At the end of the test: no page has asked another origin for anything, thrown an error, broken its Content-Security-Policy or opened a dialog.
    """
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_(url: str, tab: "Page | None" = None, init: str = "", **options: Any) -> "Page":
        origin = "/".join(url.split("/")[:3])
        if tab is None:
            contexts.append(browser.new_context(**options))
            contexts[-1].set_default_timeout(20_000)
        context = tab.context if tab else contexts[-1]
        page = context.new_page()
        if init:
            page.add_init_script(init)
        page.on(
            "request",
            lambda request: (
                request.url.startswith(f"{origin}/") or problems.append(f"asks {request.url}")
            ),
        )
        page.on("pageerror", lambda error: problems.append(f"throws {error}"))
        page.on(
            "console",
            lambda said: (
                said.type in ("error", "warning")
                and "Failed to load" not in said.text
                and problems.append(said.text)
            ),
        )
        page.on(
            "dialog",
            lambda dialog: (problems.append(f"opens a dialog: {dialog.message}"), dialog.dismiss()),
        )
        page.goto(url)
        # It has heard what the model is, or says why not: a test that asks sooner races with that
        page.locator("#empty h2:not(:empty), #status p:not(:empty)").first.wait_for(
            state="attached"
        )
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems
