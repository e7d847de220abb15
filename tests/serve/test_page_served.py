"""The chat page as `antimatter serve` sends it, with a real model, in a real browser."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from helpers.backends import CONFIG, ScriptedBackend, complete
from helpers.chat_page import OpenPage, ask, button
from helpers.fake_api import FakeApi
from helpers.gguf_model import Tiny
from helpers.http_server import CHAT, serving
from playwright.sync_api import Browser, Page, expect

from antimatter.serve.embedded import EmbeddedBackend

TOKEN = "a-token-of-enough-letters"
TEXT = "The function returns"


@pytest.fixture
def embedded(tiny: Tiny) -> Iterator[EmbeddedBackend]:
    backend = EmbeddedBackend(tiny.path, 64)
    yield backend
    backend.close()


def send(page: Page, text: str) -> None:
    ask(page, text)
    expect(button(page, "Send")).to_be_visible()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_conversation_with_the_model(
    embedded: EmbeddedBackend, open_page: OpenPage, token: str | None
) -> None:
    expected, _ = complete(embedded, TEXT)
    with serving(embedded, token=token) as served:
        fragment = f"#token={token}" if token else ""
        page = open_page(f"http://127.0.0.1:{served.port}/{fragment}")
        expect(page.get_by_text("embedded llama.cpp")).to_be_visible()
        # Nor is it in the history or in a screenshot
        assert "token" not in page.url
        send(page, TEXT)
        expect(page.locator(".answer").last).to_have_text(expected, use_inner_text=False)
        note = re.compile(r"20 tokens · [\d.,]+ tokens/s · stopped at its length")
        expect(page.locator(".note").last).to_have_text(note)
        send(page, "many words " * 100)
        expect(page.get_by_text("shorten it")).to_be_visible()
        page.reload()
        expect(page.locator(".answer").first).to_have_text(expected, use_inner_text=False)


def test_text_held_back_for_a_stop_text_is_on_the_page(
    embedded: EmbeddedBackend, open_page: OpenPage
) -> None:
    expected, _ = complete(embedded, TEXT)
    defaults = replace(CONFIG, stop=(f"{expected[-1]}ZZ",))
    with serving(embedded, defaults=defaults) as served:
        page = open_page(f"http://127.0.0.1:{served.port}/")
        send(page, TEXT)
        expect(page.locator(".answer").last).to_have_text(expected, use_inner_text=False)


def test_without_the_token_the_page_asks_for_it(
    embedded: EmbeddedBackend, open_page: OpenPage
) -> None:
    with serving(embedded, token=TOKEN) as served:
        page = open_page(f"http://127.0.0.1:{served.port}/")
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_text("embedded llama.cpp")).to_be_visible()
        send(page, "The function")
        expect(page.locator(".note").last).to_have_text(re.compile("tokens/s"))


def test_a_page_of_another_site_cannot_make_the_model_answer(
    browser: Browser, api: FakeApi
) -> None:
    """With the requests that need no preflight, of which Ollama's clients send some."""
    backend = ScriptedBackend(repeats=1)
    chat = '{"model": "antimatter", "messages": [{"role": "user", "content": "x"}]}'
    bodies = {CHAT: chat, "/api/chat": chat}
    bodies["/api/generate"] = '{"model": "antimatter", "prompt": "x"}'
    with serving(backend) as served:
        page = browser.new_context(bypass_csp=True).new_page()
        # Another port is another origin
        page.goto(api.url)
        failures: list[str] = []
        page.on("requestfailed", lambda request: failures.append(str(request.failure)))
        for path, body in bodies.items():
            for kind in ("", "text/plain", "application/x-www-form-urlencoded"):
                page.evaluate(
                    """([url, body, type]) => fetch(url, {
                        method: "POST",
                        mode: "no-cors",
                        referrerPolicy: "no-referrer",
                        body: new Blob([body], { type }),
                    }).catch(() => {})""",
                    [f"http://127.0.0.1:{served.port}{path}", body, kind],
                )
        page.context.close()
    # The server has answered them all, and the page saw nothing of the answers
    assert len(failures) == 9 and all("BLOCKED_BY_RESPONSE" in failure for failure in failures)
    assert backend.prompts == [] and served.log == []
