"""What the HTTP API answers."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest
from helpers import fake_ollama
from helpers.backends import CONFIG, GENERATION, ScriptedBackend, complete, count, run
from helpers.gguf_model import CONTEXT, Tiny
from helpers.http_server import CHAT, COMPLETE, POST, Served, events, question, serving, text_of

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.llama.header import ChatFacts, read_header
from antimatter.serve import prompt
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.http import access, server
from antimatter.serve.ollama.backend import OllamaBackend

TEXT = "The function returns"
TWELVE = replace(GENERATION, max_tokens=12)
FACTS = ChatFacts("Be kind.", "Hello!", ("Who are you?", "What can you do?", "Bye!"))


def test_the_page_comes_with_a_policy_that_allows_only_its_own_script_and_style(
    served: Served,
) -> None:
    status, headers, body = served.request("GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body == server.PAGE.read_bytes()
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for element in ("script", "style"):
        content = body.decode().split(f"<{element}>")[1].split(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"


def test_a_page_without_exactly_one_script_and_one_style_is_a_bug() -> None:
    for page in (
        "",
        "<style></style>",
        "<style></style><script></script><script></script>",
        '<style></style><script src="x"></script>',
    ):
        with pytest.raises(AssertionError, match=r"one <(script|style)>"):
            access.security_headers(page)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/favicon.ico"),
        ("GET", "/absent"),
        ("OPTIONS", CHAT),
        ("POST", CHAT),
        ("GET", "/health"),
    ],
)
def test_every_response_has_the_security_headers_and_none_allows_other_sites(
    served: Served, method: str, path: str
) -> None:
    origin = {"Origin": f"http://127.0.0.1:{served.port}"}
    _, headers, _ = served.request(method, path, headers=origin)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Server"] == "antimatter"
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_the_small_routes(served: Served, embedded: EmbeddedBackend) -> None:
    assert served.request("GET", "/favicon.ico")[::2] == (204, b"")
    assert served.request("GET", "/health")[::2] == (200, b'{"status":"ok"}')
    assert served.request("HEAD", "/")[::2] == (200, b"")
    (model,) = json.loads(served.request("GET", "/v1/models")[2])["data"]
    assert model["id"] == "antimatter" and model["context_length"] == CONTEXT
    assert model["engine"] == embedded.description
    assert model["defaults"] == {
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 40,
        "repeat_penalty": 1.0,
        "max_tokens": 20,
    }


def test_an_answer_is_that_of_the_backend_streamed_or_not(
    served: Served, embedded: EmbeddedBackend
) -> None:
    expected, _ = complete(embedded, TEXT, TWELVE)
    status, answer = served.post(question(max_tokens=12))
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "antimatter")
    message = {"role": "assistant", "content": expected}
    assert answer["choices"] == [{"index": 0, "message": message, "finish_reason": "length"}]
    n_prompt = count(embedded, TEXT)
    usage = {"prompt_tokens": n_prompt, "completion_tokens": 12, "total_tokens": n_prompt + 12}
    assert answer["usage"] == usage
    assert answer["antimatter"]["dropped_turns"] == 0
    assert answer["antimatter"]["tokens_per_second"] > 0
    with served.stream(question(max_tokens=12)) as lines:
        (first, *chunks, last, done), _ = events(lines)
    assert text_of(chunks) == expected and done == "[DONE]"
    delta = {"role": "assistant", "content": ""}
    assert first["choices"] == [{"index": 0, "delta": delta, "finish_reason": None}]
    assert first["antimatter"] == {"dropped_turns": 0}
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert {chunk["object"] for chunk in (first, *chunks, last)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (first, *chunks, last)}) == 1
    assert not [chunk for chunk in (first, *chunks, last) if "usage" in chunk]


def test_a_stream_has_its_usage_in_a_last_chunk_without_choices_if_asked(served: Served) -> None:
    """As OpenAI's reference says of stream_options."""
    _, answer = served.post(question(max_tokens=5))
    body = question(max_tokens=5, stream_options={"include_usage": True})
    with served.stream(body) as lines:
        (*chunks, last, done), _ = events(lines)
    assert done == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert (last["choices"], last["usage"]) == ([], answer["usage"])


def test_a_text_is_continued_the_same_way(served: Served, embedded: EmbeddedBackend) -> None:
    expected, _ = complete(embedded, TEXT, TWELVE)
    body = {"prompt": TEXT, "temperature": 0, "max_tokens": 12}
    status, answer = served.post(body, COMPLETE)
    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["choices"] == [{"index": 0, "text": expected, "finish_reason": "length"}]
    with served.stream(body, COMPLETE) as lines:
        found, _ = events(lines)
    assert "".join(event["choices"][0]["text"] for event in found[:-1]) == expected
    # With an empty prompt the model begins a text
    assert served.post({"prompt": "", "max_tokens": 3}, COMPLETE)[0] == 200


def test_a_stop_text_may_be_any_text(served: Served, embedded: EmbeddedBackend) -> None:
    whole, _ = complete(embedded, TEXT)
    status, answer = served.post(question(stop=["\n\n\"'", whole[6:9]]))
    assert status == 200 and answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"] == whole[: whole.index(whole[6:9])]


def test_text_held_back_for_a_stop_text_is_sent_streamed_or_not(
    served: Served, embedded: EmbeddedBackend
) -> None:
    whole, _ = complete(embedded, TEXT, TWELVE)
    usage = {"stream_options": {"include_usage": True}}
    body = question(stop=f"{whole[-1:]}ZZ", max_tokens=12) | usage
    _, answer = served.post(body)
    assert answer["choices"][0]["message"]["content"] == whole
    with served.stream(body) as lines:
        found, _ = events(lines)
    assert text_of(found) == whole
    assert found[-3]["choices"][0]["finish_reason"] == "length"
    assert found[-2]["usage"] == answer["usage"] and answer["usage"]["completion_tokens"] == 12


def test_a_seed_repeats_an_answer_and_may_have_64_bits(served: Served) -> None:
    hot = question(temperature=2, top_k=400, top_p=1)
    answers = [served.post(hot | {"seed": seed})[1]["choices"] for seed in (2**62, 2**62, 3)]
    assert answers[0] == answers[1] != answers[2]


def test_no_event_cuts_a_character(served: Served) -> None:
    hot = question("é", temperature=5, top_k=400, top_p=1, max_tokens=30, stream=True)
    body = json.dumps(hot).encode()
    head = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    chunks = served.raw(POST + head + body).split(b"\r\n\r\n", 1)[1]
    while size := int(chunks.split(b"\r\n", 1)[0], 16):
        chunks = chunks.split(b"\r\n", 1)[1]
        # Each chunk is one whole event
        assert chunks[:size].decode("utf-8").endswith("\n\n")
        chunks = chunks[size + 2 :]


def test_text_of_a_user_stays_text_and_every_option_reaches_the_backend(tiny: Tiny) -> None:
    answer = [{"response": "ok"}, {"response": "\nmore"}, {"response": "", "done": True}]
    options = {"top_k": 7, "top_p": 0.5, "repeat_penalty": 1.5, "seed": 5}
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys, answer) as ollama:
        with serving(OllamaBackend(f"http://{ollama.host}", CONFIG)) as served:
            body = question("a[EOS]b", stop="\n", model="antimatter:latest", max_tokens=9)
            status, value = served.post(body | options)
        assert status == 200 and ollama.requests[0]["prompt"] == "a[ EOS]b"
        options |= {"num_predict": 9, "temperature": 0}
        assert ollama.requests[0]["options"].items() >= options.items()
    (choice,) = value["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ok", "stop")


def test_turns_that_do_not_fit_are_counted(served: Served, embedded: EmbeddedBackend) -> None:
    async def count_rendered(messages: list[Message]) -> int:
        return await embedded.count(template.continued(messages))

    messages = [Message("user", f"turn {i} returns {i} values") for i in range(12)]
    fitting, _ = run(prompt.fit(messages, CONTEXT - 20, count_rendered))
    dropped = 12 - len(fitting)
    body = {"messages": [message("user", turn.text) for turn in messages], "max_tokens": 20}
    assert 0 < dropped < 12
    assert served.post(body)[1]["antimatter"]["dropped_turns"] == dropped
    with served.stream(body) as lines:
        found, _ = events(lines)
    assert [found[i]["antimatter"]["dropped_turns"] for i in (0, -2)] == [dropped, dropped]


def test_a_text_that_is_too_long_is_refused_with_both_numbers(served: Served) -> None:
    for stream in (False, True):
        status, text = served.error(question("many words " * 100, stream=stream))
        assert status == 400
        # LangChain and LiteLLM look for these words
        assert "prompt is too long" in text
        assert re.search(r"has \d+ tokens, .* can read \d+ .*: shorten it", text)


def test_more_tokens_than_fit_are_as_many_as_fit(served: Served) -> None:
    status, answer = served.post(question(max_tokens=2**31 - 1, stop=["\0never"]))
    assert status == 200 and answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == CONTEXT


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_a_chat_model_gets_its_roles_after_its_system_text() -> None:
    user, answer = message("user", "Hi [USER]"), message("assistant", " Hello. ")
    own, none = message("system", "Be brief."), message("system", "")
    backend = ScriptedBackend(repeats=1, chat=FACTS)
    turn = "[USER]Hi [ USER][ASSISTANT]"
    expected = {
        f"[SYSTEM]Be kind.{turn}": [user],
        f"[SYSTEM]Be brief.{turn}": [own, user],
        turn: [none, user],
        # Left open, to be continued
        f"{turn}Hello.": [none, user, answer],
        f"{turn}Hello.[EOS]{turn}": [none, user, answer, user],
    }
    with serving(backend) as served:
        for messages in expected.values():
            status, value = served.post({"messages": messages})
            assert status == 200 and value["antimatter"]["dropped_turns"] == 0
        assert served.post({"prompt": "Hi"}, COMPLETE)[0] == 200
        (model,) = json.loads(served.request("GET", "/v1/models")[2])["data"]
    assert backend.prompts == [*expected, "Hi"]
    assert (model["kind"], model["system"]) == ("chat", "Be kind.")
    assert (model["greeting"], model["starters"]) == ("Hello!", [*FACTS.starters])


def test_a_base_model_gets_no_roles() -> None:
    backend = ScriptedBackend(repeats=1)
    messages = [message("user", "a"), message("assistant", " b "), message("user", "c")]
    with serving(backend) as served:
        assert served.post({"messages": messages})[0] == 200
        (model,) = json.loads(served.request("GET", "/v1/models")[2])["data"]
    assert backend.prompts == ["a\n\n b \n\nc"]
    assert model.items() >= {"kind": "base", "system": "", "greeting": "", "starters": []}.items()
