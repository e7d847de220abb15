"""The chat page for a keyboard, a phone, and eyes with different needs."""

import re

import pytest
from helpers.chat_page import STORED, OpenPage, answered, ask, button, store
from helpers.fake_api import FakeApi, answer, end, event, piece
from playwright.sync_api import expect


def test_everything_can_be_done_with_the_keyboard(api: FakeApi, open_page: OpenPage) -> None:
    api.plays.extend([answer("one", reason="length"), answer(" and more"), answer("again")])
    page = open_page(api.url)
    field = page.get_by_label("Your text")
    # One can type at once
    expect(field).to_be_focused()
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    expect(field).to_have_value("first line\nsecond line")
    page.keyboard.press("Enter")
    answered(page, "one")
    assert api.requests[0]["messages"][0]["content"] == "first line\nsecond line"
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    # There is nothing to send
    page.keyboard.press("Enter")
    back = ["Your text", "Edit", "Retry", "Continue", "Copy", "Chat", "Clear", "Settings"]
    for key, names in (("Tab", ["Send"]), ("Shift+Tab", back)):
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
    composition = {"text": "にほん", "selectionStart": 3, "selectionEnd": 3}
    session.send("Input.imeSetComposition", composition)
    expect(field).to_have_value("にほん")
    press_enter = """(e, init) => e.dispatchEvent(
        new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...init }))"""
    for init in ({"isComposing": True}, {"keyCode": 229}):
        field.evaluate(press_enter, init)
    page.keyboard.press("Enter")
    session.send("Input.insertText", {"text": "日本"})
    expect(page.locator("article")).to_have_count(0)
    assert not api.requests
    page.keyboard.press("Enter")
    answered(page, "Yes.")
    assert "日本" in api.requests[0]["messages"][0]["content"]


SMALL = """[...document.querySelectorAll('button, input, textarea')]
    .filter(e => e.checkVisibility())
    .filter(e => e.getBoundingClientRect().height < 44
        || parseFloat(getComputedStyle(e).fontSize) < (e.localName === 'button' ? 14 : 16))
    .map(e => e.id || e.textContent)"""
OUTSIDE = """right => [...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > right)
    .map(e => e.outerHTML)"""
PAGE_SIZE = """(() => {
    const { scrollWidth, scrollHeight } = document.documentElement;
    return [scrollWidth, scrollHeight];
})()"""


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_nothing_is_too_wide_too_small_or_zooms(
    width: int, api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.append(answer("one two " * 30, reason="length", dropped=2))
    page = open_page(
        api.url, viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True
    )

    def fits() -> None:
        assert page.evaluate(PAGE_SIZE) == [width, 640]
        assert page.evaluate(SMALL) == [] and page.evaluate(OUTSIDE, width + 1) == []

    expect(page.locator("#engine")).to_contain_text("llama.cpp")
    fits()
    page.get_by_label("Your text").fill("x")
    button(page, "Send").tap()
    answered(page, re.compile("one two"))
    fits()
    button(page, "Retry").tap()
    answered(page, "Yes.")
    # A focused field would bring up the keyboard
    expect(page.get_by_label("Your text")).not_to_be_focused()
    button(page, "Settings").tap()
    fits()
    assert page.locator("meta[name=viewport]").get_attribute("content")


# The contrast ratio of each visible text, by WCAG 2
CONTRAST = """() => {
  const rgb = colour => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return { c: [r, g, b], a };
  };
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = e => {
    const { c, a } = rgb(getComputedStyle(e).backgroundColor);
    return a ? c : behind(e.parentElement);
  };
  const ratios = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.placeholder;
    if (!text || !e.checkVisibility() || e.matches('script, .unseen')) continue;
    const colours = [getComputedStyle(e).color];
    if (e.placeholder) colours.push(getComputedStyle(e, '::placeholder').color);
    for (const colour of colours) {
      const [a, b] = [light(rgb(colour).c), light(behind(e))].sort((x, y) => y - x);
      ratios.push([(a + 0.05) / (b + 0.05), `${e.localName}.${e.className}#${e.id}`]);
    }
  }
  return ratios;
}"""


def test_text_has_enough_contrast_in_light_and_in_dark(api: FakeApi, open_page: OpenPage) -> None:
    pages = []
    for scheme in ("light", "dark"):
        page = open_page(api.url, color_scheme=scheme, init=store(conversation=[STORED]))
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
        assert [(ratio, element) for ratio, element in measured if ratio < 4.5] == []
        style = "(({ color, backgroundColor }) => [color, backgroundColor])"
        pages.append(page.evaluate(f"{style}(getComputedStyle(document.body))"))
    assert pages[0] != pages[1]


def test_nothing_moves_for_users_who_prefer_that(api: FakeApi, open_page: OpenPage) -> None:
    moves = "getComputedStyle(document.querySelector('.writing .answer'), '::after').animationName"
    for preference, name in (("reduce", "none"), ("no-preference", "blink")):
        api.plays.append([piece("x"), api.gate()])
        page = open_page(api.url, reduced_motion=preference)
        ask(page, "x")
        expect(page.locator(".answer")).to_have_text("x")
        assert page.evaluate(moves) == name


def test_the_page_follows_the_answer_only_for_a_reader_at_its_end(
    api: FakeApi, open_page: OpenPage
) -> None:
    first, second = api.gate(), api.gate()
    lines, more = piece("line\n" * 80), piece("more\n" * 40)
    api.plays.append([lines, first, more, second, piece("last"), end()])
    page = open_page(api.url)
    ask(page, "x")
    below = "log => Math.round(log.scrollHeight - log.scrollTop - log.clientHeight)"
    is_at_end = f"({below})(document.getElementById('log')) < 2"
    expect(page.locator(".answer")).to_contain_text("line")
    page.wait_for_function(is_at_end)
    page.locator("#log").evaluate("e => e.scrollTo(0, 200)")
    expect(button(page, "↓ Latest")).to_be_visible()
    first.set()
    expect(page.locator(".answer")).to_contain_text("more")
    assert page.locator("#log").evaluate("e => e.scrollTop") == 200
    button(page, "↓ Latest").click()
    page.wait_for_function(is_at_end)
    second.set()
    answered(page, re.compile("last"))
    page.wait_for_function(is_at_end)
    expect(button(page, "↓ Latest")).to_be_hidden()


def test_a_selection_survives_what_is_written_after_it(api: FakeApi, open_page: OpenPage) -> None:
    gate = api.gate()
    api.plays.append([piece("chosen words"), gate, piece(" and more "), end()])
    page = open_page(api.url)
    ask(page, "x")
    expect(page.locator(".answer")).to_have_text("chosen words")
    select = "e => getSelection().setBaseAndExtent(e.firstChild, 0, e.firstChild, 6)"
    page.locator(".answer").evaluate(select)
    gate.set()
    answered(page, "chosen words and more")
    assert page.evaluate("getSelection().toString()") == "chosen"


def test_a_long_conversation_does_not_slow_the_typing(api: FakeApi, open_page: OpenPage) -> None:
    words = {"answer": "some words of an answer " * 40}
    long = [STORED | words | {"asked": f"Question {i}"} for i in range(200)]
    page = open_page(api.url, init=store(conversation=long))
    expect(page.locator("article")).to_have_count(200)
    # Its end is visible
    page.wait_for_function("document.getElementById('log').scrollTop > 0")
    gate = api.gate()
    api.plays.append([*[piece("more ")] * 300, gate, end()])
    ask(page, "x")
    expect(page.locator(".answer").last).to_contain_text("more")
    median = page.get_by_label("Your text").evaluate(
        """async input => {
          const times = [];
          for (let i = 0; i < 50; i++) {
            const start = performance.now();
            input.setRangeText('x', input.value.length, input.value.length, 'end');
            input.dispatchEvent(new InputEvent('input', { bubbles: true }));
            input.getBoundingClientRect(); // the layout
            times.push(performance.now() - start);
            await new Promise(requestAnimationFrame);
          }
          return times.sort((a, b) => a - b)[25];
        }"""
    )
    # Milliseconds for a key; about 1 on one slow core
    assert median < 100
    gate.set()
    answered(page, re.compile("more"))
