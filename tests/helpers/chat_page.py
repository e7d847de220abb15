"""What a test does on the chat page, and sees there."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from playwright.sync_api import Locator, Page, expect

from helpers.fake_api import MODEL, FakeApi

OpenPage = Callable[..., Page]  # the fixture open_page
KEY = "antimatter.1.{}:/"
STORED = {
    "asked": "What was",
    "answer": " said before.",
    "note": "3 tokens",
    "failure": "",
    "more": False,
}
CHAT_MODEL = MODEL | {
    "kind": "chat",
    "system": "Be kind.",
    "greeting": "Hello! <b>I</b> am é.",
    "starters": ["Who are you?", "What can you do?", "Thanks, bye!"],
}


@contextmanager
def serving(server: FakeApi) -> Iterator[FakeApi]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def models(*values: dict[str, Any]) -> list[bytes]:
    """The answer to /v1/models."""
    return [json.dumps({"object": "list", "data": values}).encode()]


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your text").fill(text)
    page.keyboard.press("Enter")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def answered(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator(".answer").last).to_have_text(text)
    expect(button(page, "Send")).to_be_visible()


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def stored(page: Page, name: str = "conversation") -> Any:
    value = page.evaluate("key => localStorage.getItem(key)", KEY.format(name))
    return json.loads(value or "null")


def store(**items: Any) -> str:
    """A script that puts these into the storage before the page runs, once."""
    texts = {
        KEY.format(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in items.items()
    }
    return f"""
        if (!localStorage.length)
            for (const [key, value] of Object.entries({json.dumps(texts)}))
                localStorage.setItem(key, value);
    """
