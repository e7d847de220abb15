"""Ollama's API, called by Ollama's own Python client wherever that can send the request."""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import ollama
import pytest
from helpers import fake_ollama
from helpers.backends import CONFIG, GENERATION, ScriptedBackend, complete, count, pieces, run
from helpers.gguf_model import CONTEXT, Tiny
from helpers.http_server import Served, question, serving

from antimatter.export.ollama import human_number
from antimatter.llama.client import BackendError
from antimatter.llama.header import ChatFacts, read_header
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.http.ollama import UNSUPPORTED
from antimatter.serve.ollama.backend import OllamaBackend

TEXT, TOKEN = "The function returns", "a-Token-of-16-chars"
ASKED = [{"role": "user", "content": TEXT}]
CHAT, GENERATE = "/api/chat", "/api/generate"


@pytest.fixture(scope="module")
def embedded(tiny: Tiny) -> Iterator[EmbeddedBackend]:
    backend = EmbeddedBackend(tiny.path, 2048, parallel=2)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def served(embedded: EmbeddedBackend) -> Iterator[Served]:
    with serving(embedded) as served:
        yield served
        assert served.log == []


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[ollama.Client]:
    with ollama.Client(host=f"http://127.0.0.1:{served.port}") as client:
        yield client


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedBackend, Served]]:
    backend = ScriptedBackend(repeats=1, pause=0, chat=ChatFacts("Be kind.", "Hello!", ()))
    with serving(backend) as served:
        yield backend, served


def body(**options: Any) -> dict[str, Any]:
    return {"model": "antimatter", "messages": ASKED, "stream": False, **options}


def test_the_model_is_listed_shown_and_running(
    client: ollama.Client, tiny: Tiny, embedded: EmbeddedBackend
) -> None:
    content = tiny.path.read_bytes()
    (listed,), (running,) = client.list().models, client.ps().models
    for model in (listed, running):
        assert (model.model, model.size) == ("antimatter:latest", len(content))
        assert model.digest == hashlib.sha256(content).hexdigest()
    assert running.context_length == embedded.n_ctx == CONTEXT
    assert running.expires_at and running.expires_at > datetime(2100, 1, 1, tzinfo=UTC)
    shown = client.show("antimatter")
    assert shown.details == listed.details
    assert (shown.capabilities, shown.modified_at) == (["completion"], listed.modified_at)
    assert shown.modelinfo
    keys, size = read_header(tiny.path).keys, sum(p.numel() for p in tiny.model.parameters())
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert shown.modelinfo["mpt.context_length"] == keys["mpt.context_length"]
    # Those of the network, not the values of the file
    assert shown.modelinfo["general.parameter_count"] == size < read_header(tiny.path).n_parameters
    assert listed.details and listed.details.parameter_size == human_number(size)


def test_an_answer_is_that_of_the_backend_streamed_or_not(
    client: ollama.Client, embedded: EmbeddedBackend
) -> None:
    expected, _ = complete(embedded, TEXT)
    whole = client.chat(model="antimatter", messages=ASKED)
    assert (whole.message.role, whole.message.content) == ("assistant", expected)
    *parts, last = client.chat(model="antimatter", messages=ASKED, stream=True)
    assert "".join(part.message.content or "" for part in parts) == expected
    assert [part.done for part in parts] == [False] * len(parts)
    for end in (whole, last):
        assert (end.done, end.done_reason) == (True, "length")
        assert (end.prompt_eval_count, end.eval_count) == (count(embedded, TEXT), 20)
    generated = client.generate(model="antimatter:latest", prompt=TEXT)
    assert (generated.response, generated.model) == (expected, "antimatter:latest")
    streamed = client.generate(model="antimatter", prompt=TEXT, stream=True)
    assert "".join(part.response for part in streamed) == expected


def test_both_apis_give_the_same_answer(client: ollama.Client, served: Served) -> None:
    hot = {"temperature": 2.0, "top_p": 0.9, "top_k": 0, "min_p": 0.01, "repeat_last_n": 20}
    hot |= {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repeat_penalty": 1.1}
    texts = set()
    for seed in range(5):
        options = hot | {"seed": seed}
        _, answer = served.post(question(TEXT, **options | {"max_tokens": 8}))
        texts.add(answer["choices"][0]["message"]["content"])
        end = client.chat("antimatter", ASKED, options=options | {"num_predict": 8})
        assert end.message.content == answer["choices"][0]["message"]["content"]
    assert len(texts) == 5


def test_a_stream_is_the_default_and_has_one_object_a_line(served: Served) -> None:
    asked = {"model": "antimatter", "messages": ASKED}
    status, headers, content = served.request("POST", CHAT, asked)
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    assert content.endswith(b"\n")
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    status, headers, content = served.request("POST", CHAT, asked | {"stream": False})
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(content)["message"]["content"]


def test_durations_are_measured_nanoseconds(client: ollama.Client) -> None:
    began = time.monotonic_ns()
    end = client.chat(model="antimatter", messages=ASKED)
    elapsed = time.monotonic_ns() - began
    assert end.total_duration and end.eval_duration and end.prompt_eval_duration
    assert end.load_duration is not None and end.load_duration > 0
    parts = end.load_duration + end.prompt_eval_duration + end.eval_duration
    # llama.cpp's clock is another one
    assert parts <= end.total_duration + 5_000_000 and end.total_duration <= elapsed


def test_a_client_that_waited_for_its_turn_sees_it_in_the_load_duration() -> None:
    async def ask_two(host: str) -> list[int]:
        client = ollama.AsyncClient(host=host)
        answers = [client.chat(model="antimatter", messages=ASKED) for _ in range(2)]
        ends = await asyncio.gather(*answers)
        await client.close()
        return [end.load_duration or 0 for end in ends]

    with serving(ScriptedBackend(repeats=10, pause=0.05), parallel=1) as served:
        first, second = sorted(run(ask_two(f"http://127.0.0.1:{served.port}")))
    assert first < 400_000_000 < second < 2_000_000_000


def test_a_chat_has_the_roles_and_the_system_text_of_the_model(
    scripted: tuple[ScriptedBackend, Served],
) -> None:
    backend, served = scripted
    brief, none = {"role": "system", "content": "Be brief."}, {"role": "system"}
    begin = f"[USER]{TEXT}[ASSISTANT]"
    kind = f"[SYSTEM]Be kind.{begin}"
    with ollama.Client(host=f"http://127.0.0.1:{served.port}") as client:
        client.chat(model="antimatter", messages=ASKED)
        client.chat(model="antimatter", messages=[brief, *ASKED])
        # The client leaves an empty content out
        client.chat(model="antimatter", messages=[none, *ASKED])
        answer = client.chat(model="antimatter", messages=ASKED).message
        client.chat(model="antimatter", messages=[*ASKED, answer, *ASKED])
        client.generate(model="antimatter", prompt=TEXT)
        client.generate(model="antimatter", prompt=TEXT, system="Be brief.")
        client.generate(model="antimatter", prompt="[USER]Hi[ASSISTANT]", raw=True)
    own = f"[SYSTEM]Be brief.{begin}"
    chats = [kind, own, begin, kind, f"{kind}x[EOS]{begin}"]
    assert backend.prompts == [*chats, kind, own, "[USER]Hi[ASSISTANT]"]


def test_every_option_reaches_the_backend(scripted: tuple[ScriptedBackend, Served]) -> None:
    backend, served = scripted
    same = {"top_k": 7, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.7, "temperature": 0.8}
    same |= {"repeat_last_n": 33, "repeat_penalty": 1.2, "presence_penalty": 1.5, "seed": 42}
    same |= {"frequency_penalty": 1.0}
    # As in Ollama's manual
    other = {"num_keep": 5, "num_predict": 9, "draft_num_predict": 4, "penalize_newline": True}
    other |= {"stop": ["\n", "user:"], "numa": False, "num_ctx": 1024, "num_batch": 2}
    other |= {"num_gpu": 1, "main_gpu": 0, "use_mmap": True, "num_thread": 8}
    assert served.post(body(options=same | other), CHAT)[0] == 200
    assert served.post(body(options={"num_predict": -1}), CHAT)[0] == 200
    # Open WebUI puts it there when it asks for a title
    assert served.post(body(num_predict=5, options={}), CHAT)[0] == 200
    first, second, third = backend.generations
    assert vars(first).items() >= (same | {"max_tokens": 9}).items()
    assert first.stop == ("[EOS]", "\n", "user:")
    assert (second.max_tokens, third.max_tokens) == (backend.n_ctx - 5, 5)


def test_num_ctx_is_the_context_if_it_is_smaller(served: Served) -> None:
    options = {"num_predict": -2, "stop": ["\0never"]}
    for num_ctx, expected in ((20, 20), (CONTEXT, CONTEXT), (2**20, CONTEXT)):
        _, end = served.post(body(options=options | {"num_ctx": num_ctx}), CHAT)
        assert end["prompt_eval_count"] + end["eval_count"] == expected
    status, answer = served.post(body(options={"num_ctx": 2}), CHAT)
    assert status == 400 and "prompt is too long" in answer["error"]


@pytest.mark.parametrize("keep_alive", [None, 300, "5m", -1, 0, "0"])
def test_without_a_prompt_the_model_is_loaded_and_nothing_is_generated(
    scripted: tuple[ScriptedBackend, Served], keep_alive: Any
) -> None:
    backend, served = scripted
    reason = "unload" if keep_alive in (0, "0") else "load"
    with ollama.Client(host=f"http://127.0.0.1:{served.port}") as client:
        for stream in (False, True):
            end = client.generate(model="antimatter", keep_alive=keep_alive, stream=stream)
            end = next(iter(end)) if stream else end
            assert (end.done, end.done_reason, end.response) == (True, reason, "")
        end = client.chat(model="antimatter", messages=[], keep_alive=keep_alive)
        assert (end.done_reason, end.message.content) == (reason, "")
    assert backend.prompts == []


def test_another_model_is_not_found(client: ollama.Client) -> None:
    for call in (
        lambda: client.chat(model="llama3", messages=ASKED),
        lambda: client.generate(model="llama3", prompt="x"),
        lambda: client.show("llama3"),
    ):
        with pytest.raises(
            ollama.ResponseError, match=r"not found: .* antimatter:latest"
        ) as caught:
            call()
        assert caught.value.status_code == 404


def test_routes_that_manage_models_are_refused_in_ollamas_form(
    client: ollama.Client, served: Served
) -> None:
    for call in (
        lambda: client.pull("llama3"),
        lambda: client.embed(model="antimatter", input="x"),
        lambda: client.delete("antimatter"),
        lambda: client.copy("antimatter", "other"),
    ):
        with pytest.raises(ollama.ResponseError, match="not supported") as caught:
            call()
        assert caught.value.status_code == 501
    for path in UNSUPPORTED:
        for method in ("GET", "POST", "DELETE"):
            status, _, content = served.request(method, path.replace("{digest}", "sha256:0"), {})
            assert status == 501 and json.loads(content).keys() == {"error"}
    for method, path, status in (("GET", "/api/absent", 404), ("PUT", CHAT, 405)):
        found, _, content = served.request(method, path)
        assert found == status and json.loads(content).keys() == {"error"}


def test_a_client_that_asks_whether_ollama_is_there_finds_it(served: Served) -> None:
    for path in ("/", "/api/version", "/api/tags"):
        assert served.request("HEAD", path)[::2] == (200, b"")
    version = json.loads(served.request("GET", "/api/version")[2])["version"]
    # Open WebUI compares it by these numbers
    assert [int(part) for part in version.split(".")] > [0, 1]


def test_errors_of_the_backend_are_503_before_the_first_piece_and_a_line_after_it() -> None:
    backend = ScriptedBackend(failure=BackendError("it broke: ask again"))
    with serving(backend) as served:
        for stream in (False, True):
            answer = served.post(body(stream=stream), CHAT)
            assert answer == (503, {"error": "it broke: ask again"})
        backend.fails_after = 2
        with ollama.Client(host=f"http://127.0.0.1:{served.port}") as client:
            stream = client.chat(model="antimatter", messages=ASKED, stream=True)
            assert next(stream).message.content
            with pytest.raises(ollama.ResponseError, match="it broke: ask again"):
                list(stream)


def test_the_token_is_needed_and_ollamas_client_can_send_it() -> None:
    with serving(ScriptedBackend(repeats=1), token=TOKEN) as served:
        host = f"http://127.0.0.1:{served.port}"
        with ollama.Client(host=host) as client:
            for call in (client.list, client.ps, lambda: client.show("antimatter")):
                with pytest.raises(ollama.ResponseError, match="token") as caught:
                    call()
                assert caught.value.status_code == 401
        with ollama.Client(host=host, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            assert client.chat(model="antimatter", messages=ASKED).message.content == "x"


def test_json_needs_no_content_type_unless_a_browser_sends_it(
    scripted: tuple[ScriptedBackend, Served],
) -> None:
    """As from curl in Ollama's manual, and from LiteLLM, which sends none."""
    backend, served = scripted
    kinds = ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream"]
    for kind in kinds:
        headers = {"Content-Type": kind}
        assert served.request("POST", CHAT, body(), headers)[0] == 200
        for name, value in (
            ("Origin", f"http://127.0.0.1:{served.port}"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Referer", "https://evil.com/"),
        ):
            status, _, content = served.request("POST", CHAT, body(), headers | {name: value})
            assert status == 415 and b"Content-Type" in content
        # The other API has no such clients
        path = "/v1/chat/completions"
        assert served.request("POST", path, question(), headers)[0] == 415
    text = json.dumps(body()).encode()
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(text)
    assert served.raw(head + text).startswith(b"HTTP/1.1 200")
    for wrong in ({"Content-Encoding": "gzip"}, {"Content-Type": "text/plain; charset=utf-16"}):
        assert served.request("POST", CHAT, body(), wrong)[0] == 415
    assert len(backend.prompts) == len(kinds) + 1


def test_our_own_client_of_ollama_gets_the_same_answers_as_from_the_backend(
    served: Served, embedded: EmbeddedBackend
) -> None:
    """`antimatter chat` with OLLAMA_HOST at this server: it asks in raw mode, and for all keys."""
    config = replace(CONFIG, num_ctx=2048)
    ours = OllamaBackend(f"http://127.0.0.1:{served.port}", config)
    assert (ours.n_ctx, ours.chat) == (embedded.n_ctx, embedded.chat)
    recorded = run(embedded.file()).keys["antimatter.parameters"]
    assert str(run(ours.file()).n_parameters) == recorded
    for text in (TEXT, "a[EOS]b", "é 🙂 [USER]x"):
        assert count(ours, text) == count(embedded, text)
        generation = replace(GENERATION, max_tokens=12, stop=())
        expected = "".join(pieces(embedded, text, generation))
        assert "".join(pieces(ours, text, generation)) == expected


def test_the_backend_may_be_ollama_itself(tiny: Tiny) -> None:
    counts = {"prompt_eval_count": 5, "eval_count": 2}
    durations = {"prompt_eval_duration": 3_000_000, "eval_duration": 4_000_000}
    last = {"response": "", "done": True, "done_reason": "stop", **counts, **durations}
    info = read_header(tiny.path).keys | {"general.parameter_count": 1_600_000}
    # As in a file of another program
    del info["antimatter.parameters"]
    events = [{"response": "o"}, {"response": "k"}, last]
    with (
        fake_ollama.running(["antimatter:latest"], info, events) as upstream,
        serving(OllamaBackend(f"http://{upstream.host}", CONFIG)) as served,
        ollama.Client(host=f"http://127.0.0.1:{served.port}") as client,
    ):
        end = client.chat(model="antimatter", messages=[{"role": "user", "content": "a[EOS]b"}])
        # The prompt is ours
        assert upstream.requests[0]["prompt"] == "a[ EOS]b"
        (listed,) = client.list().models
    assert end.message.content == "ok"
    found = end.prompt_eval_count, end.eval_count, end.prompt_eval_duration, end.eval_duration
    assert found == (5, 2, 3_000_000, 4_000_000)
    assert listed.details and listed.details.parameter_size == "1.60M"
