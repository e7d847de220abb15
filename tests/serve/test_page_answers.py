"""Answers on the chat page, in a real browser, from a server whose every byte is written here."""

import json
import re

import pytest
from helpers.chat_page import (
    CHAT_MODEL,
    STORED,
    OpenPage,
    answered,
    ask,
    button,
    models,
    status,
    store,
)
from helpers.fake_api import DONE, PAGE, FakeApi, answer, end, piece
from playwright.sync_api import expect

# Cuts what the server sends into chunks of SIZE bytes, because the browser's network would join
# small ones
CUT = """const plain = fetch;
window.fetch = async (...request) => {
  const response = await plain(...request), bytes = new Uint8Array(await response.arrayBuffer());
  let i = 0;
  const pull = controller =>
    i < bytes.length ? controller.enqueue(bytes.slice(i, i += SIZE)) : controller.close();
  return new Response(new ReadableStream({ pull }), response);
};"""
MARKUP_APIS = r"""(?x) innerHTML | outerHTML | insertAdjacent | document\.write | DOMParser
    | setHTML | createContextualFragment | \beval\b | Function\("""


def test_the_page_has_no_inline_handlers_no_addresses_and_no_way_to_create_markup() -> None:
    text = PAGE.read_text(encoding="utf-8")
    # The contents of these are hashed for the policy
    for tag in ("<style", "</style>", "<script", "</script>"):
        assert text.count(tag) == 1
    assert not re.search(MARKUP_APIS, text)
    assert not re.search(r"<[^>]*\s(on\w+|style)=", text.split("<script>")[0])
    assert "://" not in text


def test_an_answer_is_seen_while_it_is_written(api: FakeApi, open_page: OpenPage) -> None:
    first, second = api.gate(), api.gate()
    api.plays.append(
        [first, piece(" a"), piece(" result"), second, piece(" of None."), end("stop", 7, 41.25)]
    )
    page = open_page(api.url)
    ask(page, "  The function returns ")
    expect(page.locator(".asked")).to_have_text("The function returns")
    expect(status(page)).to_have_text("Reading …")
    expect(button(page, "Stop")).to_be_visible()
    first.set()
    expect(page.locator(".answer")).to_have_text("a result")
    expect(status(page)).to_have_text("Writing …")
    expect(page.locator("#conversation")).to_have_attribute("aria-busy", "true")
    second.set()
    answered(page, "a result of None.")
    expect(page.locator(".note")).to_have_text("7 tokens · 41.3 tokens/s · ended by the model")
    expect(status(page)).to_have_text("")
    expect(page.locator("#conversation")).to_have_attribute("aria-busy", "false")
    assert api.requests[0]["messages"] == [{"role": "user", "content": "The function returns"}]
    assert api.requests[0]["stream"] is True and api.requests[0]["model"] == "antimatter"


def test_model_engine_and_context_are_named(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    expect(page.get_by_role("heading", name="antimatter")).to_be_visible()
    engine = "embedded llama.cpp, models/gguf/antimatter-f16.gguf"
    expect(page.locator("#engine")).to_have_text(f"{engine} · context of 256 tokens")
    expect(page).to_have_title("antimatter")


def test_a_conversation_is_sent_from_its_beginning(api: FakeApi, open_page: OpenPage) -> None:
    # The second answer is empty, so its exchange is not part of the conversation
    api.plays.extend([answer(" one.\n"), [DONE], answer("three.")])
    page = open_page(api.url)
    for text, expected in (("first", "one."), ("second", ""), ("third", "three.")):
        ask(page, text)
        answered(page, expected)
    assert api.requests[2]["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "one."},
        {"role": "user", "content": "third"},
    ]


def test_of_a_very_long_conversation_the_end_is_sent(api: FakeApi, open_page: OpenPage) -> None:
    # The server accepts 1,000 messages and 1 MB
    long = [STORED | {"asked": f"Question {i}", "answer": "a" * 90} for i in range(600)]
    page = open_page(api.url, init=store(conversation=long))
    api.plays.append(answer("Yes.", dropped=2))
    ask(page, "x")
    answered(page, "Yes.")
    sent = api.requests[0]["messages"]
    assert 16 * 256 - 200 < sum(len(message["content"]) for message in sent) <= 16 * 256 + 1
    assert [message["content"] for message in sent[-3:]] == ["Question 599", "a" * 90, "x"]
    expect(page.locator(".note").last).to_contain_text(
        f"the oldest {1200 - (len(sent) - 1) + 2} turns no longer fit the context"
    )


def test_an_example_is_asked(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    button(page, "Raises an error if the").click()
    answered(page, "Yes.")
    assert api.requests[0]["messages"][0]["content"] == "Raises an error if the"
    expect(page.locator("#empty")).to_be_hidden()


def test_a_chat_model_greets_and_offers_its_starters(api: FakeApi, open_page: OpenPage) -> None:
    api.models = models(CHAT_MODEL)
    page = open_page(api.url)
    expect(page.get_by_role("heading", name="Hello! <b>I</b> am é.")).to_be_visible()
    expect(page.locator("#examples button")).to_have_text(CHAT_MODEL["starters"])
    field = page.get_by_label("Your text")
    expect(field).to_have_attribute("placeholder", "Write a message")
    expect(page.locator("#empty")).not_to_contain_text("base model")
    button(page, "What can you do?").click()
    answered(page, "Yes.")
    # The server adds the system text
    assert api.requests[0]["messages"] == [{"role": "user", "content": "What can you do?"}]


def test_a_chat_model_continues_its_own_turn(api: FakeApi, open_page: OpenPage) -> None:
    api.models = models(CHAT_MODEL)
    api.plays.extend([answer("I am", " a ", reason="length"), answer(" model.")])
    page = open_page(api.url)
    ask(page, "Hi")
    answered(page, "I am a")
    button(page, "Continue").click()
    answered(page, "I am a model.")
    assert api.requests[1]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "I am a"},
    ]


def test_a_base_model_says_that_it_continues_text(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    expect(page.get_by_role("heading", name="It continues your text")).to_be_visible()
    expect(page.locator("#empty")).to_contain_text("base model")
    expect(page.get_by_label("Your text")).to_have_attribute("placeholder", "Write a beginning")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_chunks_may_cut_events_and_characters_anywhere(
    size: int, api: FakeApi, open_page: OpenPage
) -> None:
    text = "é🙂日本 👩‍👩‍👧\n\tindented\r\n  \u2028 end"
    play = b": a comment\r\n\r\nevent: x\nid: 1\n"
    for name, line in (("CRLF", "\r\n"), ("CR", "\r"), ("LF", "\n")):
        choice = json.dumps({"delta": {"content": f"{name} "}})
        # An event of two lines
        play += f'data: {{"choices":{line}data:[{choice}]}}{line}{line}'.encode()
    api.plays.append([play, piece(text), end()])
    page = open_page(api.url, init=CUT.replace("SIZE", str(size)))
    ask(page, "x")
    answered(page, re.compile("end$"))
    assert page.locator(".answer").text_content() == f"CRLF CR LF {text}"


def test_the_note_says_how_an_answer_ended(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.append(answer("cut", reason="length", tokens=64, dropped=0))
    api.plays.append(answer("full", reason="length", tokens=40, dropped=3))
    api.plays.append(answer(tokens=0, speed=0.0, dropped=1))
    page, notes = open_page(api.url), list[str]()
    for text in ("one", "two", "three"):
        ask(page, text)
        expect(button(page, "Send")).to_be_visible()
        expect(page.locator("article")).to_have_count(len(notes) + 1)
        expect(page.locator(".note").last).not_to_be_empty()
        notes.append(page.locator(".note").last.text_content() or "")
    assert [note.split(" · ") for note in notes] == [
        [
            "64 tokens",
            "41.3 tokens/s",
            "stopped at its length: raise Length in Settings for more",
        ],
        [
            "40 tokens",
            "41.3 tokens/s",
            "stopped because its context is full",
            "the oldest 3 turns no longer fit the context",
        ],
        [
            "0 tokens",
            "the model ended at once and wrote nothing",
            "the oldest turn no longer fits the context",
        ],
    ]


def test_a_waiting_user_sees_how_many_are_ahead(api: FakeApi, open_page: OpenPage) -> None:
    first, second = api.gate(), api.gate()
    api.plays.append(
        [b": waiting, 2 before you\n\n", first, b": reading the prompt\n\n", second, *answer("now")]
    )
    page = open_page(api.url)
    ask(page, "x")
    expect(status(page)).to_have_text("Waiting: 2 ahead of you")
    first.set()
    expect(status(page)).to_have_text("Reading …")
    second.set()
    answered(page, "now")
