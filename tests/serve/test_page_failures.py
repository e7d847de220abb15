"""Messages of the chat page when something fails; and the token."""

import itertools
from typing import Any

import pytest
from helpers.chat_page import OpenPage, answered, ask, button, serving, status
from helpers.fake_api import ErrorPlay, FakeApi, event, piece
from playwright.sync_api import expect

HALF = piece("half")
LOST = "The connection broke off before the end of the answer."


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (ErrorPlay(400, "the text has 300 tokens: shorten it"), "the text has 300 tokens"),
        (ErrorPlay(403, "the Host evil.example is not ours"), "the Host evil.example"),
        (ErrorPlay(413, None), "The text is too long for the server."),
        (
            ErrorPlay(503, "8 questions are waiting", {"Retry-After": "5"}),
            "8 questions are waiting (Try again in 5 s.)",
        ),
        (ErrorPlay(502, None), "The server refused: 502 Bad Gateway"),
        (
            [HALF, event({"error": {"message": "llama.cpp broke off", "type": "server_error"}})],
            "The server stopped: llama.cpp broke off",
        ),
        ([HALF, event({"error": {}})], "The server stopped: it gave no reason"),
        ([HALF], LOST),
        # Without the blank line it is not an event
        ([HALF, b"data: [DONE]"], LOST),
        ([b""], LOST),
        ([HALF, b"data: {\n\n"], "something that this page does not understand."),
        ([HALF, b"data: null\n\n"], "something that this page does not understand."),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_every_failure_has_a_message_and_a_retry(
    play: Any, words: str, api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.append(play)
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".failure")).to_contain_text(words)
    if isinstance(play, list) and HALF in play:
        answered(page, "half")
        expect(button(page, "Continue")).to_be_visible()
    else:
        expect(page.locator(".answer")).to_be_hidden()
        expect(button(page, "Continue")).to_be_hidden()
    button(page, "Retry").click()
    answered(page, "Yes.")
    expect(page.locator(".failure")).to_be_hidden()


def test_a_connection_that_breaks_has_a_message_and_a_retry(
    api: FakeApi, open_page: OpenPage
) -> None:
    gate = api.gate()
    api.plays.append([HALF, gate, b""])
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".answer")).to_have_text("half")
    gate.set()
    expect(page.locator(".failure")).to_have_text(LOST)
    answered(page, "half")
    button(page, "Retry").click()
    answered(page, "Yes.")


def test_after_an_error_nothing_more_is_read(api: FakeApi, open_page: OpenPage) -> None:
    error = event({"error": {"message": "gone"}})
    api.plays.append(itertools.chain([error], itertools.repeat(piece("late"))))
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".failure")).to_have_text("The server stopped: gone")
    assert api.hung_up.wait(20)
    expect(page.locator(".answer")).to_be_hidden()


def test_a_server_that_is_gone_has_a_message_and_a_retry(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    page.context.set_offline(True)
    ask(page, "x")
    expect(page.locator(".failure")).to_contain_text("The server cannot be reached.")
    page.context.set_offline(False)
    button(page, "Retry").click()
    answered(page, "Yes.")


def test_another_server_at_this_address_has_a_message(api: FakeApi, open_page: OpenPage) -> None:
    api.models, api.content_type = [b"<h1>Log in</h1>"], "text/html"
    page = open_page(api.url)
    words = "The server at this address is not `antimatter serve`."
    expect(status(page)).to_have_text(words)
    ask(page, "x")
    expect(page.locator(".failure")).to_have_text(words)


def test_the_model_can_be_asked_for_again(api: FakeApi, open_page: OpenPage) -> None:
    good, api.models = api.models, ErrorPlay(503, "the engine is gone")
    page = open_page(api.url)
    expect(status(page)).to_have_text("the engine is gone")
    api.models = good
    button(page, "Retry").click()
    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    expect(status(page)).to_have_text("")


def test_the_token_in_the_address_is_kept_for_the_tab_and_removed_from_the_address(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.token = "s3cret/+%"
    page = open_page(f"{api.url}#token=s3cret/+%25")
    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    assert page.url == api.url
    page.reload()
    ask(page, "x")
    answered(page, "Yes.")
    assert "s3cret" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_server_that_requires_a_token_gets_it_from_a_form(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.token = "s3cret"
    page = open_page(api.url)
    token = page.get_by_label("Token", exact=True)
    expect(token).to_be_focused()
    assert token.get_attribute("type") == "password"
    token.fill("tökén")
    token.press("Enter")
    expect(token).to_have_accessible_description("A token has no spaces and no accents.")
    token.fill("wrong")
    token.press("Enter")
    expect(token).to_have_accessible_description("The server does not accept this token.")
    expect(token).to_have_value("")
    page.keyboard.press("Escape")
    ask(page, "x")
    expect(page.locator(".failure")).to_have_text("The server requires its token.")
    token.fill("s3cret")
    token.press("Enter")
    # The question is sent again without another click
    answered(page, "Yes.")
    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    expect(status(page)).to_have_text("")


def test_a_token_that_is_added_to_the_address_of_an_open_page_is_used(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.token = "s3cret"
    page = open_page(api.url)
    expect(page.get_by_label("Token", exact=True)).to_be_focused()
    page.evaluate("location.hash = 'token=s3cret'")
    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    expect(page.get_by_label("Token", exact=True)).to_be_hidden()
    expect(status(page)).to_have_text("")
    assert page.url == api.url


def test_behind_a_proxy_everything_stays_under_its_path(open_page: OpenPage) -> None:
    with serving(FakeApi(prefix="/some/where/")) as api:
        page = open_page(f"{api.url}#token=t")
        expect(page.locator("#engine")).to_contain_text("llama.cpp")
        ask(page, "x")
        answered(page, "Yes.")
        keys = page.evaluate("Object.keys(localStorage)")
        assert keys == ["antimatter.1.conversation:/some/where/"]
