"""Text on the chat page stays text, whatever it contains."""

import re

from helpers.chat_page import CHAT_MODEL, OpenPage, answered, ask, models, store
from helpers.fake_api import ErrorPlay, FakeApi, answer, event
from playwright.sync_api import expect

MARKUP = (
    "<img src=x onerror=alert(1)><script>alert(2)</script></textarea></template>&lt;b&gt; "
    "<a href='javascript:alert(3)'>x</a>${alert(4)}"
)


def test_markup_stays_text_wherever_it_comes_from(api: FakeApi, open_page: OpenPage) -> None:
    texts = dict.fromkeys(("greeting", "id", "engine"), MARKUP)
    api.models = models(CHAT_MODEL | texts | {"starters": [MARKUP] * 3})
    error = event({"error": {"message": MARKUP}})
    api.plays.extend([answer(*MARKUP), ErrorPlay(400, MARKUP), [error]])
    exchange = dict.fromkeys(("asked", "answer", "note", "failure"), MARKUP)
    page = open_page(api.url, init=store(conversation=[exchange | {"more": True}]))
    for name in (".asked", ".answer", ".note", ".failure", "#model", "#empty h2"):
        expect(page.locator(name)).to_have_text(MARKUP)
    expect(page.locator("#examples button")).to_have_text([MARKUP] * 3)
    before = page.evaluate("document.querySelectorAll('*').length")
    ask(page, MARKUP)
    answered(page, MARKUP)
    assert page.locator(".answer").last.text_content() == MARKUP
    assert page.locator(".asked").last.text_content() == MARKUP
    for words in (MARKUP, f"The server stopped: {MARKUP}"):
        ask(page, "x")
        expect(page.locator(".failure").last).to_have_text(words)
    page.reload()
    expect(page.locator(".answer").nth(1)).to_have_text(MARKUP)
    created = "img, a, b, article script, article textarea, article template"
    expect(page.locator(created)).to_have_count(0)
    # Three more articles and nothing else. Their buttons appear a moment after the text
    page.wait_for_function(
        """before => document.querySelectorAll('*').length ===
            before + 3 * (document.querySelector('article').querySelectorAll('*').length + 1)""",
        arg=before,
    )


def test_text_that_changes_the_direction_of_writing_changes_nothing_else(
    api: FakeApi, open_page: OpenPage
) -> None:
    api.plays.extend([answer("\u202eevil \u2066\u202bnested"), answer("مرحبا بالعالم")])
    page = open_page(api.url)
    ask(page, "\u202etext")
    answered(page, re.compile("nested"))
    direction = "e => getComputedStyle(e.closest('.actions') ?? e).direction"
    for name in (".asked", ".answer", ".note", "[name=copy]", "#engine"):
        assert page.locator(name).evaluate(direction) == "ltr"
    names = (".note", "[name=copy]", "[name=retry]")
    note, copy, retry = (page.locator(name).bounding_box() for name in names)
    assert note and copy and retry and copy["x"] < retry["x"] and note["x"] < 500
    ask(page, "right to left")
    answered(page, "مرحبا بالعالم")
    assert page.locator(".answer").last.evaluate("e => getComputedStyle(e).direction") == "rtl"


def test_white_space_is_kept_and_no_word_is_too_long(api: FakeApi, open_page: OpenPage) -> None:
    code = "    def f(x):\n\treturn  x\n\n\n# end"
    for text in (f"\n\n{code}\n\n", "x" * 20_000, "word " * 4_000, "🙂" * 3_000):
        api.plays.append(answer(text))
    page = open_page(api.url, viewport={"width": 320, "height": 600})
    for text in ("code", "y" * 5_000, "long", "smile"):
        ask(page, text)
        answered(page, re.compile(r"\S"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.locator("#log").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert page.locator(".answer").first.text_content() == code
    style = page.locator(".answer").first.evaluate("e => getComputedStyle(e).whiteSpace")
    assert style in ("pre-wrap", "break-spaces")
