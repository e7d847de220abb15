"""What the chat page stores in the browser."""

import pytest
from helpers.chat_page import OpenPage, answered, ask, button, status, store, stored
from helpers.fake_api import FakeApi, answer, end, piece
from playwright.sync_api import expect


def test_a_conversation_survives_a_reload(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("one"), answer("two")])
    page = open_page(api.url)
    for text, expected in (("first", "one"), ("second", "two")):
        ask(page, text)
        answered(page, expected)
    note = page.locator(".note").last.text_content()
    page.reload()
    expect(page.locator(".asked")).to_have_text(["first", "second"])
    expect(page.locator(".answer")).to_have_text(["one", "two"])
    expect(page.locator(".note").last).to_have_text(str(note))


def test_a_reload_before_an_answer_begins_is_not_a_failure_of_the_server(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.answers = api.gate()
    page = open_page(api.url)
    ask(page, "x")
    expect(status(page)).to_have_text("Reading …")
    page.reload()
    expect(page.locator(".failure")).to_contain_text("Not finished")
    # There is nothing to continue
    expect(button(page, "Continue")).to_be_hidden()
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
    assert api.requests[1]["messages"][0]["content"] == "This is half an"
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
    settings = conversation
    if conversation == "{}":
        settings = '{"temperature": "hot", "top_p": 1e9, "max_tokens": 100000, "x": 1, "top_k": 3}'
    page = open_page(api.url, init=store(conversation=conversation, settings=settings))
    ask(page, "x")
    answered(page, "Yes.")
    assert api.requests[0].items() >= {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64}.items()
    assert api.requests[0]["top_k"] == (3 if conversation == "{}" else 40)
    assert stored(page)[-1]["answer"] == "Yes."
    expect(page.locator("article")).to_have_count(2 if "kept" in conversation else 1)


@pytest.mark.parametrize("trouble", ["full", "forbidden"])
def test_storage_that_is_full_or_forbidden_breaks_nothing(
    trouble: str, api: FakeApi, open_page: OpenPage
) -> None:
    full = """Storage.prototype.setItem = () => {
        throw new DOMException('no room', 'QuotaExceededError');
    };"""
    forbidden = """
        const get = () => { throw new DOMException('forbidden', 'SecurityError'); };
        for (const name of ['localStorage', 'sessionStorage'])
            Object.defineProperty(window, name, { get });
    """
    api.token = "s3cret"
    page = open_page(f"{api.url}#token=s3cret", init=full if trouble == "full" else forbidden)
    ask(page, "x")
    answered(page, "Yes.")
    expect(status(page)).to_contain_text("storage is full")
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
    assert api.requests[-1]["top_k"] == 9


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
    # The last writer wins, in both
    expect(first.locator(".answer").last).to_have_text("bb")
    assert stored(first)[-1]["answer"] == "bb" and not stored(first)[-1]["failure"]
