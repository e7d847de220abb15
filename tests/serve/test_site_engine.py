"""A page without a server: llama.cpp in a real browser gives the answers of `antimatter serve`."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.backends import CONFIG
from helpers.chat_page import OpenPage, answered, ask, button, status
from helpers.command import ROOT
from helpers.fake_wllama import hosting
from helpers.gguf_model import Tiny
from helpers.http_server import CHAT, serving
from playwright.sync_api import Browser, Route, expect

from antimatter import files
from antimatter.errors import UserError
from antimatter.llama.header import read_header
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.site import build, wllama

# Keeps the engine that the page creates, for a test
INIT = """Object.defineProperty(globalThis, "createEngine", {
    get: () => globalThis.create,
    set: create => {
        globalThis.create = (...given) => globalThis.testedEngine = create(...given);
    },
});"""
ANSWER = """async ([body, most]) => {
    const controller = new AbortController(), chunks = [];
    try {
        for await (const chunk of testedEngine.answer(body, controller.signal, () => {})) {
            chunks.push(chunk);
            if (chunks.length === most) controller.abort();
        }
    } catch (error) { return { error: error.message }; }
    const last = chunks.at(-1);
    return {
        content: chunks.map(chunk => chunk.choices[0].delta.content ?? "").join(""),
        finish_reason: last.choices[0].finish_reason,
        prompt_tokens: last.usage.prompt_tokens,
        completion_tokens: last.usage.completion_tokens,
        dropped_turns: last.antimatter.dropped_turns,
    };
}"""
USER, ASSISTANT = "user", "assistant"


@pytest.fixture(scope="session")
def package() -> Path:
    """The pinned package, from .state or the registry. CI must have it."""
    cache = ROOT / wllama.CACHE
    deadline = time.monotonic() + 60
    while True:
        try:
            return wllama.package(None, print, cache)
        except files.Locked:
            # Another process of these tests downloads it
            assert time.monotonic() < deadline
            time.sleep(0.1)
        except UserError as error:
            end = pytest.fail if os.environ.get("CI") else pytest.skip
            end(f"the package of llama.cpp for browsers cannot be fetched ({error})")


@pytest.fixture(scope="module")
def sites(tiny: Tiny, package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a chat model and of a base model."""
    folders = {}
    for kind, path in (("chat", tiny.chat_path), ("base", tiny.path)):
        folders[kind] = tmp_path_factory.mktemp("site") / kind
        facts = {"Fact": "<b>bold</b>"}
        build.write(folders[kind], path, read_header(path), package, CONFIG, facts)
    return folders


@pytest.fixture
def chat(sites: dict[str, Path]) -> Iterator[str]:
    """The address of the page, in a subfolder of its host."""
    with hosting(sites["chat"].parent) as address:
        yield f"{address}chat/"


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def bodies() -> list[dict[str, Any]]:
    """Conversations with everything that decides an answer."""
    long = [message((USER, ASSISTANT)[i % 2], f"turn {i} of words") for i in range(21)]
    texts = [
        *("Who are you?", "The function returns", "  two  blanks  ", "\n\nlines\n", "x"),
        *("[EOS]", "a [USER] b [ASSISTANT]", "[[BOS]]", "[SYSTEM", "<|endoftext|> [INST]"),
        *(
            "é 漢字 🙂 👩‍👩‍👧",
            "\u0000 \ufeff",
            "e\u0301",
            "naïve 'quotes' \"too\"",
            "if self:\n\treturn",
        ),
    ]
    return [
        *({"messages": [message(USER, text)]} for text in texts),
        {"messages": [message(USER, "Hello"), message(ASSISTANT, " Hi. "), message(USER, "You?")]},
        {"messages": [message(USER, "Go on"), message(ASSISTANT, "The parser")]},
        {"messages": long},
        {"messages": long[:-1]},
        {"messages": [message(USER, "words " * 5)], "max_tokens": 60},
        {"messages": [message(USER, "words " * 200)]},
        {"messages": [message(USER, "the the the the")], "repeat_penalty": 1.5},
        {"messages": [message(USER, "a")], "max_tokens": 1},
    ]


def served(backend: EmbeddedBackend, all_bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of `antimatter serve`, in the form of ANSWER."""
    answers = []
    with serving(backend) as server:
        for body in all_bodies:
            _, _, content = server.request("POST", CHAT, body)
            answer = json.loads(content)
            if "error" in answer:
                answers.append({"error": answer["error"]["message"]})
                continue
            (choice,), usage = answer["choices"], answer["usage"]
            answers.append(
                {
                    "content": choice["message"]["content"],
                    "finish_reason": choice["finish_reason"],
                    "prompt_tokens": usage["prompt_tokens"],
                    "completion_tokens": usage["completion_tokens"],
                    "dropped_turns": answer["antimatter"]["dropped_turns"],
                }
            )
    return answers


@pytest.mark.parametrize("kind", ["chat", "base"])
def test_it_answers_as_the_server_does(
    kind: str, tiny: Tiny, sites: dict[str, Path], open_page: OpenPage
) -> None:
    """Greedily, token for token, with the same counts, cuts and errors."""
    backend = EmbeddedBackend(tiny.chat_path if kind == "chat" else tiny.path, 64)
    try:
        expected = served(backend, bodies())
    finally:
        backend.close()
    assert len({answer.get("content") for answer in expected}) > 8
    assert sum(answer.get("dropped_turns", 0) > 0 for answer in expected) == 2
    assert sum("error" in answer for answer in expected) == 1
    with hosting(sites[kind]) as address:
        page = open_page(address, init=INIT)
        for body, answer in zip(bodies(), expected, strict=True):
            assert page.evaluate(ANSWER, [body, 0]) == answer, body


def test_a_seed_repeats_an_answer(chat: str, open_page: OpenPage) -> None:
    page = open_page(chat, init=INIT)
    body = {"messages": [message(USER, "Hello")], "temperature": 2, "max_tokens": 30}
    seeds = (1, 0, 4294967295, 1)
    texts = [page.evaluate(ANSWER, [body | {"seed": seed}, 0])["content"] for seed in seeds]
    assert texts[0] == texts[3] and len(set(texts)) == 3
    # Without one, the seed is the second of the day
    free = page.evaluate(ANSWER, [body, 0])["content"]
    page.wait_for_timeout(1100)
    assert page.evaluate(ANSWER, [body, 0])["content"] not in (free, *texts)


def test_a_stopped_answer_leaves_the_next_one_unchanged(chat: str, open_page: OpenPage) -> None:
    page = open_page(chat, init=INIT)
    body = {"messages": [message(USER, "Hello")]}
    whole = page.evaluate(ANSWER, [body, 0])
    assert "abort" in page.evaluate(ANSWER, [body, 3])["error"]
    assert page.evaluate(ANSWER, [body, 0]) == whole
    # Two at a time wait for each other
    both = page.evaluate(f"body => Promise.all([[body, 2], [body, 0]].map({ANSWER}))", body)
    assert "abort" in both[0]["error"] and both[1] == whole


def test_a_conversation_on_the_page(chat: str, open_page: OpenPage) -> None:
    page = open_page(chat)
    expect(page.get_by_text("Hello! Ask é me.")).to_be_visible()
    expect(page.locator("#engine")).to_have_text(
        re.compile("llama.cpp in this browser.* one thread")
    )
    # All that it needs is there now
    expect(page.locator("#loading")).to_have_count(0)
    page.context.set_offline(True)
    button(page, "Who are you?").click()
    expect(page.locator(".note")).to_have_text(re.compile(r"20 tokens · [\d.]+ tokens/s · stopped"))
    first = page.locator(".answer").text_content()
    assert first
    button(page, "Retry").click()
    answered(page, re.compile("."))
    assert page.locator(".answer").text_content() == first
    button(page, "Continue").click()
    expect(page.locator(".note")).to_have_text(re.compile("more tokens"))
    ask(page, "many words " * 100)
    expect(page.get_by_text("shorten it")).to_be_visible()
    button(page, "About").click()
    expect(page.locator("#about dd").last).to_have_text("<b>bold</b>")


def test_a_question_while_the_model_loads_is_answered(chat: str, open_page: OpenPage) -> None:
    held: list[Route] = []
    page = open_page(chat)
    page.route("**/*.gguf*", lambda route: held.append(route))
    page.reload()
    expect(page.locator("#loading")).to_have_text(
        re.compile(r"Loading the model: [\d.]+ of [\d.]+ MB")
    )
    expect(page.get_by_role("progressbar", name="Loading the model")).to_be_visible()
    ask(page, "Stop this one")
    button(page, "Stop").click()
    expect(page.get_by_text("Stopped by you")).to_be_visible()
    ask(page, "Hello")
    expect(button(page, "Stop")).to_be_visible()
    held[0].continue_()
    answered(page, re.compile("."))
    expect(page.locator("#loading")).to_have_count(0)
    expect(page.locator(".note").last).to_have_text(re.compile("tokens/s"))


def test_a_folder_without_its_model_is_one_clear_line(
    sites: dict[str, Path], tmp_path: Path, open_page: OpenPage
) -> None:
    folder = Path(shutil.copytree(sites["chat"], tmp_path / "site"))
    (model,) = folder.glob("*.gguf")
    content = model.read_bytes()
    model.unlink()
    with hosting(folder) as address:
        page = open_page(address)
        words = f"{model.name} cannot be loaded: the host answered 404. Is the folder complete?"
        expect(status(page)).to_have_text(words)
        model.write_bytes(content[:-1])
        button(page, "Retry").click()
        expect(status(page)).to_have_text(re.compile(f"has {len(content) - 1} bytes instead of"))
        zeros = bytes(len(content))
        for damaged in (zeros, b"GGUF" + zeros[4:]):
            model.write_bytes(damaged)
            button(page, "Retry").click()
            words = f"{model.name} cannot be read by llama.cpp: it is damaged"
            expect(status(page)).to_have_text(re.compile(re.escape(words)))
            # A retry removes the words, so those of the next one are new
            model.write_bytes(content[:-1])
            button(page, "Retry").click()
            expect(status(page)).to_have_text(re.compile("bytes instead of"))
        model.write_bytes(content)
        ask(page, "Hello")
        answered(page, re.compile("."))


def test_a_damaged_llama_cpp_is_one_clear_line(
    sites: dict[str, Path], tmp_path: Path, browser: Browser
) -> None:
    """In a page of its own, as WebAssembly that does not compile is an error in the worker too."""
    folder = Path(shutil.copytree(sites["chat"], tmp_path / "site"))
    engine = folder / "wllama" / wllama.SINGLE
    whole = engine.read_bytes()
    engine.write_bytes(bytes(len(whole)))
    page = browser.new_page()
    with hosting(folder) as address:
        page.goto(address)
        expect(status(page)).to_have_text(re.compile("does not start in this browser"))
        engine.write_bytes(whole)
        button(page, "Retry").click()
        ask(page, "Hello")
        answered(page, re.compile("."))
        page.close()


def test_the_browser_refuses_markup_and_other_hosts(chat: str, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(chat)
    violations = """async () => {
        const found = new Set();
        document.addEventListener("securitypolicyviolation", event =>
            found.add(event.effectiveDirective));
        const image = Object.assign(new Image(), { src: "/x.png" });
        for (const act of [
            () => { document.body.innerHTML = "<b>x</b>"; },
            () => new Worker("https://example.org/x.js"),
            () => new Worker(URL.createObjectURL(new Blob(["1"]))),
            () => eval("1"),
            () => fetch("https://example.org/"),
            () => document.body.append(image),
        ]) try { await act(); } catch { /* refused */ }
        await new Promise(resolve => setTimeout(resolve, 100));
        return [...found].sort();
    }"""
    refused = ["connect-src", "img-src", "require-trusted-types-for"]
    assert page.evaluate(violations) == refused
    page.close()


def test_threads_are_used_where_the_host_isolates_the_page(
    sites: dict[str, Path], open_page: OpenPage
) -> None:
    cores = "Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', { get: () => 4 });"
    body = {"messages": [message(USER, "Hello")]}
    answers = []
    for isolated, words in ((True, "2 threads"), (False, "one thread")):
        with hosting(sites["chat"], isolated) as address:
            page = open_page(address, init=cores + INIT)
            expect(page.locator("#engine")).to_have_text(re.compile(words))
            answers.append(page.evaluate(ANSWER, [body, 0]))
    assert "content" in answers[0] and answers[0] == answers[1]


def test_from_a_file_the_page_says_what_to_run(sites: dict[str, Path], browser: Browser) -> None:
    page = browser.new_page()
    page.goto((sites["chat"] / "index.html").as_uri())
    expect(status(page)).to_have_text(re.compile("Run `python -m http.server`"))
    page.close()
