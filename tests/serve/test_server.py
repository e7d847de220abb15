import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import serve_fuzz
from helpers import fake_ollama
from helpers.gguf_model import CONTEXT, Tiny
from test_engine import CONFIG

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.client import Hangup
from antimatter.llama.header import ChatFacts, read_header
from antimatter.serve import prompt
from antimatter.serve.backend import EmbeddedEngine, Engine, Finish, OllamaEngine
from antimatter.serve.http import access, server
from antimatter.serve.http.server import Limits, Server, ServerConfig

ROOT = Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


@dataclass
class Served:
    port: int
    said: list[str]
    stop: Callable[[], None] = lambda: None

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method,
                path,
                body if isinstance(body, bytes | None) else json.dumps(body),
                JSON | (headers or {}),
            )
            with connection.getresponse() as response:
                return response.status, response.headers, response.read()
        finally:
            connection.close()

    def post(self, body: Any, path: str = CHAT) -> tuple[int, Any]:
        status, _, answer = self.ask("POST", path, body)
        return status, json.loads(answer)

    def error(self, body: Any, path: str = CHAT) -> tuple[int, str]:
        status, answer = self.post(body, path)
        assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type"}
        assert "\n" not in answer["error"]["message"] and len(answer["error"]["message"]) < 400
        return status, answer["error"]["message"]

    def raw(self, data: bytes, seconds: float = 20) -> bytes:
        """Everything that comes back until the server closes, or nothing comes for `seconds`."""
        with self.connect() as connection:
            connection.settimeout(seconds)
            answer = b""
            with contextlib.suppress(OSError):
                connection.sendall(data)
                while piece := connection.recv(65536):
                    answer += piece
            return answer

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def healthy(self) -> bool:
        return self.ask("GET", "/health")[0] == 200

    @contextmanager
    def open_stream(self, body: Any, path: str = CHAT) -> Iterator[Iterator[str]]:
        """The lines of a streamed answer; leaving the block hangs up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body | {"stream": True}), JSON)
            with connection.getresponse() as response:
                assert response.status == 200, response.read()
                yield (line.decode() for line in response)
        finally:
            connection.close()


@contextmanager
def serving(
    engine: Engine,
    parallel: int = 2,
    token: str | None = None,
    names: frozenset[str] = frozenset(),
    **limits: Any,
) -> Iterator[Served]:
    config = ServerConfig(
        parallel=parallel, token=token, allowed_hosts=names, limits=Limits(**limits)
    )
    said: list[str] = []
    started: ThreadPoolExecutor = ThreadPoolExecutor(1)
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    ready = threading.Event()

    async def main() -> None:
        made = Server(engine, CONFIG, config, said.append)
        await made.start(listening)
        ready.set()
        await stop.wait()
        await made.stop()

    with server.bind("127.0.0.1", 0) as listening:
        done = started.submit(loop.run_until_complete, main())
        try:
            assert ready.wait(10)
            yield Served(
                listening.getsockname()[1],
                said,
                lambda: loop.call_soon_threadsafe(stop.set) and None,
            )
        finally:
            loop.call_soon_threadsafe(stop.set)
            done.result(20)
            loop.close()
            started.shutdown()


@dataclass
class Scripted:
    """An engine that says `piece` until somebody hangs up, or `count` times; one word is one token."""

    piece: str = "x"
    count_of: int = 1_000_000
    pause: float = 0.02  # seconds before each piece
    failure: Exception | None = None
    chat: ChatFacts | None = None
    n_ctx: int = 100
    name: str = "scripted"
    model: str = "scripted"
    description: str = "scripted"
    asked: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    hangup: Hangup = field(default_factory=Hangup)

    def until(self, hangup: Hangup) -> "Scripted":
        return replace(self, hangup=hangup)  # lists are shared

    def check(self) -> None:
        if self.failure:
            raise self.failure

    def count(self, text: str) -> int:
        return len(text.split()) + 1

    def stream(
        self, prompt: str, config: OllamaConfig, n_predict: int, seed: int | None = None
    ) -> Generator[str, None, Finish]:
        self.asked.append(prompt)
        self.running.append(prompt)
        ours, theirs = socket.socketpair()
        try:
            with ours, theirs, self.hangup.watching(ours):
                ours.settimeout(self.pause)
                for _ in range(self.count_of):
                    with contextlib.suppress(TimeoutError):
                        ours.recv(1)
                        raise ConnectionError("hung up")
                    if self.failure:
                        raise self.failure
                    yield self.piece
            return Finish("stop", self.count(prompt), self.count_of, 10.0)
        finally:
            self.running.remove(prompt)
            self.ended.append(prompt)

    def close(self) -> None: ...


def eventually(condition: Callable[[], Any], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def chat(text: str = "The function returns", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def events(lines: Iterator[str] | list[str]) -> tuple[list[Any], list[str]]:
    """The events and the comments of a stream, by the letter of the format: a line, then an empty one."""
    found, comments, lines = [], [], list(lines)
    assert len(lines) % 2 == 0 and all(line == "\n" for line in lines[1::2])
    for line in lines[::2]:
        assert line.endswith("\n") and line.startswith(("data: ", ": "))
        if line.startswith(": "):
            comments.append(line[2:-1])
        else:
            found.append(line[6:-1] if line[6:-1] == "[DONE]" else json.loads(line[6:]))
    return found, comments


def said(found: list[Any]) -> str:
    return "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in found
        if event != "[DONE]" and "error" not in event
    )


@pytest.fixture(scope="module")
def embedded(tiny: Tiny) -> Iterator[EmbeddedEngine]:
    made = EmbeddedEngine(tiny.path, 2048, parallel=4)
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(embedded: EmbeddedEngine) -> Iterator[Served]:
    with serving(embedded, parallel=4) as made:
        yield made
        assert made.said == []


# What it answers


def test_the_page_comes_with_a_policy_that_allows_its_own_script_and_style_alone(
    served: Served,
) -> None:
    status, headers, body = served.ask("GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body == server.PAGE.read_bytes()
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert (
        policy["default-src"] == "'none'"
        and policy["connect-src"] == "'self'"
        and policy["frame-ancestors"] == "'none'"
    )
    for element in ("script", "style"):
        inner = body.decode().split(f"<{element}>")[1].split(f"</{element}>")[0]
        assert (
            policy[f"{element}-src"]
            == f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
        )


def test_every_answer_has_the_security_headers_and_none_opens_the_door_to_other_sites(
    served: Served,
) -> None:
    for method, path in (
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/favicon.ico"),
        ("GET", "/absent"),
        ("OPTIONS", CHAT),
        ("POST", CHAT),
        ("GET", "/health"),
    ):
        _, headers, _ = served.ask(
            method, path, headers={"Origin": f"http://127.0.0.1:{served.port}"}
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Server"] == "antimatter"
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_page_without_one_script_and_one_style_is_refused() -> None:
    for page in (
        "",
        "<style></style>",
        "<style></style><script></script><script></script>",
        '<style></style><script src="x"></script>',
    ):
        with pytest.raises(
            ValueError, match=r"the chat page must have one <(script|style)> element"
        ):
            access.security_headers(page)


def test_the_small_routes(served: Served, embedded: EmbeddedEngine) -> None:
    assert served.ask("GET", "/favicon.ico")[::2] == (204, b"")
    assert served.ask("GET", "/health")[::2] == (200, b'{"status":"ok"}')
    assert served.ask("HEAD", "/")[::2] == (200, b"")
    (model,) = json.loads(served.ask("GET", "/v1/models")[2])["data"]
    assert (
        model["id"] == "antimatter"
        and model["engine"] == embedded.description
        and model["context_length"] == CONTEXT
    )
    assert model["defaults"] == {
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 40,
        "repeat_penalty": 1.0,
        "max_tokens": 20,
    }


def test_an_answer_is_the_engines_own_streamed_or_not(
    served: Served, embedded: EmbeddedEngine
) -> None:
    expected = "".join(embedded.stream("The function returns", CONFIG, 12))
    status, answer = served.post(chat(max_tokens=12))
    assert (
        status == 200 and answer["object"] == "chat.completion" and answer["model"] == "antimatter"
    )
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": expected},
            "finish_reason": "length",
        }
    ]
    n_prompt = embedded.count("The function returns")
    assert answer["usage"] == {
        "prompt_tokens": n_prompt,
        "completion_tokens": 12,
        "total_tokens": n_prompt + 12,
    }
    assert (
        answer["antimatter"]["dropped_turns"] == 0 and answer["antimatter"]["tokens_per_second"] > 0
    )
    with served.open_stream(chat(max_tokens=12)) as lines:
        found, _ = events(lines)
    assert said(found) == expected
    assert found[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    ]
    assert found[0]["antimatter"] == {"dropped_turns": 0}
    assert found[-1] == "[DONE]"
    assert (
        found[-2]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
        and found[-2]["usage"] == answer["usage"]
    )
    assert {event["object"] for event in found[:-1]} == {"chat.completion.chunk"} and len(
        {event["id"] for event in found[:-1]}
    ) == 1


def test_a_text_is_continued_the_same_way(served: Served, embedded: EmbeddedEngine) -> None:
    expected = "".join(embedded.stream("The function returns", CONFIG, 12))
    body = {"prompt": "The function returns", "temperature": 0, "max_tokens": 12}
    status, answer = served.post(body, COMPLETE)
    assert (status, answer["object"], answer["choices"]) == (
        200,
        "text_completion",
        [{"index": 0, "text": expected, "finish_reason": "length"}],
    )
    with served.open_stream(body, COMPLETE) as lines:
        found, _ = events(lines)
    assert "".join(event["choices"][0]["text"] for event in found[:-1]) == expected
    assert (
        served.post({"prompt": "", "max_tokens": 3}, COMPLETE)[0] == 200
    )  # the model begins a text


def test_a_stop_text_may_be_anything_that_json_holds(
    served: Served, embedded: EmbeddedEngine
) -> None:
    whole = "".join(embedded.stream("The function returns", CONFIG, 20))
    status, answer = served.post(chat(stop=["\n\n\"'", whole[6:9]]))
    assert status == 200 and answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"] == whole[: whole.index(whole[6:9])]


def test_what_was_held_back_for_a_stop_text_is_sent_streamed_or_not(
    served: Served, embedded: EmbeddedEngine
) -> None:
    whole = "".join(embedded.stream("The function returns", CONFIG, 12))
    stop = f"{whole[-1:]}ZZ"
    _, answer = served.post(chat(stop=stop, max_tokens=12))
    assert answer["choices"][0]["message"]["content"] == whole
    with served.open_stream(chat(stop=stop, max_tokens=12)) as lines:
        found, _ = events(lines)
    assert said(found) == whole
    assert found[-2]["choices"][0]["finish_reason"] == "length"
    assert found[-2]["usage"] == answer["usage"] and answer["usage"]["completion_tokens"] == 12


def test_a_seed_repeats_an_answer_and_may_have_64_bits(served: Served) -> None:
    answers = [
        served.post(chat(temperature=2, top_k=400, top_p=1, seed=seed))[1]["choices"]
        for seed in (2**62, 2**62, 3)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_no_event_cuts_a_character(served: Served) -> None:
    with served.connect() as connection:
        body = json.dumps(
            chat("é", temperature=5, top_k=400, top_p=1, max_tokens=30, stream=True)
        ).encode()
        connection.sendall(
            POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        answer = connection.makefile("rb").read()
    chunks = answer.split(b"\r\n\r\n", 1)[1]
    while size := int(chunks.split(b"\r\n", 1)[0], 16):
        chunks = chunks.split(b"\r\n", 1)[1]
        assert chunks[:size].decode("utf-8").endswith("\n\n")  # a chunk is one event, and whole
        chunks = chunks[size + 2 :]


def test_user_text_stays_text_and_every_option_reaches_the_engine(tiny: Tiny) -> None:
    answer = [{"response": "ok"}, {"response": "\nmore"}, {"response": "", "done": True}]
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys, answer) as ollama:
        with serving(OllamaEngine(f"http://{ollama.host}", CONFIG)) as served:
            status, value = served.post(
                chat(
                    "a[EOS]b",
                    top_k=7,
                    top_p=0.5,
                    repeat_penalty=1.5,
                    seed=5,
                    stop="\n",
                    model="antimatter:latest",
                    max_tokens=9,
                )
            )
        assert status == 200 and ollama.requests[0]["prompt"] == "a[ EOS]b"
        options = ollama.requests[0]["options"]
        assert (options["top_k"], options["top_p"], options["repeat_penalty"], options["seed"]) == (
            7,
            0.5,
            1.5,
            5,
        )
        assert (options["num_predict"], options["temperature"]) == (9, 0)
        (choice,) = value["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("ok", "stop")


def test_turns_that_no_longer_fit_are_counted(served: Served, embedded: EmbeddedEngine) -> None:
    texts = [f"turn {i} returns {i} values" for i in range(12)]
    messages = [Message("user", text) for text in texts]
    left = prompt.fit(messages, CONTEXT - 20, lambda some: embedded.count(template.continued(some)))
    body = chat(max_tokens=20) | {"messages": [{"role": "user", "content": text} for text in texts]}
    assert 0 < len(left) < 12
    assert served.post(body)[1]["antimatter"]["dropped_turns"] == 12 - len(left)
    with served.open_stream(body) as lines:
        found, _ = events(lines)
    assert (
        found[0]["antimatter"]["dropped_turns"]
        == found[-2]["antimatter"]["dropped_turns"]
        == 12 - len(left)
    )


def test_a_text_that_is_too_long_is_refused_with_both_numbers(served: Served) -> None:
    for stream in (False, True):
        status, message = served.error(chat("many words " * 100, stream=stream))
        assert status == 400 and re.search(
            r"the text has \d+ tokens, the model can read \d+ and still answer: shorten it", message
        )


def test_more_tokens_than_fit_are_as_many_as_fit(served: Served) -> None:
    status, answer = served.post(chat(max_tokens=2**31 - 1, stop=["\0never"]))
    assert status == 200 and answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == CONTEXT


TALKER = ChatFacts("Be kind.", "Hello!", ("Who are you?", "What can you do?", "Bye!"))
TOLD = {"kind": "chat", "system": "Be kind.", "greeting": "Hello!", "starters": [*TALKER.starters]}


def said_by(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_a_chat_model_is_asked_in_its_roles_after_its_system_text() -> None:
    user, answer = said_by("user", "Hi [USER]"), said_by("assistant", " Hello. ")
    own, none = said_by("system", "Be brief."), said_by("system", "")
    engine = Scripted(count_of=1, chat=TALKER)
    asked = "[USER]Hi [ USER][ASSISTANT]"
    expected = {
        f"[SYSTEM]Be kind.{asked}": [user],
        f"[SYSTEM]Be brief.{asked}": [own, user],
        asked: [none, user],
        f"{asked}Hello.": [none, user, answer],  # left open, to go on with
        f"{asked}Hello.[EOS]{asked}": [none, user, answer, user],
    }
    with serving(engine) as served:
        for messages in expected.values():
            status, told = served.post({"messages": messages})
            assert status == 200 and told["antimatter"]["dropped_turns"] == 0
        assert served.post({"prompt": "Hi"}, COMPLETE)[0] == 200
        (model,) = json.loads(served.ask("GET", "/v1/models")[2])["data"]
    assert engine.asked == [*expected, "Hi"]
    assert model.items() >= TOLD.items()


def test_a_base_model_is_told_apart_and_gets_no_roles() -> None:
    engine = Scripted(count_of=1)
    with serving(engine) as served:
        messages = [said_by("user", "a"), said_by("assistant", " b "), said_by("user", "c")]
        assert served.post({"messages": messages})[0] == 200
        (model,) = json.loads(served.ask("GET", "/v1/models")[2])["data"]
    assert engine.asked == ["a\n\n b \n\nc"]
    nothing = {"kind": "base", "system": "", "greeting": "", "starters": []}
    assert model.items() >= nothing.items()


# What it refuses


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "the body is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"[]", "must be a JSON object, got a list of 0"),
        (b'"x"', 'must be a JSON object, got "x"'),
        (b"null", "must be a JSON object, got nothing"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"messages":' + b'{"a":' * 50_000, "nested too deeply"),
        (b'{"model":"a","model":"a"}', 'the key "model" stands twice'),
        (b'{"temperature":NaN}', "NaN is no number"),
        (b'{"temperature":-Infinity}', "-Infinity is no number"),
        (b'{"temperature":1e400}', "1e400 is no number"),
        (b'{"seed":' + b"9" * 5000 + b"}", "is not JSON that can be used"),
        ({}, "messages must be a list with at least one message, got nothing"),
        ({"messages": []}, "messages must be a list with at least one message"),
        ({"messages": {}}, "messages must be a list"),
        (
            {"messages": ["hi"]},
            'messages[0] must be an object like {"role": "user", "content": "text"}, got "hi"',
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a text, got nothing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "messages[0].content must be a text, got a list of 1",
        ),
        (
            {"messages": [{"role": "root", "content": "x"}]},
            'messages[0].role must be system, user, assistant, got "root"',
        ),
        (
            {"messages": [{"role": "user", "content": "x", "nmae": "y"}]},
            'messages[0] has the key "nmae"',
        ),
        (
            {"messages": [{"role": "user", "content": "x"}] * 1001},
            "messages must be at most 1000, got 1001",
        ),
        (chat("\ud800"), "messages[0].content holds half a character, \\ud800"),
        (chat(stop="\udfff"), "stop[0] holds half a character"),
        (chat(temprature=1), 'the key "temprature" is not known here'),
        (chat(**{"\x1b[2J\n" * 30: 1}), 'the key "\\u001b[2J\\n'),
        (chat(prompt="x"), 'the key "prompt" is not known here'),
        (chat(temperature="hot"), 'temperature must be a number, got "hot"'),
        (chat(temperature=True), "temperature must be a number, got true"),
        (chat(temperature=-1), "temperature must lie in [0, 10], got -1"),
        (chat(temperature=10**400), "temperature must lie in [0, 10], got 1000"),
        (chat(top_p=0), "top_p must lie in (0, 1], got 0"),
        (chat(top_k=0), "top_k must be at least 1, got 0"),
        (chat(top_k=1.5), "top_k must be an integer, got 1.5"),
        (chat(top_k=2**31), "top_k must lie in [0, 2147483647], got 2147483648"),
        (chat(repeat_penalty=0), "repeat_penalty must lie in [0.01, 100], got 0"),
        (chat(max_tokens=0), "max_tokens must be at least 1, got 0"),
        (chat(max_completion_tokens=0), "max_completion_tokens must be at least 1, got 0"),
        (chat(max_tokens=-5), "max_tokens must lie in [0, 2147483647], got -5"),
        (
            chat(max_tokens=1, max_completion_tokens=1),
            "max_tokens and max_completion_tokens mean the same",
        ),
        (chat(max_tokens=True), "max_tokens must be an integer, got true"),
        (chat(seed="1"), 'seed must be an integer, got "1"'),
        (chat(seed=2**63), "seed must lie in"),
        (chat(stop=[""]), "stop[0] must have 1 to 256 characters, got 0"),
        (chat(stop=["x" * 257]), "stop[0] must have 1 to 256 characters, got 257"),
        (chat(stop=["x"] * 17), "stop must be at most 16 texts, got 17"),
        (chat(stop=[1]), "stop[0] must be a text, got 1"),
        (chat(stop=1), "stop must be a text or a list of texts, got 1"),
        (chat(stream="yes"), 'stream must be true or false, got "yes"'),
        (chat(stream=1), "stream must be true or false, got 1"),
        (chat(stream_options={"x": 1}), "stream_options must be like"),
        (chat(n=2), "n 2 is not supported"),
        (chat(n=True), "n true is not supported"),
        (chat(tools=[{"type": "function"}]), "tools a list of 1 is not supported"),
        (
            chat(response_format={"type": "json_object"}),
            "response_format an object of 1 is not supported",
        ),
        (chat(logit_bias={"1": 5}), "logit_bias an object of 1 is not supported"),
        (chat(presence_penalty=0.5), "presence_penalty 0.5 is not supported"),
        (chat(frequency_penalty=-1), "frequency_penalty -1 is not supported"),
        (chat(logprobs=True), "logprobs true is not supported"),
        (chat(model=5), "model must be a text, got 5"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_bad_request_is_refused_by_key_and_value(served: Served, body: Any, words: str) -> None:
    status, message = served.error(body)
    assert status == 400
    assert words in message


def test_a_text_to_continue_has_rules_of_its_own(served: Served) -> None:
    for body, words in (
        ({}, "prompt must be a text, got nothing"),
        ({"prompt": ["a"]}, "prompt must be a text, got a list of 1"),
        ({"prompt": "a", "messages": []}, 'the key "messages" is not known here'),
        ({"prompt": "a", "echo": True}, "echo true is not supported"),
        ({"prompt": "a", "logprobs": 0}, "logprobs 0 is not supported"),
    ):
        assert served.error(body, COMPLETE) == (400, served.error(body, COMPLETE)[1])
        assert words in served.error(body, COMPLETE)[1]


def test_keys_that_change_nothing_are_taken_and_so_are_nulls(served: Served) -> None:
    same = {
        "n": 1,
        "user": "me",
        "logprobs": False,
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "tools": [],
        "response_format": {"type": "text"},
    }
    nulls = dict.fromkeys(
        (
            "stop",
            "seed",
            "max_tokens",
            "temperature",
            "logit_bias",
            "stream",
            "tool_choice",
            "stream_options",
        )
    )
    message = {
        "role": "user",
        "content": "x",
        "refusal": None,
        "tool_calls": None,
    }  # as OpenAI's library sends a message back
    for more in (
        same,
        nulls,
        {
            "metadata": {"a": "b"},
            "store": False,
            "service_tier": "auto",
            "stream_options": {"include_usage": True},
        },
    ):
        assert served.post({"messages": [message], "max_completion_tokens": 2, **more})[0] == 200


def test_another_model_is_not_found(served: Served) -> None:
    assert served.error(chat(model="gpt-5")) == (
        404,
        'the model "gpt-5" does not exist: this server has antimatter',
    )
    assert served.post(chat(model="antimatter", max_tokens=1))[0] == 200


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        *(
            (host, True)
            for host in (
                "localhost",
                "LOCALHOST:8000",
                "127.0.0.1",
                "127.0.0.1:1",
                "[::1]:8000",
                "192.168.1.5:8000",
                "[2001:db8::1]",
            )
        ),
        *(
            (host, True)
            for host in (socket.gethostname(), "chat.example.org", "Chat.Example.Org:443")
        ),
        *(
            (host, False)
            for host in (
                "evil.com",
                "localhost.evil.com",
                "127.0.0.1.evil.com",
                "evil.com:8000",
                "",
                "localhost:",
                ":80",
                "x y",
                "127.1",
            )
        ),
        *(
            (host, False)
            for host in (
                "2130706433",
                "0x7f.0.0.1",
                "user@localhost",
                "localhost/evil",
                "localhost,evil.com",
                "[::1",
                "ⅼocalhost",
                "localhost:999999",
            )
        ),
        *(
            (host, False)
            for host in (
                "chat.example.org.",
                "sub.chat.example.org",
                "localhost\u00a0",
                "127.0.0.1 ",
                "lOcalhoſt",
            )
        ),
    ],
)
def test_a_host_is_ours_or_it_is_refused(host: str, fine: bool) -> None:
    assert (access.refusal([host], [], {"chat.example.org"}) is None) is fine


def test_there_is_one_host() -> None:
    assert access.refusal([], [], set()) is not None
    assert access.refusal(["localhost", "localhost"], [], set()) is not None


@pytest.mark.parametrize(
    ("origin", "fine"),
    [
        *(
            (origin, True)
            for origin in (
                "http://localhost:8000",
                "https://localhost:8000",
                "HTTP://LOCALHOST:8000",
                "https://chat.example.org",
            )
        ),
        *(
            (origin, False)
            for origin in (
                "null",
                "",
                "http://localhost",
                "http://localhost:3000",
                "http://127.0.0.1:8000",
                "http://203.0.113.5",
            )
        ),
        *(
            (origin, False)
            for origin in (
                "http://evil.com",
                "file://",
                "chrome-extension://localhost:8000",
                "http://localhost:8000.evil.com",
            )
        ),
        *(
            (origin, False)
            for origin in (
                "http://localhost:8000/",
                "http://chat.example.org.evil.com",
                "localhost:8000",
                "http://x@localhost:8000",
            )
        ),
    ],
)
def test_an_origin_is_ours_or_it_is_refused(origin: str, fine: bool) -> None:
    assert (access.refusal(["localhost:8000"], [origin], {"chat.example.org"}) is None) is fine


def test_foreign_hosts_and_origins_get_403_on_every_route(served: Served) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/health"),
        ("POST", CHAT),
        ("OPTIONS", CHAT),
        ("GET", "/v1/models"),
        ("GET", "/absent"),
    ):
        for headers in ({"Host": "evil.com"}, {"Origin": "https://evil.com"}, {"Origin": "null"}):
            status, _, body = served.ask(method, path, headers=headers)
            assert status == 403 and b"--allow-host" in body


def test_what_a_foreign_page_can_send_without_being_asked_is_refused(served: Served) -> None:
    body = json.dumps(chat()).encode()
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "application/json; charset=utf-16",
        "application/jsonx",
    ):
        assert served.ask("POST", CHAT, body, {"Content-Type": kind})[0] == 415
    for encoding in ("gzip", "deflate", "br"):
        assert served.ask("POST", CHAT, body, {"Content-Encoding": encoding})[0] == 415
    assert (
        served.ask(
            "POST",
            CHAT,
            json.dumps(chat(max_tokens=1)).encode(),
            {"Content-Type": "Application/JSON; charset=UTF-8"},
        )[0]
        == 200
    )


def test_a_token_is_needed_where_one_is_set(embedded: EmbeddedEngine) -> None:
    token = "a-Token-of-16-chars"
    with serving(embedded, token=token) as served:
        for path in ("/", "/favicon.ico", "/health"):
            assert served.ask("GET", path)[0] in (200, 204)
        for given in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {token}x"},
            {"Authorization": f"Bearer {token[:-1]}"},
        ):
            status, headers, body = served.ask("GET", "/v1/models", headers=given)
            assert (status, headers["WWW-Authenticate"], json.loads(body)["error"]["type"]) == (
                401,
                "Bearer",
                "authentication_error",
            )
        assert served.ask("POST", CHAT, chat(), {"Authorization": f"Basic {token}"})[0] == 401
        assert served.ask("GET", f"/v1/models?token={token}")[0] == 401
        assert (
            served.ask(
                "GET",
                "/v1/models",
                headers={
                    "Authorization": "Bearer é\udcff".encode("utf-8", "surrogateescape").decode(
                        "latin-1"
                    )
                },
            )[0]
            == 401
        )
        for scheme in ("Bearer", "bearer"):
            assert (
                served.ask("GET", "/v1/models", headers={"Authorization": f"{scheme} {token}"})[0]
                == 200
            )


def test_a_token_comes_from_a_file_or_the_environment_or_is_made_where_it_is_needed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "token"
    path.write_text("from-the-file-0123456789\n")
    environment = {"ANTIMATTER_TOKEN": "from-the-environment"}
    assert access.token(path, environment, needed=False) == "from-the-file-0123456789"
    assert access.token(None, environment, needed=False) == "from-the-environment"
    assert access.token(None, {}, needed=False) is None
    made = {access.token(None, {}, needed=True) for _ in range(5)}
    assert len(made) == 5 and all(token and len(token) >= 40 for token in made)
    for text, words in (
        ("", "has 0 characters, it needs 16"),
        ("short", "has 5 characters, it needs 16"),
        ("a b" * 9, "a character that no header can carry"),
        ("é" * 20, "a character that no header can carry"),
        ("line-one-is-long\nline-two-is-long", "a character that no header"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            access.token(path, {}, needed=True)
        with pytest.raises(ValueError, match=f"the token in ANTIMATTER_TOKEN has .*{words[4:20]}"):
            access.token(None, {"ANTIMATTER_TOKEN": text}, needed=True)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match="is not text"):
        access.token(path, {}, needed=True)
    with pytest.raises(FileNotFoundError, match=r"absent is missing: --token-file"):
        access.token(tmp_path / "absent", {}, needed=True)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/..%2fparams.yaml",
        "/./",
        "/page.html",
        "/static/../page.html",
        "/v1/../",
        "/%00",
        "/v1/models/",
        "/V1/models",
        "//",
        "/?/../../etc/passwd#",
        "/v1//models",
        "/\\..\\..\\etc\\passwd",
        "/health%00",
        "/" + "a/" * 2000,
        "/%ff%fe",
    ],
)
def test_no_path_leads_to_a_file(served: Served, path: str) -> None:
    answer = served.raw(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1")
    )
    page = path.startswith("/?")  # a question mark ends the path
    assert answer.startswith(b"HTTP/1.1 200" if page else b"HTTP/1.1 40")
    assert (
        b"root:" not in answer and (page or b"<html" not in answer) and b"Traceback" not in answer
    )


def test_other_methods_are_named_the_right_ones(served: Served) -> None:
    for method, path, allowed in (
        ("PUT", "/", "GET"),
        ("DELETE", CHAT, "POST"),
        ("GET", CHAT, "POST"),
        ("HEAD", COMPLETE, "POST"),
        ("OPTIONS", CHAT, "POST"),
    ):
        status, headers, _ = served.ask(method, path)
        assert (status, headers["Allow"]) == (405, allowed)
    for method in (b"TRACE", b"BREW", b"get", b"PROPFIND"):
        assert served.raw(method + b" / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[
            9:12
        ] in (b"405", b"400")


# What is no HTTP, or comes too slowly, or too much


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # TLS
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\r\n\r\n\x00\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n"
        + b"".join(b"X%d: a\r\n" % i for i in range(5000))
        + b"\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad\x00Name: x\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: two\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_http_gets_400_in_our_words(served: Served, data: bytes) -> None:
    answer = served.raw(data, 3)
    assert re.match(rb"HTTP/[019.]{3} 40[03] ", answer)
    assert b'{"error":{"message":"the ' in answer
    assert b"aiohttp" not in answer and b"Python" not in answer and b"Traceback" not in answer
    assert served.healthy()


def test_requests_in_one_packet_are_answered_in_their_order(served: Served) -> None:
    body = json.dumps(chat(max_tokens=2)).encode()
    post = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    answer = served.raw(post + get + b"\r\n" + post + get + b"Connection: close\r\n\r\n")
    assert (
        re.findall(rb'"object":"chat.completion"|"status":"ok"', answer)
        == [b'"object":"chat.completion"', b'"status":"ok"'] * 2
    )


def test_a_request_that_does_not_come_to_its_end_is_dropped() -> None:
    with serving(Scripted(), request_seconds=0.5) as served:
        for half in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "):
            assert served.raw(half, 10) == b""
        with served.connect() as slow:  # a byte now and then keeps nothing open
            end = time.monotonic() + 10
            with pytest.raises(OSError):
                slow.sendall(b"GET / HTTP/1.1\r\n")
                while time.monotonic() < end:
                    slow.sendall(b"a")
                    time.sleep(0.1)
        head = POST + b"Content-Length: 100\r\n\r\n{"
        answer = served.raw(head, 10)
        assert (
            answer.startswith(b"HTTP/1.1 408 ") and b"did not arrive within 0.5 seconds" in answer
        )
        assert served.healthy()


def test_a_huge_body_is_refused_before_it_has_come(served: Served) -> None:
    assert served.raw(POST + b"Content-Length: 1000000000000\r\n\r\n", 5).startswith(
        b"HTTP/1.1 413 "
    )
    with served.connect() as connection:
        connection.settimeout(10)
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk, until = b"10000\r\n" + b" " * 65536 + b"\r\n", time.monotonic() + 30
        with pytest.raises(ConnectionError):  # it hangs up, soon after its answer
            while time.monotonic() < until:
                connection.sendall(chunk)
    status, _, body = served.ask("POST", CHAT, b" " * 1_000_001)
    assert status == 413 and b"the body has more than 1,000,000 bytes" in body
    assert served.error(b" " * 1_000_000)[0] == 400  # not one byte too much


def test_a_client_that_asks_whether_to_send_its_body_is_told(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert served.raw(
        POST + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n", 5
    ).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_is_shorter_than_said_costs_nothing(served: Served) -> None:
    for _ in range(5):
        with served.connect() as connection:
            connection.sendall(POST + b"Content-Length: 100\r\n\r\n{}")
    assert served.healthy()


def test_beyond_the_limit_connections_are_turned_away() -> None:
    with serving(Scripted(), connections=5) as served, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(served.connect())
        time.sleep(0.1)
        assert re.match(
            rb"HTTP/1\.1 503 |$", served.raw(b"GET / HTTP/1.1\r\n\r\n", 5)
        )  # or it hangs up before it has read
        stack.close()
        eventually(served.healthy)


# Many clients, and bad ones


def test_a_hundred_clients_at_once_all_get_the_answer_they_would_get_alone(
    served: Served, embedded: EmbeddedEngine
) -> None:
    texts = [f"The function returns {i % 10}" for i in range(100)]
    expected = {text: "".join(embedded.stream(text, CONFIG, 15)) for text in set(texts)}

    def one(i: int) -> str:
        if i % 2:
            return str(
                served.post(chat(texts[i], max_tokens=15))[1]["choices"][0]["message"]["content"]
            )
        with served.open_stream(chat(texts[i], max_tokens=15)) as lines:
            return said(events(lines)[0])

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(one, range(100))) == [expected[text] for text in texts]


def test_a_client_that_leaves_frees_its_place_while_it_is_answered() -> None:
    engine = Scripted()
    with serving(engine, parallel=1) as served:
        for i in range(3):
            with served.open_stream(chat(f"text {i}")) as lines:
                next(lines)
                assert engine.running == [f"text {i}"]
        with served.connect() as connection:  # and one that wanted it in one piece
            body = json.dumps(chat("text 3")).encode()
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body))
            connection.sendall(body)
            eventually(lambda: engine.running == ["text 3"])
        eventually(lambda: engine.ended == [f"text {i}" for i in range(4)])
        assert served.said == []


def test_a_client_that_leaves_frees_its_place_while_the_engine_reads_the_prompt(tiny: Tiny) -> None:
    release = threading.Event()

    def silence() -> Iterator[dict[str, Any]]:
        release.wait(20)
        yield {"response": "x" * 100_000}

    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys) as ollama:
        ollama.events = silence()  # type: ignore[assignment]
        with serving(
            OllamaEngine(f"http://{ollama.host}", CONFIG), parallel=1, comment_seconds=0.1
        ) as served:
            with served.open_stream(chat("first")) as lines:
                assert next(lines) == ": reading the prompt\n"
            ollama.events = [{"response": "ok"}, {"response": "", "done": True}]
            assert (
                served.post(chat("second"))[1]["choices"][0]["message"]["content"] == "ok"
            )  # while the first is silent still
            release.set()


def test_those_who_wait_are_told_how_many_are_before_them_and_come_in_their_order() -> None:
    engine = Scripted(count_of=40)
    heard = [threading.Event() for _ in range(4)]
    with serving(engine, parallel=1, comment_seconds=0.05) as served, ThreadPoolExecutor(4) as pool:

        def one(i: int) -> list[str]:
            with served.open_stream(chat(f"text {i}")) as lines:
                first = next(lines)
                heard[i].set()
                found, comments = events([first, *lines])
                assert said(found) == "x" * 40
                return comments

        waiting = []
        for i in range(4):
            waiting.append(pool.submit(one, i))
            assert heard[i].wait(20)
        comments = [done.result() for done in waiting]
        assert engine.asked == [f"text {i}" for i in range(4)]
        numbers = [
            [
                int(comment.split()[1])
                for comment in seen
                if re.fullmatch(r"waiting, \d+ before you", comment)
            ]
            for seen in comments
        ]
        assert numbers[0] == []
        for i, seen in enumerate(numbers[1:], 1):
            assert seen[0] <= i and seen[-1] == 1 and seen == sorted(seen, reverse=True)


def test_many_who_ask_for_health_at_once_are_all_answered() -> None:
    """Each may find the look of those before it done, and begin another before they have read theirs."""
    with serving(Scripted()) as served, ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: served.ask("GET", "/health")[0], range(1000))) == {200}


def test_a_client_that_leaves_the_queue_is_forgotten_and_beyond_the_queue_is_503() -> None:
    engine = Scripted()
    with (
        serving(engine, parallel=1, waiting=2, comment_seconds=0.05) as served,
        served.open_stream(chat("first")) as first,
    ):
        next(first)
        with (
            served.open_stream(chat("second")) as second,
            served.open_stream(chat("third")) as third,
        ):
            assert (next(second), next(third)) == (
                ": waiting, 1 before you\n",
                ": waiting, 2 before you\n",
            )
            status, headers, body = served.ask("POST", CHAT, chat("fourth"))
            assert (status, int(headers["Retry-After"]), json.loads(body)["error"]["type"]) == (
                503,
                5,
                "overloaded_error",
            )
        eventually(lambda: served.ask("GET", "/health")[0] == 200)
        with served.open_stream(chat("fifth")) as fifth:
            assert next(fifth) == ": waiting, 1 before you\n"
    assert engine.asked == ["first"]


def test_a_client_that_reads_nothing_is_cut_off_and_hinders_nobody() -> None:
    engine = Scripted(piece="x" * 100_000, pause=0.001)
    with serving(engine, parallel=1, stalled_seconds=0.5) as served, served.connect() as stalled:
        body = json.dumps(chat("stalled", stream=True)).encode()
        stalled.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: engine.ended == ["stalled"])
        with served.open_stream(chat("next")) as lines:
            next(lines)
        eventually(lambda: engine.ended == ["stalled", "next"])


def test_a_client_that_reads_slowly_holds_no_place_of_the_engine() -> None:
    engine = Scripted(
        piece="x" * 20_000, count_of=500, pause=0.0001
    )  # 10 MB, more than the kernel keeps for it
    with serving(engine, parallel=1) as served, served.open_stream(chat("slow")) as slow:
        next(slow)
        eventually(lambda: engine.ended == ["slow"])
        with served.open_stream(chat("next")) as lines:
            next(lines)
            eventually(lambda: "next" in engine.asked)
        found, _ = events([": the rest\n", "\n", *list(slow)[1:]])
    assert len(said(found)) == 10_000_000 and found[-1] == "[DONE]"


def test_an_answer_that_takes_too_long_is_ended() -> None:
    engine = Scripted()
    with serving(engine, parallel=1, answer_seconds=0.3) as served:
        status, message = served.error(chat("whole"))
        assert (status, message) == (
            503,
            "the answer was not ready within 0.3 seconds: ask for fewer tokens",
        )
        with served.open_stream(chat("stream")) as lines:
            found, _ = events(lines)
        assert (
            found[-1]["error"]["type"] == "server_error" and "[DONE]" not in found and said(found)
        )
        eventually(lambda: engine.ended == ["whole", "stream"])


def test_an_error_of_the_engine_is_503_before_the_first_word_and_an_event_after_it() -> None:
    with serving(Scripted(failure=ConnectionError("it broke: ask again"))) as served:
        for stream in (False, True):
            assert served.error(chat(stream=stream)) == (503, "it broke: ask again")
        assert served.ask("GET", "/health")[0] == 503
        assert len(served.said) == 3 and "it broke" in served.said[0]


def test_a_mistake_of_ours_is_500_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Scripted(failure=TypeError("secret/path.py is None"))) as served:
        status, message = served.error(chat())
        assert status == 500 and "secret" not in message
        number = re.search(r"request ([0-9a-f]{8})", message)
        assert number and served.said == [f"request {number[1]}: TypeError: secret/path.py is None"]


def test_llama_cpp_that_died_is_started_again(tiny: Tiny) -> None:
    engine = EmbeddedEngine(tiny.path, 2048, parallel=2)
    try:
        with serving(engine) as served:
            before = served.post(chat())[1]["choices"]
            with served.open_stream(chat(temperature=1, max_tokens=30)) as lines:
                next(lines)
                os.kill(engine._llama._process.pid, signal.SIGKILL)
                found, _ = events([": first\n", "\n", *list(lines)[1:]])
                assert (
                    found[-1] == "[DONE]" or "error" in found[-1]
                )  # it was faster than the signal, or says so
            eventually(lambda: not engine._runtime._llama.alive)
            assert served.post(chat())[1]["choices"] == before
            assert served.healthy()
    finally:
        engine.close()


def test_llama_cpp_that_cannot_be_started_again_shows_in_health(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(tiny.path.read_bytes())
    engine = EmbeddedEngine(path, 2048)
    try:
        with serving(engine) as served:
            assert served.post(chat(max_tokens=2))[0] == 200
            path.write_bytes(b"no model")
            os.kill(engine._llama._process.pid, signal.SIGKILL)
            eventually(lambda: not engine._runtime._llama.alive)
            for _ in range(2):
                status, message = served.error(chat())
                assert status == 503 and "llama.cpp died and does not start again" in message
            assert served.ask("GET", "/health")[0] == 503
    finally:
        engine.close()


def test_a_server_that_stops_says_so_to_those_who_listen_and_to_those_who_wait() -> None:
    engine = Scripted()
    with (
        serving(engine, parallel=1, comment_seconds=0.05) as served,
        served.open_stream(chat("first")) as first,
        served.open_stream(chat("second")) as second,
    ):
        while next(first).startswith(
            ":"
        ):  # it may be reading the prompt for a while on a busy machine
            pass
        assert next(second) == ": waiting, 1 before you\n"
        served.stop()
        for lines in (first, second):
            found, _ = events([": the rest\n", *lines])
            assert found[-1] == {
                "error": {"message": "the server was stopped", "type": "server_error"}
            }
    assert engine.ended == ["first"]


def test_no_request_of_a_fuzzer_breaks_it(tiny: Tiny) -> None:
    statuses, _ = serve_fuzz.attack(tiny.path, 500, seed=1)
    assert sum(statuses.values()) == 500 and {
        "200",
        "400",
        "403",
        "404",
        "405",
        "413",
        "415",
    } <= set(statuses)


# The command


@pytest.fixture(scope="module")
def project(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a project")
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / "models" / "gguf").mkdir(parents=True)
    (folder / "models" / "gguf" / "tiny-f16.gguf").write_bytes(tiny.path.read_bytes())
    return folder


def command(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "antimatter.cli", "serve", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OLLAMA_HOST": "127.0.0.1:9",
            **environment,
        },
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_open_answers_and_leaves_nothing_behind(
    project: Path, number: signal.Signals, status: int
) -> None:
    with command(project, "--port", "0") as process:
        try:
            assert process.stdout and process.stderr
            line = process.stdout.readline()
            found = re.fullmatch(
                r"serving antimatter by embedded llama\.cpp, models/gguf/tiny-f16\.gguf at http://127\.0\.0\.1:(\d+)/\n",
                line,
            )
            assert found, line + process.stderr.read()
            (llama,) = children(process.pid)
            served = Served(int(found[1]), [])
            assert served.post(chat(max_tokens=3))[0] == 200
            with served.connect() as idle, served.connect() as half:
                half.sendall(b"GET / HT")
                process.send_signal(number)
                assert process.wait(20) == status
                assert idle.recv(1) == b""
            assert process.stdout.read() == ""
            assert re.fullmatch(
                "[^\n]*[oO]llama[^\n]*: using the embedded llama.cpp\n", process.stderr.read()
            )
            eventually(lambda: not Path(f"/proc/{llama}").exists())
        finally:
            process.kill()


def test_beyond_this_machine_a_token_is_made_and_shown_once(project: Path) -> None:
    with command(
        project,
        "--port",
        "0",
        "--host",
        "0.0.0.0",
        "--engine",
        "embedded",
        "--allow-host",
        "Chat.Example.org",
    ) as process:
        try:
            assert process.stdout
            found = re.fullmatch(
                r"serving .* at http://127\.0\.0\.1:(\d+)/#token=([\w-]{43})\n",
                process.stdout.readline(),
            )
            assert found
            served = Served(int(found[1]), [])
            assert served.ask("GET", "/v1/models")[0] == 401
            headers = {
                "Authorization": f"Bearer {found[2]}",
                "Host": "chat.example.org",
                "Origin": "https://chat.example.org",
            }
            assert served.ask("GET", "/v1/models", headers=headers)[0] == 200
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (
            ("--port", "TAKEN"),
            {},
            r"port \d+ is taken: end what listens there, or use `--port 0` for a free one",
        ),
        (
            ("--port", "70000"),
            {},
            r"--port must lie in \[0, 65535\], got 70000: 0 finds a free one",
        ),
        (
            ("--host", "no.such.name.invalid"),
            {},
            r"--host no\.such\.name\.invalid is not known: .*",
        ),
        (
            ("--host", "192.0.2.1", "--port", "0"),
            {},
            r"--host 192\.0\.2\.1 is no address of this machine .*",
        ),
        (("--parallel", "0"), {}, r"--parallel must be at least 1, got 0"),
        (
            ("--port", "0", "--allow-host", "http://x/"),
            {},
            r"--allow-host must be a name alone, .*",
        ),
        (("--port", "0", "--token-file", "absent"), {}, r"absent is missing: .*"),
        (
            ("--port", "0"),
            {"ANTIMATTER_TOKEN": ""},
            r"the token in ANTIMATTER_TOKEN has 0 characters, it needs 16: .*",
        ),
        (("--port", "0", "--model", "params.yaml"), {}, r"params\.yaml is not a GGUF file.*"),
        (
            ("--port", "0", "--engine", "ollama"),
            {"PATH": "absent"},
            r"there is no `ollama` on the PATH or in \.state/ollama: `--install` .*",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_1(
    project: Path, arguments: tuple[str, ...], environment: dict[str, str], words: str
) -> None:
    with server.bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        with command(
            project,
            *(port if argument == "TAKEN" else argument for argument in arguments),
            **environment,
        ) as process:
            output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert re.fullmatch(rf"error: {words}\n", error)
