"""Stop, retry, continue, edit, clear, copy and the settings of the chat page."""

import itertools
import re

import pytest
from helpers.chat_page import OpenPage, answered, ask, button, status, stored
from helpers.fake_api import MODEL, ErrorPlay, FakeApi, answer, piece
from playwright.sync_api import expect


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
    expect(status(page)).to_have_text("Waiting: 4 ahead of you")
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
    assert len(api.requests) == 1


def test_retry_asks_the_same_again(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("one"), answer("two"), answer("three")])
    page = open_page(api.url)
    ask(page, "first")
    answered(page, "one")
    ask(page, "second")
    answered(page, "two")
    # Only for the last answer
    expect(button(page, "Retry")).to_have_count(1)
    button(page, "Retry").click()
    answered(page, "three")
    assert api.requests[1]["messages"] == api.requests[2]["messages"]
    assert [exchange["answer"] for exchange in stored(page)] == ["one", "three"]


def test_a_retry_that_fails_loses_no_answer(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("precious"), ErrorPlay(503, "busy")])
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
    # The model ended that answer
    expect(button(page, "Continue")).to_have_count(0)
    ask(page, "The function returns")
    answered(page, "a result")
    button(page, "Continue").click()
    answered(page, "a result of None.")
    texts = [message["content"] for message in api.requests[2]["messages"]]
    assert texts == ["before", "earlier", "The function returns a result"]
    expect(page.locator(".note").last).to_contain_text("4 more tokens")


def test_continue_sends_the_end_of_a_text_that_fills_the_context(
    api: FakeApi, open_page: OpenPage
) -> None:
    words = " ".join(f"word{i}" for i in range(100))
    api.plays.append(answer(words, reason="length", tokens=64))
    page = open_page(api.url)
    ask(page, "Many:")
    answered(page, words)
    button(page, "Continue").click()
    answered(page, f"{words}Yes.")
    sent = api.requests[1]["messages"][0]["content"]
    assert words.endswith(sent) and sent.startswith("word") and 370 < len(sent) <= 2 * (256 - 64)
    expect(page.locator(".note")).to_contain_text("continued from the last 384 characters")


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
    assert api.requests[1]["messages"] == [{"role": "user", "content": "first"}]


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
    forbidden = "navigator.clipboard.writeText = () => Promise.reject(new Error('forbidden'))"
    for script in ("", forbidden):
        page.evaluate(f"navigator.clipboard.writeText('nothing').then(() => {{ {script} }})")
        page.locator("[name=copy]").click()
        page.wait_for_function("navigator.clipboard.readText().then(text => text === 'a\\n  b')")
    expect(page.locator("[name=copy]")).to_have_text("Copied")
    expect(page.locator("[name=copy]")).to_have_text("Copy")


def test_settings_are_sent_and_survive_a_reload(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    ask(page, "x")
    answered(page, "Yes.")
    defaults = MODEL["defaults"]
    assert isinstance(defaults, dict)
    assert defaults.items() <= api.requests[0].items() and "seed" not in api.requests[0]
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
        assert api.requests[-1].items() >= dict(chosen.values()).items()
        assert api.requests[-1]["repeat_penalty"] == 1.1
        page.reload()
        expect(page.locator("#engine")).to_contain_text("llama.cpp")
    button(page, "Settings").click()
    expect(page.get_by_label("Top-k")).to_have_value("7")
    button(page, "Defaults").click()
    expect(page.get_by_label("Top-k")).to_have_value("40")
    page.keyboard.press("Escape")
    ask(page, "x")
    answered(page, "Yes.")
    assert defaults.items() <= api.requests[-1].items() and "seed" not in api.requests[-1]
    assert stored(page, "settings") == {}


def test_a_setting_out_of_range_is_refused(api: FakeApi, open_page: OpenPage) -> None:
    page = open_page(api.url)
    button(page, "Settings").click()
    for label, value, words in (
        ("Temperature", "2.5", "Temperature must be a number from 0 to 2."),
        ("Top-k", "1.5", "Top-k must be a whole number from 1 to 1000."),
        # The context of the model
        ("Length", "257", "Length must be a whole number from 1 to 256."),
    ):
        field = page.get_by_label(label)
        field.fill(value)
        expect(field).to_have_accessible_description(words)
        button(page, "Close").click()
        expect(field).to_be_focused()
        # Empty means the default
        field.fill("")
        expect(field).to_have_attribute("aria-invalid", "false")
    page.get_by_label("Top-p").fill("7")
    page.keyboard.press("Escape")
    ask(page, "x")
    answered(page, "Yes.")
    defaults = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "max_tokens": 64}
    assert api.requests[0].items() >= defaults.items()
