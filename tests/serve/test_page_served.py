"""The chat page as `antimatter serve` sends it, with a real model behind it, in a real browser."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from helpers.gguf_model import Tiny
from playwright.sync_api import Page, expect
from test_engine import CONFIG
from test_server import serving

from antimatter.serve.backend import EmbeddedEngine

TOKEN = "a-token-of-enough-letters"


def send(page: Page, text: str) -> None:
    page.get_by_label("Your text").fill(text)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_conversation_with_the_model(
    tiny: Tiny, open_page: Callable[..., Page], token: str | None
) -> None:
    engine = EmbeddedEngine(tiny.path, 64)
    try:
        with serving(engine, token=token) as served:
            page = open_page(
                f"http://127.0.0.1:{served.port}/" + (f"#token={token}" if token else "")
            )
            expect(page.get_by_text("embedded llama.cpp")).to_be_visible()
            assert "token" not in page.url  # nor in the history, nor in a screenshot
            send(page, "The function returns")
            expected = "".join(
                engine.stream("The function returns", replace(CONFIG, num_predict=20), 20)
            )
            expect(page.locator(".answer").last).to_have_text(expected, use_inner_text=False)
            expect(page.locator(".note").last).to_have_text(
                re.compile(r"20 tokens · [\d.,]+ tokens/s · stopped at its length")
            )
            send(page, "many words " * 100)
            expect(page.get_by_text("shorten it")).to_be_visible()
            page.reload()
            expect(page.locator(".answer").first).to_have_text(expected, use_inner_text=False)
    finally:
        engine.close()


def test_what_was_held_back_for_a_stop_text_is_on_the_page(
    tiny: Tiny, open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EmbeddedEngine(tiny.path, 64)
    try:
        expected = "".join(engine.stream("The function returns", CONFIG, 20))
        monkeypatch.setattr("test_server.CONFIG", replace(CONFIG, stop=(f"{expected[-1]}ZZ",)))
        with serving(engine) as served:
            page = open_page(f"http://127.0.0.1:{served.port}/")
            send(page, "The function returns")
            expect(page.locator(".answer").last).to_have_text(expected, use_inner_text=False)
    finally:
        engine.close()


def test_without_the_token_the_page_asks_for_it_and_goes_on(
    tiny: Tiny, open_page: Callable[..., Page]
) -> None:
    engine = EmbeddedEngine(tiny.path, 64)
    try:
        with serving(engine, token=TOKEN) as served:
            page = open_page(f"http://127.0.0.1:{served.port}/")
            page.get_by_role("textbox", name="Token").fill(TOKEN)
            page.keyboard.press("Enter")
            expect(page.get_by_text("embedded llama.cpp")).to_be_visible()
            send(page, "The function")
            expect(page.locator(".note").last).to_have_text(re.compile("tokens/s"))
    finally:
        engine.close()
