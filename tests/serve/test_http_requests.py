"""What the HTTP API refuses: bodies, keys, paths and methods."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.backends import ScriptedBackend
from helpers.http_server import CHAT, COMPLETE, Served, question, serving


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(ScriptedBackend(repeats=1, n_ctx=2_000)) as served:
        yield served
        assert served.log == []


def with_message(**message: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"} | message]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe{}", "the body is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is not valid JSON"),
        (b"[]", "must be a JSON object, got a list of 0"),
        (b'"x"', 'must be a JSON object, got "x"'),
        (b"null", "must be a JSON object, got nothing"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"messages":' + b'{"a":' * 50_000, "nested too deeply"),
        (b'{"model":"a","model":"a"}', 'duplicate key "model"'),
        (b'{"temperature":NaN}', "NaN is not a finite number"),
        (b'{"temperature":-Infinity}', "-Infinity is not"),
        (b'{"temperature":1e400}', "1e400 is not"),
        (b'{"seed":' + b"9" * 5000 + b"}", "9999… is too large a number"),
        ({}, "messages must be a list with at least one message, got nothing"),
        ({"messages": []}, "messages must be a list with at least one message"),
        ({"messages": {}}, "messages must be a list"),
        ({"messages": ["hi"]}, 'messages[0] must be an object like {"role": "user", "content"'),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a text, got nothing"),
        (with_message(content={}), "messages[0].content must be a text, got an object of 0"),
        (with_message(content=[]), "messages[0].content must be a text or a list of text parts"),
        (with_message(content=["x"]), "messages[0].content[0] must be an object like"),
        (with_message(content=[{"text": "x"}]), "messages[0].content[0] must be an object like"),
        (
            with_message(content=[{"type": "text"}]),
            "messages[0].content[0].text must be a text, got nothing",
        ),
        (
            with_message(content=[{"type": "text", "text": "x"}, {"type": "image_url"}]),
            'messages[0].content[1].type "image_url" is not supported: this model reads text',
        ),
        (with_message(content=[{"type": []}]), "messages[0].content[0] must be an object like"),
        (with_message(role="root"), "messages[0].role must be system, user, assistant, developer"),
        (with_message(role=["user"]), "messages[0].role must be system, user, assistant"),
        (with_message(role="tool"), 'messages[0].role "tool" is not supported'),
        (with_message(role="function"), 'messages[0].role "function" is not supported'),
        (with_message(nmae="y"), 'messages[0] has the unknown key "nmae"'),
        (with_message(nmae=""), 'messages[0] has the unknown key "nmae"'),
        (with_message(name=5), "messages[0].name must be a text, got 5"),
        (with_message(tool_calls=[{}]), "messages[0].tool_calls a list of 1 is not supported"),
        (with_message(tool_calls={}), "messages[0].tool_calls an object of 0 is not supported"),
        ({"messages": [{}] * 1001}, "messages must be at most 1000, got 1001"),
        (question("\ud800"), "messages[0].content has half of a surrogate pair, \\ud800"),
        (question(stop="\udfff"), "stop[0] has half of a surrogate pair"),
        (question(temprature=1), 'the key "temprature" is not known here'),
        (question(temprature=None), 'the key "temprature" is not known here'),
        (question(**{"\x1b[2J\n" * 30: 1}), 'the key "\\u001b[2J\\n'),
        (question(prompt="x"), 'prompt "x" is not supported'),
        (question(temperature="hot"), 'temperature must be a number, got "hot"'),
        (question(temperature=True), "temperature must be a number, got true"),
        (question(temperature=-1), "temperature must lie in [0, 10], got -1"),
        (question(temperature=10**400), "temperature must lie in [0, 10], got 1000"),
        (question(top_p=0), "top_p must lie in (0, 1], got 0"),
        (question(top_k=-2), "top_k must lie in [-1, 2147483647], got -2"),
        (question(top_k=1.5), "top_k must be an integer, got 1.5"),
        (question(top_k=2**31), "top_k must lie in [-1, 2147483647], got 2147483648"),
        (question(repeat_penalty=0), "repeat_penalty must lie in [0.01, 100], got 0"),
        (question(max_tokens=0), "max_tokens must lie in [1, 2147483647], got 0"),
        (
            question(max_completion_tokens=0),
            "max_completion_tokens must lie in [1, 2147483647], got 0",
        ),
        (question(max_tokens=-5), "max_tokens must lie in [1, 2147483647], got -5"),
        (
            question(max_tokens=1, max_completion_tokens=2),
            "max_tokens 1 and max_completion_tokens 2 differ: leave one out",
        ),
        (question(max_tokens=-1.0), "max_tokens must be an integer, got -1.0"),
        (question(max_tokens=True), "max_tokens must be an integer, got true"),
        (question(seed="1"), 'seed must be an integer, got "1"'),
        (question(seed=2**63), "seed must lie in"),
        (question(stop=["", "x" * 257]), "stop[1] must have at most 256 characters, got 257"),
        (question(stop=["x"] * 17), "stop must be at most 16 texts, got 17"),
        (question(stop=[1]), "stop[0] must be a text, got 1"),
        (question(stop=1), "stop must be a text or a list of texts, got 1"),
        (question(stream="yes"), 'stream must be true or false, got "yes"'),
        (question(stream=1), "stream must be true or false, got 1"),
        (question(stream_options={"x": 1}), "stream_options must be like"),
        (question(n=0), "n must lie in [1, 128], got 0"),
        (question(n=129), "n must lie in [1, 128], got 129"),
        (question(n=True), "n must be an integer, got true"),
        (question(n=2, best_of=3), "best_of 3 is not supported"),
        (question(n=2, best_of=1), "best_of 1 is not supported"),
        (question(tools=[{"type": "function"}]), "tools a list of 1 is not supported"),
        (
            question(response_format={"type": "json_object"}),
            "response_format an object of 1 is not",
        ),
        (question(logit_bias={"1": 5}), "logit_bias an object of 1 is not supported"),
        (question(presence_penalty=2.5), "presence_penalty must lie in [-2, 2], got 2.5"),
        (question(frequency_penalty="1"), 'frequency_penalty must be a number, got "1"'),
        (question(min_p=1.5), "min_p must lie in [0, 1], got 1.5"),
        (question(typical_p=-1), "typical_p must lie in [0, 1], got -1"),
        (question(repeat_last_n=-2), "repeat_last_n must lie in [-1, 2147483647], got -2"),
        (question(logprobs=True), "logprobs true is not supported"),
        (question(top_logprobs=5), "top_logprobs 5 is not supported"),
        (question(reasoning_effort="low"), 'reasoning_effort "low" is not supported'),
        (question(tool_choice="required"), 'tool_choice "required" is not supported'),
        (question(model=5), "model must be a text, got 5"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_bad_request_is_refused_by_key_and_value(served: Served, body: Any, words: str) -> None:
    status, message = served.error(body)
    assert status == 400
    assert words in message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "prompt must be a text or a list of texts, got nothing"),
        ({"prompt": []}, "prompt must have 1 to 128 texts, got a list of 0"),
        ({"prompt": ["a", None]}, "prompt[1] must be a text, got nothing"),
        ({"prompt": [1, 2]}, "token ids are not supported"),
        ({"prompt": [[1, 2]]}, "token ids are not supported"),
        ({"prompt": ["a"] * 129}, "prompt must have 1 to 128 texts, got a list of 129"),
        ({"prompt": ["a"] * 65, "n": 2}, "n times the number of prompts must be at most 128"),
        ({"prompt": "a", "messages": []}, "messages a list of 0 is not supported"),
        ({"prompt": "a", "echo": True}, "echo true is not supported"),
        ({"prompt": "a", "logprobs": 0}, "logprobs 0 is not supported"),
    ],
)
def test_a_text_to_continue_has_its_own_rules(
    served: Served, body: dict[str, Any], words: str
) -> None:
    status, message = served.error(body, COMPLETE)
    assert status == 400
    assert words in message


def test_keys_that_change_nothing_are_accepted_and_so_are_nulls(served: Served) -> None:
    defaults = {
        "n": 1,
        "best_of": 1,
        "reasoning_effort": "none",
        "stop": "",
        "top_k": 0,
        "min_p": 0,
        "max_tokens": -1,
        "user": "me",
        "logprobs": False,
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "tools": [],
        "response_format": {"type": "text"},
    }
    names = "stop seed max_tokens temperature logit_bias stream tool_choice stream_options prompt"
    ignored = {
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "stream_options": {"include_usage": True, "include_obfuscation": None},
    }
    lengths = {"max_tokens": 2, "max_completion_tokens": 2}
    # As libraries send a message back
    body = with_message(refusal=None, tool_calls=[], annotations=[], name="ann")
    for options in (defaults, dict.fromkeys(names.split()), ignored, lengths):
        assert served.post(body | options)[0] == 200


def test_an_error_names_the_key_and_what_clients_act_upon(served: Served) -> None:
    long = question("x " * 3000)
    for body, status, param, code in (
        (question(temperature="hot"), 400, "temperature", None),
        (question(temperature=11), 400, "temperature", None),
        (with_message(content=5), 400, "messages[0].content", None),
        (question(temprature=1), 400, "temprature", None),
        (question(model="gpt-5"), 404, "model", "model_not_found"),
        (long, 400, "messages", "context_length_exceeded"),
        (b"{", 400, None, None),
    ):
        found, answer = served.post(body)
        error = answer["error"]
        assert (found, error["param"], error["code"]) == (status, param, code)
        assert error["type"] == "invalid_request_error"


def test_another_model_is_not_found(served: Served) -> None:
    status, message = served.error(question(model="gpt-5"))
    assert status == 404
    assert '"gpt-5"' in message and "this server has antimatter" in message
    assert served.post(question(model="antimatter", max_tokens=1))[0] == 200


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/params.yaml", "/page.html"])
def test_no_path_leads_to_a_file(served: Served, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = served.raw(head.encode())
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer and b"<html" not in answer


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/", "GET, HEAD"),
        ("DELETE", CHAT, "POST"),
        ("GET", CHAT, "POST"),
        ("HEAD", COMPLETE, "POST"),
        ("OPTIONS", CHAT, "POST"),
    ],
)
def test_another_method_is_refused_with_the_right_ones(
    served: Served, method: str, path: str, allowed: str
) -> None:
    status, headers, _ = served.request(method, path)
    assert (status, headers["Allow"]) == (405, allowed)


def test_a_foreign_page_cannot_send_a_request_without_a_preflight(served: Served) -> None:
    """The types that a form or a simple fetch can send are refused."""
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "application/json; charset=utf-16",
        "application/jsonx",
    ):
        assert served.request("POST", CHAT, question(), {"Content-Type": kind})[0] == 415
    for encoding in ("gzip", "deflate", "br"):
        assert served.request("POST", CHAT, question(), {"Content-Encoding": encoding})[0] == 415
    good = {"Content-Type": "Application/JSON; charset=UTF-8"}
    assert served.request("POST", CHAT, question(), good)[0] == 200
