"""What Ollama's API refuses, and what it accepts because it changes nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.backends import ScriptedBackend
from helpers.http_server import Served, serving

CHAT, GENERATE = "/api/chat", "/api/generate"


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedBackend, Served]]:
    backend = ScriptedBackend(repeats=1, pause=0)
    with serving(backend) as served:
        yield backend, served


def body(**options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "x"}]
    return {"model": "antimatter", "messages": messages, "stream": False, **options}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "must be a JSON object"),
        ({}, "model is required"),
        ({"model": ""}, "model is required"),
        ({"model": 5}, "model must be a text, got 5"),
        (body(tools=[{}]), "tools a list of 1 is not supported"),
        (body(format="json"), 'format "json" is not supported'),
        (body(format={"type": "object"}), "format an object of 1 is not supported"),
        (body(think=True), "think true is not supported"),
        (body(think="high"), 'think "high" is not supported'),
        (body(logprobs=True), "logprobs true is not supported"),
        (body(truncate=False), "truncate false is not supported"),
        (body(prompt="x"), 'the key "prompt" is not known'),
        (body(keep_alive=[]), "keep_alive must be a number of seconds or a text"),
        (body(stream="no"), "stream must be true or false"),
        (body(messages={"role": "user"}), "messages must be a list"),
        (body(messages=["x"]), "messages[0] must be an object"),
        (body(messages=[{"role": "tool", "content": "x"}]), 'role "tool" is not supported'),
        (body(messages=[{"role": "user", "images": ["x"]}]), "messages[0].images a list of 1"),
        (body(options=[]), "options must be an object, got a list of 0"),
        (body(options={"temprature": 1}), 'the key "options.temprature" is not known'),
        (body(options={"temperature": 11}), "options.temperature must lie in [0, 10], got 11"),
        (body(options={"num_predict": 0}), "options.num_predict must lie in [1, 2147483647]"),
        (body(options={"num_predict": 1.5}), "options.num_predict must be an integer, got 1.5"),
        (body(options={"num_ctx": 1}), "options.num_ctx must lie in [2, 2147483647], got 1"),
        (body(options={"mirostat": 2}), "options.mirostat 2 is not supported"),
        (body(options={"stop": 5}), "options.stop must be a text or a list of texts, got 5"),
        (body(options={"seed": "1"}), 'options.seed must be an integer, got "1"'),
    ],
)
def test_a_bad_request_is_refused_by_key_and_value(
    scripted: tuple[ScriptedBackend, Served], asked: Any, words: str
) -> None:
    backend, served = scripted
    status, answer = served.post(asked, CHAT)
    assert status == 400 and answer.keys() == {"error"} and words in answer["error"]
    assert backend.prompts == [] and served.log == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("context", [1, 2]),
        ("suffix", "x"),
        ("template", "{{ .Prompt }}"),
        ("images", ["x"]),
        ("prompt", ["x"]),
        ("raw", "yes"),
        ("system", 5),
        ("messages", []),
    ],
)
def test_a_text_to_continue_has_its_own_rules(
    scripted: tuple[ScriptedBackend, Served], key: str, value: Any
) -> None:
    _, served = scripted
    status, answer = served.post({"model": "antimatter", "prompt": "x", key: value}, GENERATE)
    assert status == 400 and key in answer["error"]


def test_raw_mode_has_no_system_text(scripted: tuple[ScriptedBackend, Served]) -> None:
    _, served = scripted
    asked = {"model": "antimatter", "prompt": "x", "raw": True, "system": "y"}
    status, answer = served.post(asked, GENERATE)
    assert status == 400 and "raw mode does not support system" in answer["error"]


def test_empty_values_of_what_is_not_implemented_are_accepted(
    scripted: tuple[ScriptedBackend, Served],
) -> None:
    _, served = scripted
    empty = {"tools": [], "format": "", "think": False, "options": None, "keep_alive": None}
    message = {"role": "user", "content": "x", "images": [], "tool_calls": [], "thinking": ""}
    assert served.post(body(messages=[message]) | empty, CHAT)[0] == 200
    text = {"model": "antimatter", "prompt": "x", "context": [], "suffix": "", "template": ""}
    assert served.post(text | {"images": [], "stream": False}, GENERATE)[0] == 200
