from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from helpers import gguf_model

if TYPE_CHECKING:
    from helpers.chat_page import OpenPage
    from helpers.fake_api import FakeApi
    from helpers.http_server import Served
    from playwright.sync_api import Browser, BrowserContext, Page

    from antimatter.serve.embedded import EmbeddedBackend


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> gguf_model.Tiny:
    return gguf_model.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def embedded(tiny: gguf_model.Tiny) -> "Iterator[EmbeddedBackend]":
    from antimatter.serve.embedded import EmbeddedBackend

    backend = EmbeddedBackend(tiny.path, 2048, parallel=4)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def served(embedded: "EmbeddedBackend") -> "Iterator[Served]":
    """A server of the embedded llama.cpp that has logged nothing at the end."""
    from helpers.http_server import serving

    with serving(embedded, parallel=4) as served:
        yield served
        assert served.log == []


@pytest.fixture
def api() -> "Iterator[FakeApi]":
    """A server with the chat page, whose answers a test writes."""
    from helpers.chat_page import serving
    from helpers.fake_api import FakeApi

    with serving(FakeApi()) as server:
        yield server


@pytest.fixture
def open_page(browser: "Browser") -> "Iterator[OpenPage]":
    """Opens `url` in a fresh profile, or in that of the page `tab`, with Playwright's options for a
    context.

    At the end of the test, no page has sent a request to another origin, thrown an error, violated
    its Content-Security-Policy or opened a dialog.
    """
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_(url: str, tab: "Page | None" = None, init: str = "", **options: Any) -> "Page":
        if tab is None:
            contexts.append(browser.new_context(**options))
            contexts[-1].set_default_timeout(20_000)
        page = (tab.context if tab else contexts[-1]).new_page()
        if init:
            page.add_init_script(init)
        _watch(page, "/".join(url.split("/")[:3]), problems)
        page.goto(url)
        # It knows the model, or says why not: a test that begins earlier would race with that
        loaded = page.locator("#empty h2:not(:empty), #status p:not(:empty)")
        loaded.first.wait_for(state="attached")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems


def _watch(page: "Page", origin: str, problems: list[str]) -> None:
    def on_request(request: Any) -> None:
        # A blob: is what the page itself has written
        if not request.url.removeprefix("blob:").startswith(f"{origin}/"):
            problems.append(f"requests {request.url}")

    def on_console(message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load" not in message.text:
            problems.append(message.text)

    def on_dialog(dialog: Any) -> None:
        problems.append(f"opens a dialog: {dialog.message}")
        dialog.dismiss()

    page.on("request", on_request)
    page.on("pageerror", lambda error: problems.append(f"throws {error}"))
    page.on("console", on_console)
    page.on("dialog", on_dialog)
