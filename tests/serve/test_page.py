"""The chat page in a real browser, against a server whose every byte is written here."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from helpers.fake_api import DONE, MODEL, PAGE, FakeApi, Refusal, answer, end, event, piece
from playwright.sync_api import Page, expect

OpenPage = Callable[..., Page]  # the fixture open_page
KEY = "antimatter.1.{}:/"
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script></textarea></template>&lt;b&gt; <a href='javascript:alert(3)'>x</a>${alert(4)}"
STORED = [
    {
        "asked": "What was",
        "answer": " said before.",
        "note": "3 tokens",
        "failure": "",
        "more": False,
    }
]


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


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serving(FakeApi()) as server:
        yield server


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your text").fill(text)
    page.keyboard.press("Enter")


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def answered(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator(".answer").last).to_have_text(text)
    expect(button(page, "Send")).to_be_visible()


def status(page: Page) -> Any:
    return page.get_by_role("status")


def stored(page: Page, name: str = "conversation") -> Any:
    return json.loads(page.evaluate("key => localStorage.getItem(key)", KEY.format(name)) or "null")


def keep(**items: Any) -> str:
    """A script that puts these into the storage before the page runs, once."""
    texts = {
        KEY.format(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in items.items()
    }
    return f"if (!localStorage.length) for (const [key, value] of Object.entries({json.dumps(texts)})) localStorage.setItem(key, value);"


# Cuts what the server sends into chunks of SIZE bytes: left alone, the browser's network joins
# small ones
CUT = """const plain = fetch;
window.fetch = async (...asked) => {
  const response = await plain(...asked), bytes = new Uint8Array(await response.arrayBuffer());
  let i = 0;
  const pull = controller => i < bytes.length ? controller.enqueue(bytes.slice(i, i += SIZE)) : controller.close();
  return new Response(new ReadableStream({ pull }), response);
};"""


# --- The file


def test_the_page_is_one_file_without_handlers_addresses_or_any_way_to_markup() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [text.count(tag) for tag in ("<style", "</style>", "<script", "</script>")] == [
        1,
        1,
        1,
        1,
    ]  # so that anyone can find what to hash
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|setHTML|createContextualFragment|\beval\b|Function\(",
        text,
    )
    assert not re.search(r"<[^>]*\s(on\w+|style)=", text.split("<script>")[0])
    assert "://" not in text


# --- Asking


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
    assert page.locator("#conversation").get_attribute("aria-busy") == "true"
    second.set()
    answered(page, "a result of None.")
    expect(page.locator(".note")).to_have_text("7 tokens · 41.3 tokens/s · ended by the model")
    expect(status(page)).to_have_text("")
    assert page.locator("#conversation").get_attribute("aria-busy") == "false"
    assert api.asked[0]["messages"] == [{"role": "user", "content": "The function returns"}]
    assert api.asked[0]["stream"] is True and api.asked[0]["model"] == "antimatter"


def test_model_engine_and_context_are_named(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    expect(page.get_by_role("heading", name="antimatter")).to_be_visible()
    expect(page.locator("#engine")).to_have_text(
        "embedded llama.cpp, models/gguf/antimatter-f16.gguf · context of 256 tokens"
    )
    expect(page).to_have_title("antimatter")


def test_a_conversation_is_told_from_its_beginning(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend(
        [answer(" one.\n"), [DONE], answer("three.")]
    )  # the second answer is empty, so nobody said it
    page = open_page(api.url)
    for text, said in (("first", "one."), ("second", ""), ("third", "three.")):
        ask(page, text)
        answered(page, said)
    texts = ["first", "one.", "third"]
    assert [message["content"] for message in api.asked[2]["messages"]] == texts
    assert [message["role"] for message in api.asked[2]["messages"]] == [
        "user",
        "assistant",
        "user",
    ]


def test_of_a_very_long_conversation_the_end_is_sent(api: FakeApi, open_page: OpenPage) -> None:
    long = [
        {**STORED[0], "asked": f"Question {i}", "answer": "a" * 90} for i in range(600)
    ]  # the server takes 1,000 messages and 1 MB
    page = open_page(api.url, init=keep(conversation=long))
    api.plays.append(answer("Yes.", dropped=2))
    ask(page, "x")
    answered(page, "Yes.")
    sent = api.asked[0]["messages"]
    assert 16 * 256 - 200 < sum(len(message["content"]) for message in sent) <= 16 * 256 + 1
    assert [message["content"] for message in sent[-3:]] == ["Question 599", "a" * 90, "x"]
    expect(page.locator(".note").last).to_contain_text(
        f"the oldest {1200 - (len(sent) - 1) + 2} turns no longer fit the context"
    )


def test_what_the_examples_offer_is_asked(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    button(page, "Raises an error if the").click()
    answered(page, "Yes.")
    assert api.asked[0]["messages"][0]["content"] == "Raises an error if the"
    expect(page.locator("#empty")).to_be_hidden()


TALKER = {
    **MODEL,
    "kind": "chat",
    "system": "Be kind.",
    "greeting": "Hello! <b>I</b> am é.",
    "starters": ["Who are you?", "What can you do?", "Thanks, bye!"],
}


def talker(api: FakeApi) -> None:
    """The server has a model that was tuned to chat."""
    api.models = [json.dumps({"object": "list", "data": [TALKER]}).encode()]


def test_a_chat_model_greets_and_offers_its_starters(api: FakeApi, open_page: OpenPage) -> None:
    talker(api)
    page = open_page(api.url)
    expect(page.get_by_role("heading", name="Hello! <b>I</b> am é.")).to_be_visible()
    expect(page.locator("#examples button")).to_have_text(TALKER["starters"])
    field = page.get_by_label("Your text")
    expect(field).to_have_attribute("placeholder", "Write a message")
    expect(page.locator("#empty")).not_to_contain_text("base model")
    button(page, "What can you do?").click()
    answered(page, "Yes.")
    asked = {"role": "user", "content": "What can you do?"}
    assert api.asked[0]["messages"] == [asked]  # the server adds the system text


def test_a_chat_model_goes_on_with_its_own_turn(api: FakeApi, open_page: OpenPage) -> None:
    talker(api)
    api.plays.extend([answer("I am", " a ", reason="length"), answer(" model.")])
    page = open_page(api.url)
    ask(page, "Hi")
    answered(page, "I am a")
    button(page, "Continue").click()
    answered(page, "I am a model.")
    turns = [("user", "Hi"), ("assistant", "I am a")]
    sent = [(message["role"], message["content"]) for message in api.asked[1]["messages"]]
    assert sent == turns


def test_a_base_model_says_that_it_continues_text(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    expect(page.get_by_role("heading", name="It goes on with your text")).to_be_visible()
    expect(page.locator("#empty")).to_contain_text("base model")
    expect(page.get_by_label("Your text")).to_have_attribute("placeholder", "Write a beginning")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_chunks_may_cut_events_and_characters_anywhere(
    size: int, api: FakeApi, open_page: OpenPage
) -> None:
    text = "é🙂日本 👩‍👩‍👧\n\tindented\r\n  \u2028 end"
    play = b": a comment\r\n\r\nevent: x\nid: 1\n"
    for name, line in (("CRLF", "\r\n"), ("CR", "\r"), ("LF", "\n")):  # events of two lines
        play += f'data: {{"choices":{line}data:[{{"delta":{{"content":"{name} "}}}}]}}{line}{line}'.encode()
    api.plays.append([play, piece(text), end()])
    page = open_page(api.url, init=CUT.replace("SIZE", str(size)))
    ask(page, "x")
    answered(page, re.compile("end$"))
    assert page.locator(".answer").text_content() == f"CRLF CR LF {text}"


def test_how_an_answer_ended_is_told(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.append(answer("cut", reason="length", tokens=64, dropped=0))
    api.plays.append(answer("full", reason="length", tokens=40, dropped=3))
    api.plays.append(answer(tokens=0, speed=0.0, dropped=1))
    page, notes = open_page(api.url), []
    for text in ("one", "two", "three"):
        ask(page, text)
        expect(button(page, "Send")).to_be_visible()
        expect(page.locator("article")).to_have_count(len(notes) + 1)
        expect(page.locator(".note").last).not_to_be_empty()
        notes.append(page.locator(".note").last.text_content())
    assert notes == [
        "64 tokens · 41.3 tokens/s · stopped at its length: raise Length in Settings for more",
        "40 tokens · 41.3 tokens/s · stopped because its context has room for no more · the oldest 3 turns no longer fit the context",
        "0 tokens · the model ended at once and wrote nothing · the oldest turn no longer fits the context",
    ]


def test_who_waits_is_told_how_many_are_before(api: FakeApi, open_page: OpenPage) -> None:
    first, second = api.gate(), api.gate()
    api.plays.append(
        [b": waiting, 2 before you\n\n", first, b": reading the prompt\n\n", second, *answer("now")]
    )
    page = open_page(api.url)
    ask(page, "x")
    expect(status(page)).to_have_text("Waiting: 2 before you")
    first.set()
    expect(status(page)).to_have_text("Reading …")
    second.set()
    answered(page, "now")


# --- Stop, retry, continue, edit, clear, copy


@pytest.mark.parametrize("by", ["button", "Escape"])
def test_stop_keeps_what_was_written_and_ends_the_work_of_the_server(
    by: str, api: FakeApi, open_page: OpenPage
) -> None:
    gate = api.gate()
    api.plays.append(itertools.chain([piece("half"), gate], itertools.repeat(piece(" more"))))
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".answer")).to_have_text("half")
    button(page, "Stop").click() if by == "button" else page.keyboard.press("Escape")
    answered(page, "half")
    expect(page.locator(".note")).to_have_text("Stopped by you")
    expect(page.get_by_label("Your text")).to_be_focused()
    gate.set()
    assert api.hung_up.wait(20)
    expect(page.locator(".answer")).to_have_text("half")
    assert stored(page)[0]["answer"] == "half" and not stored(page)[0]["failure"]


def test_stop_while_waiting(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.append([b": waiting, 4 before you\n\n", api.gate()])
    page = open_page(api.url)
    ask(page, "x")
    expect(status(page)).to_have_text("Waiting: 4 before you")
    page.keyboard.press("Escape")
    expect(page.locator(".note")).to_have_text("Stopped by you")
    button(page, "Retry").click()
    answered(page, "Yes.")


def test_a_double_click_sends_once_and_does_not_stop(api: FakeApi, open_page: OpenPage) -> None:
    gate = api.gate()
    api.plays.append([gate, *answer("whole")])
    page = open_page(api.url)
    page.get_by_label("Your text").fill("x")
    button(page, "Send").dblclick()
    expect(button(page, "Stop")).to_be_visible()
    gate.set()
    answered(page, "whole")
    assert len(api.asked) == 1


def test_retry_asks_the_same_again(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("one"), answer("two"), answer("three")])
    page = open_page(api.url)
    ask(page, "first")
    answered(page, "one")
    ask(page, "second")
    answered(page, "two")
    expect(button(page, "Retry")).to_have_count(1)  # of the last answer alone
    button(page, "Retry").click()
    answered(page, "three")
    assert api.asked[1]["messages"] == api.asked[2]["messages"]
    assert [exchange["answer"] for exchange in stored(page)] == ["one", "three"]


def test_a_retry_that_fails_loses_no_answer(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("precious"), Refusal(503, "busy")])
    page = open_page(api.url)
    ask(page, "x")
    answered(page, "precious")
    button(page, "Retry").click()
    expect(page.locator(".failure")).to_have_text("busy")
    answered(page, "precious")


def test_continue_sends_text_and_answer_as_one_text(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend(
        [
            answer("earlier"),
            answer(" a re", "sult  ", reason="length", tokens=64),
            answer(" of None.", tokens=4),
        ]
    )
    page = open_page(api.url)
    ask(page, "before")
    answered(page, "earlier")
    expect(button(page, "Continue")).to_have_count(0)  # the model ended it
    ask(page, "The function returns")
    answered(page, "a result")
    button(page, "Continue").click()
    answered(page, "a result of None.")
    assert [message["content"] for message in api.asked[2]["messages"]] == [
        "before",
        "earlier",
        "The function returns a result",
    ]
    expect(page.locator(".note").last).to_contain_text("4 more tokens")


def test_continue_goes_on_from_the_end_of_a_text_that_fills_the_context(
    api: FakeApi, open_page: OpenPage
) -> None:
    words = " ".join(f"word{i}" for i in range(100))
    api.plays.append(answer(words, reason="length", tokens=64))
    page = open_page(api.url)
    ask(page, "Many:")
    answered(page, words)
    button(page, "Continue").click()
    answered(page, f"{words}Yes.")
    sent = api.asked[1]["messages"][0]["content"]
    assert words.endswith(sent) and sent.startswith("word") and 370 < len(sent) <= 2 * (256 - 64)
    expect(page.locator(".note")).to_contain_text("went on from the last 384 characters")


def test_edit_takes_the_last_text_back_into_the_input(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("one"), answer("two")])
    page = open_page(api.url)
    ask(page, "frist")
    answered(page, "one")
    page.get_by_label("Your text").fill("draft")
    button(page, "Edit").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.get_by_label("Your text")).to_have_value("frist")
    button(page, "Undo").click()
    answered(page, "one")
    expect(page.get_by_label("Your text")).to_have_value("draft")
    button(page, "Edit").click()
    ask(page, "first")
    answered(page, "two")
    assert api.asked[1]["messages"] == [{"role": "user", "content": "first"}]


def test_clear_can_be_undone(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    expect(button(page, "Clear")).to_be_hidden()
    ask(page, "x")
    answered(page, "Yes.")
    button(page, "Clear").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()
    assert stored(page) == []
    button(page, "Undo").click()
    answered(page, "Yes.")
    assert len(stored(page)) == 1


def test_clear_in_the_middle_of_an_answer_stops_it(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.append([piece("half"), api.gate()])
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".answer")).to_have_text("half")
    button(page, "Clear").click()
    expect(button(page, "Send")).to_be_visible()
    expect(page.locator("article")).to_have_count(0)
    button(page, "Undo").click()
    answered(page, "half")
    expect(page.locator(".note")).to_have_text("Stopped by you")


def test_copy_takes_the_answer_with_or_without_a_clipboard(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.append(answer(" a\n  b"))
    page = open_page(api.url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "x")
    answered(page, re.compile("a"))
    for break_ in (
        "",
        "navigator.clipboard.writeText = () => Promise.reject(new Error('forbidden'))",
    ):
        page.evaluate(f"navigator.clipboard.writeText('nothing').then(() => {{ {break_} }})")
        page.locator("[name=copy]").click()
        page.wait_for_function("navigator.clipboard.readText().then(text => text === 'a\\n  b')")
    expect(page.locator("[name=copy]")).to_have_text("Copied")
    expect(page.locator("[name=copy]")).to_have_text("Copy")


# --- Settings


def test_settings_are_sent_and_outlive_a_reload(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    ask(page, "x")
    answered(page, "Yes.")
    defaults = MODEL["defaults"]
    assert (
        isinstance(defaults, dict)
        and defaults.items() <= api.asked[0].items()
        and "seed" not in api.asked[0]
    )
    chosen = {
        "Temperature": ("temperature", 0),
        "Top-p": ("top_p", 0.5),
        "Top-k": ("top_k", 7),
        "Length": ("max_tokens", 12),
        "Seed": ("seed", 5),
    }
    button(page, "Settings").click()
    for label, (name, value) in chosen.items():
        assert page.get_by_label(label).input_value() == str(defaults.get(name, ""))
        page.get_by_label(label).fill(str(value))
    button(page, "Close").click()
    for _ in range(2):
        ask(page, "x")
        answered(page, "Yes.")
        assert {name: api.asked[-1][name] for name, _ in chosen.values()} == dict(chosen.values())
        assert api.asked[-1]["repeat_penalty"] == 1.1
        page.reload()
        expect(page.locator("#engine")).to_contain_text("llama.cpp")
    button(page, "Settings").click()
    expect(page.get_by_label("Top-k")).to_have_value("7")
    button(page, "Defaults").click()
    expect(page.get_by_label("Top-k")).to_have_value("40")
    page.keyboard.press("Escape")
    ask(page, "x")
    answered(page, "Yes.")
    assert defaults.items() <= api.asked[-1].items() and "seed" not in api.asked[-1]
    assert stored(page, "settings") == {}


def test_a_setting_out_of_range_is_refused_in_words(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    button(page, "Settings").click()
    for label, value, words in (
        ("Temperature", "2.5", "Temperature must be a number from 0 to 2."),
        ("Top-k", "1.5", "Top-k must be a whole number from 1 to 1000."),
        (
            "Length",
            "257",
            "Length must be a whole number from 1 to 256.",
        ),  # the context of the model
    ):
        field = page.get_by_label(label)
        field.fill(value)
        expect(field).to_have_accessible_description(words)
        button(page, "Close").click()
        expect(field).to_be_focused()
        field.fill("")  # empty is the default
        expect(field).to_have_attribute("aria-invalid", "false")
    page.get_by_label("Top-p").fill("7")
    page.keyboard.press("Escape")
    ask(page, "x")
    answered(page, "Yes.")
    assert (
        api.asked[0].items()
        >= {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "max_tokens": 64}.items()
    )


# --- What is kept


def test_a_conversation_outlives_a_reload(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("one"), answer("two")])
    page = open_page(api.url)
    for text, said in (("first", "one"), ("second", "two")):
        ask(page, text)
        answered(page, said)
    note = page.locator(".note").last.text_content()
    page.reload()
    expect(page.locator(".asked")).to_have_text(["first", "second"])
    expect(page.locator(".answer")).to_have_text(["one", "two"])
    expect(page.locator(".note").last).to_have_text(str(note))


def test_a_reload_before_the_beginning_of_an_answer_is_no_failure_of_the_server(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.answers = api.gate()
    page = open_page(api.url)
    ask(page, "x")
    expect(status(page)).to_have_text("Reading …")
    page.reload()
    expect(page.locator(".failure")).to_contain_text("Not finished")
    expect(button(page, "Continue")).to_be_hidden()  # there is nothing to go on from
    api.answers.set()
    button(page, "Retry").click()
    answered(page, "Yes.")


def test_a_reload_in_the_middle_of_an_answer_keeps_its_part(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.append([piece(" half an"), api.gate()])
    page = open_page(api.url)
    ask(page, "This is")
    expect(page.locator(".answer")).to_have_text("half an")
    page.reload()
    expect(page.locator(".answer")).to_have_text("half an")
    expect(page.locator(".failure")).to_contain_text("Not finished")
    api.plays.append(answer(" answer."))
    button(page, "Continue").click()
    answered(page, "half an answer.")
    assert api.asked[1]["messages"][0]["content"] == "This is half an"
    expect(page.locator(".failure")).to_be_hidden()


@pytest.mark.parametrize(
    "conversation",
    [
        "{",
        "null",
        "7",
        '"text"',
        "{}",
        '[1, null, "x", [], {}]',
        '[{"asked": {"toString": 1}}]',
        '[{"asked": "kept", "answer": 5, "more": "yes"}]',
    ],
)
def test_foreign_or_broken_storage_breaks_nothing(
    conversation: str, api: FakeApi, open_page: OpenPage
) -> None:
    settings = (
        conversation
        if conversation != "{}"
        else '{"temperature": "hot", "top_p": 1e9, "max_tokens": 100000, "x": 1, "top_k": 3}'
    )
    page = open_page(api.url, init=keep(conversation=conversation, settings=settings))
    ask(page, "x")
    answered(page, "Yes.")
    assert api.asked[0].items() >= {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64}.items()
    assert api.asked[0]["top_k"] == (3 if conversation == "{}" else 40)
    assert stored(page)[-1]["answer"] == "Yes."
    expect(page.locator("article")).to_have_count(2 if "kept" in conversation else 1)


@pytest.mark.parametrize("trouble", ["full", "forbidden"])
def test_storage_that_is_full_or_forbidden_breaks_nothing(
    trouble: str, api: FakeApi, open_page: OpenPage
) -> None:
    full = "Storage.prototype.setItem = () => { throw new DOMException('no room', 'QuotaExceededError'); };"
    forbidden = """for (const name of ['localStorage', 'sessionStorage'])
        Object.defineProperty(window, name, { get() { throw new DOMException('forbidden', 'SecurityError'); } });"""
    api.token = "s3cret"
    page = open_page(f"{api.url}#token=s3cret", init=full if trouble == "full" else forbidden)
    ask(page, "x")
    answered(page, "Yes.")
    expect(status(page)).to_contain_text("no room")
    assert page.url == api.url


def test_two_tabs_show_what_the_last_one_wrote(api: FakeApi, open_page: OpenPage) -> None:
    gate = api.gate()
    api.plays.extend([answer("one"), [piece("tw"), gate, piece("o"), end()], answer("three")])
    first = open_page(api.url)
    ask(first, "first")
    answered(first, "one")
    second = open_page(api.url, tab=first)
    expect(second.locator(".answer")).to_have_text(["one"])
    second.get_by_label("Your text").fill("draft")
    ask(first, "second")
    expect(second.locator(".answer")).to_have_text(["one", "tw"])
    expect(second.locator(".failure").last).to_contain_text("another tab is still writing")
    gate.set()
    expect(second.locator(".answer")).to_have_text(["one", "two"])
    expect(second.locator(".failure").last).to_be_hidden()
    expect(second.get_by_label("Your text")).to_have_value("draft")
    ask(second, "third")
    expect(first.locator(".answer")).to_have_text(["one", "two", "three"])
    button(first, "Settings").click()
    first.get_by_label("Top-k").fill("9")
    ask(second, "fourth")
    answered(second, "Yes.")
    assert api.asked[-1]["top_k"] == 9


def test_two_tabs_that_write_at_once_leave_a_whole_conversation(
    api: FakeApi, open_page: OpenPage
) -> None:
    gates = [api.gate(), api.gate()]
    first = open_page(api.url)
    second = open_page(api.url, tab=first)
    for page, gate, text in ((first, gates[0], "a"), (second, gates[1], "b")):
        api.plays.append([piece(text), gate, piece(text), end()])
        ask(page, text)
        expect(page.locator(".answer").last).to_have_text(text)
    for page, gate, text in ((first, gates[0], "aa"), (second, gates[1], "bb")):
        gate.set()
        expect(page.locator(".answer").last).to_have_text(text)
    expect(second.locator(".note").last).to_contain_text("7 tokens")
    expect(first.locator(".answer").last).to_have_text("bb")  # the last writer wins, in both
    assert stored(first)[-1]["answer"] == "bb" and not stored(first)[-1]["failure"]


# --- Text is text


def test_markup_stays_text_wherever_it_comes_from(api: FakeApi, open_page: OpenPage) -> None:
    strange = {
        **TALKER,
        "greeting": MARKUP,
        "starters": [MARKUP] * 3,
        "id": MARKUP,
        "engine": MARKUP,
    }
    api.models = [json.dumps({"data": [strange]}).encode()]
    api.plays.extend(
        [answer(*MARKUP), Refusal(400, MARKUP), [event({"error": {"message": MARKUP}})]]
    )
    page = open_page(
        api.url,
        init=keep(
            conversation=[
                {"asked": MARKUP, "answer": MARKUP, "note": MARKUP, "failure": MARKUP, "more": True}
            ]
        ),
    )
    for name in (".asked", ".answer", ".note", ".failure", "#model", "#empty h2"):
        expect(page.locator(name)).to_have_text(MARKUP)
    expect(page.locator("#examples button")).to_have_text([MARKUP] * 3)
    before = page.evaluate("document.querySelectorAll('*').length")
    ask(page, MARKUP)
    answered(page, MARKUP)
    assert (
        page.locator(".answer").last.text_content()
        == page.locator(".asked").last.text_content()
        == MARKUP
    )
    for words in (MARKUP, f"The server stopped: {MARKUP}"):
        ask(page, "x")
        expect(page.locator(".failure").last).to_have_text(words)
    page.reload()
    expect(page.locator(".answer").nth(1)).to_have_text(MARKUP)
    assert (
        page.evaluate(
            "document.querySelectorAll('img, a, b, article script, article textarea, article template').length"
        )
        == 0
    )
    # Buttons follow a moment after the text
    page.wait_for_function(
        """before => document.querySelectorAll('*').length ===
            before + 3 * (document.querySelector('article').querySelectorAll('*').length + 1)""",
        arg=before,
    )


def test_text_that_turns_writing_around_stays_in_its_place(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.extend([answer("\u202eevil \u2066\u202bnested"), answer("مرحبا بالعالم")])
    page = open_page(api.url)
    ask(page, "\u202etext")
    answered(page, re.compile("nested"))
    for name in (".asked", ".answer", ".note", "[name=copy]", "#engine"):
        assert (
            page.locator(name).evaluate(
                "e => getComputedStyle(e.closest('.actions') ?? e).direction"
            )
            == "ltr"
        )
    note, copy, retry = (
        page.locator(name).bounding_box() for name in (".note", "[name=copy]", "[name=retry]")
    )
    assert note and copy and retry and copy["x"] < retry["x"] and note["x"] < 500
    ask(page, "right to left")
    answered(page, "مرحبا بالعالم")
    assert page.locator(".answer").last.evaluate("e => getComputedStyle(e).direction") == "rtl"


def test_white_space_is_kept_and_no_word_is_too_long(api: FakeApi, open_page: OpenPage) -> None:
    code = "    def f(x):\n\treturn  x\n\n\n# end"
    api.plays.extend(
        [
            answer(f"\n\n{code}\n\n"),
            answer("x" * 20_000),
            answer("word " * 4_000),
            answer("🙂" * 3_000),
        ]
    )
    page = open_page(api.url, viewport={"width": 320, "height": 600})
    for text in ("code", "y" * 5_000, "long", "smile"):
        ask(page, text)
        answered(page, re.compile(r"\S"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.locator("#log").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert page.locator(".answer").first.text_content() == code
    assert page.locator(".answer").first.evaluate("e => getComputedStyle(e).whiteSpace") in (
        "pre-wrap",
        "break-spaces",
    )


# --- What goes wrong, in words


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (
            Refusal(
                400, "the text has 300 tokens, the model can read 128 and still answer: shorten it"
            ),
            "the text has 300 tokens, the model can read 128",
        ),
        (
            Refusal(403, "the Host evil.example is not one of this server's names"),
            "the Host evil.example is not one",
        ),
        (Refusal(413, None), "The text is too long for the server."),
        (
            Refusal(503, "8 questions are waiting", {"Retry-After": "5"}),
            "8 questions are waiting (Worth another try in 5 s.)",
        ),
        (Refusal(502, None), "The server refused: 502 Bad Gateway"),
        (
            [
                piece("half"),
                event({"error": {"message": "llama.cpp broke off", "type": "server_error"}}),
            ],
            "The server stopped: llama.cpp broke off",
        ),
        ([piece("half"), event({"error": {}})], "The server stopped: it gave no reason"),
        ([piece("half")], "The connection broke off before the end of the answer."),
        (
            [piece("half"), b"data: [DONE]"],
            "The connection broke off before the end of the answer.",
        ),  # without the blank line it is no event
        ([b""], "The connection broke off before the end of the answer."),
        (
            [piece("half"), b"data: {\n\n"],
            "The server sent something that this page does not understand.",
        ),
        (
            [piece("half"), b"data: null\n\n"],
            "The server sent something that this page does not understand.",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_every_failure_is_words_and_a_retry(
    play: Any, words: str, api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.append(play)
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".failure")).to_contain_text(words)
    if piece("half") in (play if isinstance(play, list) else []):
        answered(page, "half")
        expect(button(page, "Continue")).to_be_visible()
    else:
        expect(page.locator(".answer")).to_be_hidden()
        expect(button(page, "Continue")).to_be_hidden()
    button(page, "Retry").click()
    answered(page, "Yes.")
    expect(page.locator(".failure")).to_be_hidden()


def test_a_connection_that_breaks_is_words_and_a_retry(api: FakeApi, open_page: OpenPage) -> None:
    gate = api.gate()
    api.plays.append([piece("half"), gate, b""])
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".answer")).to_have_text("half")
    gate.set()
    expect(page.locator(".failure")).to_have_text(
        "The connection broke off before the end of the answer."
    )
    answered(page, "half")
    button(page, "Retry").click()
    answered(page, "Yes.")


def test_after_an_error_nothing_more_is_wanted(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.append(
        itertools.chain([event({"error": {"message": "gone"}})], itertools.repeat(piece("late")))
    )
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".failure")).to_have_text("The server stopped: gone")
    assert api.hung_up.wait(20)
    expect(page.locator(".answer")).to_be_hidden()


def test_a_server_that_is_gone_is_words_and_a_retry(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    page.context.set_offline(True)
    ask(page, "x")
    expect(page.locator(".failure")).to_have_text(
        "The server cannot be reached. Is `antimatter serve` running, and the network up?"
    )
    page.context.set_offline(False)
    button(page, "Retry").click()
    answered(page, "Yes.")


def test_something_else_at_this_address_is_words(api: FakeApi, open_page: OpenPage) -> None:
    api.models, api.content_type = [b"<h1>Log in</h1>"], "text/html"
    page = open_page(api.url)
    expect(status(page)).to_have_text("What answers at this address is not `antimatter serve`.")
    ask(page, "x")
    expect(page.locator(".failure")).to_have_text(
        "What answers at this address is not `antimatter serve`."
    )


def test_a_model_that_cannot_be_named_is_asked_for_again(api: FakeApi, open_page: OpenPage) -> None:
    named, api.models = api.models, Refusal(503, "the engine is gone")
    page = open_page(api.url)
    expect(status(page)).to_have_text("the engine is gone")
    api.models = named
    button(page, "Retry").click()
    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    expect(status(page)).to_have_text("")


# --- The token


def test_the_token_of_the_address_is_used_kept_for_the_tab_and_taken_out_of_the_address(
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


def test_a_server_that_asks_for_a_token_gets_it_from_a_form(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.token = "s3cret"
    page = open_page(api.url)
    token = page.get_by_label("Token", exact=True)
    expect(token).to_be_focused()
    assert token.get_attribute("type") == "password"
    token.fill("tökén")
    token.press("Enter")
    expect(token).to_have_accessible_description(
        "A token is letters, digits and signs, without spaces."
    )
    token.fill("wrong")
    token.press("Enter")
    expect(token).to_have_accessible_description(
        "The server does not know the token that this tab has."
    )
    expect(token).to_have_value("")
    page.keyboard.press("Escape")
    ask(page, "x")
    expect(page.locator(".failure")).to_have_text("The server asks for its token.")
    token.fill("s3cret")
    token.press("Enter")
    answered(page, "Yes.")  # the question is asked again by itself
    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    expect(status(page)).to_have_text("")


def test_a_token_that_is_added_to_the_address_of_an_open_page_is_taken_too(
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


def test_behind_a_proxy_with_a_path_everything_stays_under_it(open_page: OpenPage) -> None:
    with serving(FakeApi(prefix="/some/where/")) as api:
        page = open_page(f"{api.url}#token=t")
        expect(page.locator("#engine")).to_contain_text("llama.cpp")
        ask(page, "x")
        answered(page, "Yes.")
        assert page.evaluate("Object.keys(localStorage)") == [
            "antimatter.1.conversation:/some/where/"
        ]


# --- Hands and eyes


def test_everything_can_be_done_with_the_keyboard(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("one", reason="length"), answer(" and more"), answer("again")])
    page = open_page(api.url)
    field = page.get_by_label("Your text")
    expect(field).to_be_focused()  # one can type at once
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    expect(field).to_have_value("first line\nsecond line")
    page.keyboard.press("Enter")
    answered(page, "one")
    assert api.asked[0]["messages"][0]["content"] == "first line\nsecond line"
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    page.keyboard.press("Enter")  # nothing to send
    for key, names in (
        ("Tab", ["Send"]),
        (
            "Shift+Tab",
            ["Your text", "Edit", "Retry", "Continue", "Copy", "Chat", "Clear", "Settings"],
        ),
    ):
        for name in names:
            page.keyboard.press(key)
            focused = page.locator(":focus")
            expect(focused).to_have_accessible_name(name)
            assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    for name in ("Continue", "Retry"):
        button(page, name).focus()
        page.keyboard.press("Enter")
        answered(page, "one and more" if name == "Continue" else "again")
        expect(field).to_be_focused()
    button(page, "Clear").press("Enter")
    expect(field).to_be_focused()
    button(page, "Undo").press("Enter")
    expect(field).to_be_focused()
    button(page, "Settings").press("Enter")
    expect(page.get_by_label("Temperature")).to_be_focused()
    page.keyboard.press("Escape")
    expect(field).to_be_focused()
    answered(page, "again")


def test_escape_closes_the_settings_before_it_stops_an_answer(
    api: FakeApi, open_page: OpenPage
) -> None:
    gate = api.gate()
    api.plays.append([piece("one"), gate, piece(" two"), end()])
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".answer")).to_have_text("one")
    button(page, "Settings").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    gate.set()
    answered(page, "one two")
    expect(page.locator(".note")).to_contain_text("ended by the model")


def test_enter_in_a_composition_does_not_send(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    field = page.get_by_label("Your text")
    session = page.context.new_cdp_session(page)
    session.send(
        "Input.imeSetComposition", {"text": "にほん", "selectionStart": 3, "selectionEnd": 3}
    )
    expect(field).to_have_value("にほん")
    for init in ({"isComposing": True}, {"keyCode": 229}):
        field.evaluate(
            "(e, init) => e.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...init }))",
            init,
        )
    page.keyboard.press("Enter")
    session.send("Input.insertText", {"text": "日本"})
    expect(page.locator("article")).to_have_count(0)
    assert not api.asked
    page.keyboard.press("Enter")
    answered(page, "Yes.")
    assert "日本" in api.asked[0]["messages"][0]["content"]


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_nothing_is_too_wide_too_small_or_zooms(
    width: int, api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.append(answer("one two " * 30, reason="length", dropped=2))
    page = open_page(
        api.url, viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True
    )

    def fits() -> None:
        assert page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        ) == [width, 640]
        small = """[...document.querySelectorAll('button, input, textarea')].filter(e => e.checkVisibility())
            .filter(e => e.getBoundingClientRect().height < 44 || parseFloat(getComputedStyle(e).fontSize) < (e.localName === 'button' ? 14 : 16))
            .map(e => e.id || e.textContent)"""
        outside = """right => [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && e.getBoundingClientRect().right > right)
            .map(e => e.outerHTML)"""
        assert page.evaluate(small) == [] and page.evaluate(outside, width + 1) == []

    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    fits()
    page.get_by_label("Your text").fill("x")
    button(page, "Send").tap()
    answered(page, re.compile("one two"))
    fits()
    button(page, "Retry").tap()
    answered(page, "Yes.")
    expect(page.get_by_label("Your text")).not_to_be_focused()  # it would bring up the keyboard
    button(page, "Settings").tap()
    fits()
    assert page.locator("meta[name=viewport]").get_attribute("content")


CONTRAST = """() => {
  const rgb = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return { c: [r, g, b], a }; };
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255); // as WCAG 2 has it
  const behind = e => { const { c, a } = rgb(getComputedStyle(e).backgroundColor); return a ? c : behind(e.parentElement); };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.placeholder;
    if (!text || !e.checkVisibility() || e.matches('script, .unseen')) continue;
    const pairs = [getComputedStyle(e).color, ...e.placeholder ? [getComputedStyle(e, '::placeholder').color] : []];
    for (const colour of pairs) {
      const [a, b] = [light(rgb(colour).c), light(behind(e))].sort((x, y) => y - x);
      found.push([(a + 0.05) / (b + 0.05), `${e.localName}.${e.className}#${e.id}`]);
    }
  }
  return found;
}"""


def test_text_can_be_read_in_light_and_in_dark(api: FakeApi, open_page: OpenPage) -> None:
    pages = []
    for scheme in ("light", "dark"):
        page = open_page(api.url, color_scheme=scheme, init=keep(conversation=STORED))
        measured = page.evaluate(CONTRAST)
        api.plays.append([piece("half"), event({"error": {"message": "gone"}})])
        ask(page, "x")
        expect(page.locator(".failure").last).to_be_visible()
        measured += page.evaluate(CONTRAST)
        button(page, "Clear").click()
        expect(page.locator("#empty")).to_be_visible()
        measured += page.evaluate(CONTRAST)
        button(page, "Settings").click()
        page.get_by_label("Top-k").fill("-1")
        measured += page.evaluate(CONTRAST)
        assert len(measured) > 60
        assert [found for found in measured if found[0] < 4.5] == []
        pages.append(
            page.evaluate(
                "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
            )
        )
    assert pages[0] != pages[1]


def test_who_wishes_no_motion_sees_none(api: FakeApi, open_page: OpenPage) -> None:
    moves = "getComputedStyle(document.querySelector('.writing .answer'), '::after').animationName"
    for wish, name in (("reduce", "none"), ("no-preference", "blink")):
        api.plays.append([piece("x"), api.gate()])
        page = open_page(api.url, reduced_motion=wish)
        ask(page, "x")
        expect(page.locator(".answer")).to_have_text("x")
        assert page.evaluate(moves) == name


def test_the_page_follows_the_answer_only_for_a_reader_at_its_end(
    api: FakeApi, open_page: OpenPage
) -> None:
    first, second = api.gate(), api.gate()
    api.plays.append(
        [piece("line\n" * 80), first, piece("more\n" * 40), second, piece("last"), end()]
    )
    page = open_page(api.url)
    ask(page, "x")
    left = "(log => Math.round(log.scrollHeight - log.scrollTop - log.clientHeight))(document.getElementById('log'))"
    expect(page.locator(".answer")).to_contain_text("line")
    page.wait_for_function(f"{left} < 2")
    page.locator("#log").evaluate("e => e.scrollTo(0, 200)")
    expect(button(page, "↓ Latest")).to_be_visible()
    first.set()
    expect(page.locator(".answer")).to_contain_text("more")
    assert page.locator("#log").evaluate("e => e.scrollTop") == 200
    button(page, "↓ Latest").click()
    page.wait_for_function(f"{left} < 2")
    second.set()
    answered(page, re.compile("last"))
    page.wait_for_function(f"{left} < 2")
    expect(button(page, "↓ Latest")).to_be_hidden()


def test_a_selection_survives_what_is_written_after_it(api: FakeApi, open_page: OpenPage) -> None:
    gate = api.gate()
    api.plays.append([piece("chosen words"), gate, piece(" and more "), end()])
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".answer")).to_have_text("chosen words")
    page.locator(".answer").evaluate(
        "e => getSelection().setBaseAndExtent(e.firstChild, 0, e.firstChild, 6)"
    )
    gate.set()
    answered(page, "chosen words and more")
    assert page.evaluate("getSelection().toString()") == "chosen"


def test_a_long_conversation_does_not_slow_the_typing(api: FakeApi, open_page: OpenPage) -> None:
    long = [
        {**STORED[0], "asked": f"Question {i}", "answer": "some words of an answer " * 40}
        for i in range(200)
    ]
    page = open_page(api.url, init=keep(conversation=long))
    expect(page.locator("article")).to_have_count(200)
    page.wait_for_function("document.getElementById('log').scrollTop > 0")  # one sees its end
    gate = api.gate()
    api.plays.append([*[piece("more ")] * 300, gate, end()])
    ask(page, "x")
    expect(page.locator(".answer").last).to_contain_text("more")
    spent = page.get_by_label("Your text").evaluate(
        """async input => {
          const spent = [];
          for (let i = 0; i < 50; i++) {
            const start = performance.now();
            input.setRangeText('x', input.value.length, input.value.length, 'end');
            input.dispatchEvent(new InputEvent('input', { bubbles: true }));
            input.getBoundingClientRect(); // the layout
            spent.push(performance.now() - start);
            await new Promise(requestAnimationFrame);
          }
          return spent.sort((a, b) => a - b)[25];
        }"""
    )
    assert spent < 100  # milliseconds of the median key; about 1 on one slow core
    gate.set()
    answered(page, re.compile("more"))
