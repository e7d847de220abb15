"""Many clients at once, clients that disconnect or stall, and a backend that fails."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import fake_ollama
from helpers.backends import CONFIG, GENERATION, ScriptedBackend, complete
from helpers.gguf_model import Tiny
from helpers.http_server import CHAT, POST, events, eventually, question, serving, text_of
from helpers.processes import children

from antimatter.llama.client import BackendError
from antimatter.llama.header import read_header
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.ollama.backend import OllamaBackend


def test_a_hundred_clients_get_the_answers_that_they_would_get_alone(tiny: Tiny) -> None:
    backend = EmbeddedBackend(tiny.path, 2048, parallel=4)
    generation = replace(GENERATION, max_tokens=15)
    texts = [f"The function returns {i % 10}" for i in range(100)]
    expected = {text: complete(backend, text, generation)[0] for text in set(texts)}

    def answer(i: int) -> str:
        body = question(texts[i], max_tokens=15)
        if i % 2:
            return str(served.post(body)[1]["choices"][0]["message"]["content"])
        with served.stream(body) as lines:
            return text_of(events(lines)[0])

    with serving(backend, parallel=4) as served, ThreadPoolExecutor(100) as pool:
        assert list(pool.map(answer, range(100))) == [expected[text] for text in texts]
        assert served.log == []
    backend.close()


def test_a_client_that_disconnects_during_its_answer_frees_its_slot() -> None:
    backend = ScriptedBackend()
    with serving(backend, parallel=1) as served:
        for i in range(3):
            with served.stream(question(f"text {i}")) as lines:
                next(lines)
                assert backend.running == [f"text {i}"]
        # Also one that waits for the whole answer
        with served.connect() as connection:
            body = b'{"messages": [{"role": "user", "content": "text 3"}]}'
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            eventually(lambda: backend.running == ["text 3"])
        eventually(lambda: backend.ended == [f"text {i}" for i in range(4)])
        assert served.log == []


def test_a_client_has_one_slot_for_several_answers_and_frees_it_when_it_disconnects() -> None:
    backend = ScriptedBackend(repeats=5)
    with serving(backend, parallel=2) as served:
        with served.stream(question("several", n=100)) as lines:
            next(lines)
            # The other slot is free, and the answers come one after another
            assert served.post(question("other"))[0] == 200
            assert backend.running == ["several"]
            while backend.ended.count("several") < 3:
                next(lines)
        eventually(lambda: backend.running == [])
        assert backend.prompts.count("several") < 100
        assert served.log == []


def test_a_client_that_disconnects_while_its_prompt_is_read_frees_its_slot(tiny: Tiny) -> None:
    release = threading.Event()

    def silence() -> Iterator[dict[str, Any]]:
        release.wait(20)
        yield {"response": "x" * 100_000}

    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys) as ollama:
        ollama.events = silence()
        backend = OllamaBackend(f"http://{ollama.host}", CONFIG)
        with serving(backend, parallel=1, comment_seconds=0.1) as served:
            with served.stream(question("first")) as lines:
                assert next(lines) == ": reading the prompt\n"
            ollama.events = [{"response": "ok"}, {"response": "", "done": True}]
            # While the first is still silent
            _, answer = served.post(question("second"))
            assert answer["choices"][0]["message"]["content"] == "ok"
            release.set()


def test_waiting_clients_see_how_many_are_ahead_and_are_answered_in_order() -> None:
    backend = ScriptedBackend(repeats=40)
    heard = [threading.Event() for _ in range(4)]

    def comments_to(i: int) -> list[str]:
        with served.stream(question(f"text {i}")) as lines:
            first = next(lines)
            heard[i].set()
            found, comments = events([first, *lines])
            assert text_of(found) == "x" * 40
            return comments

    with serving(backend, parallel=1, comment_seconds=0.05) as served, ThreadPoolExecutor() as pool:
        clients = []
        for i in range(4):
            clients.append(pool.submit(comments_to, i))
            assert heard[i].wait(20)
        comments = [client.result() for client in clients]
    assert backend.prompts == [f"text {i}" for i in range(4)]
    waits = [re.findall(r"waiting, (\d+) before you", "\n".join(texts)) for texts in comments]
    assert waits[0] == []
    for i, numbers in enumerate(waits[1:], 1):
        assert int(numbers[0]) <= i and numbers[-1] == "1"
        assert numbers == sorted(numbers, reverse=True)


def test_many_health_checks_at_once_are_all_answered() -> None:
    with serving(ScriptedBackend()) as served, ThreadPoolExecutor(20) as pool:
        assert all(pool.map(lambda _: served.is_healthy(), range(200)))


def test_a_client_that_leaves_the_queue_is_forgotten_and_beyond_the_queue_is_503() -> None:
    backend = ScriptedBackend()
    with (
        serving(backend, parallel=1, waiting=2, comment_seconds=0.05) as served,
        served.stream(question("first")) as first,
    ):
        next(first)
        with (
            served.stream(question("second")) as second,
            served.stream(question("third")) as third,
        ):
            assert next(second) == ": waiting, 1 before you\n"
            assert next(third) == ": waiting, 2 before you\n"
            status, headers, body = served.request("POST", CHAT, question("fourth"))
            assert (status, int(headers["Retry-After"])) == (503, 5)
            assert b'"type":"overloaded_error"' in body
        eventually(served.is_healthy)
        with served.stream(question("fifth")) as fifth:
            assert next(fifth) == ": waiting, 1 before you\n"
    assert backend.prompts == ["first"]


def test_a_client_that_reads_nothing_is_cut_off_and_blocks_nobody() -> None:
    backend = ScriptedBackend(piece="x" * 100_000, pause=0.001)
    with serving(backend, parallel=1, stalled_seconds=0.5) as served, served.connect() as stalled:
        body = b'{"messages": [{"role": "user", "content": "stalled"}], "stream": true}'
        stalled.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: backend.ended == ["stalled"])
        with served.stream(question("next")) as lines:
            next(lines)
        eventually(lambda: backend.ended == ["stalled", "next"])


def test_a_client_that_reads_slowly_does_not_hold_a_slot() -> None:
    # 10 MB, more than the kernel buffers
    backend = ScriptedBackend(piece="x" * 20_000, repeats=500, pause=0.0001)
    with serving(backend, parallel=1) as served, served.stream(question("slow")) as slow:
        next(slow)
        eventually(lambda: backend.ended == ["slow"])
        with served.stream(question("next")) as lines:
            next(lines)
            eventually(lambda: "next" in backend.prompts)
        found, _ = events([": the rest\n", *slow])
    assert len(text_of(found)) == 10_000_000 and found[-1] == "[DONE]"


def test_an_answer_that_takes_too_long_is_ended() -> None:
    backend = ScriptedBackend()
    with serving(backend, parallel=1, answer_seconds=0.3) as served:
        status, message = served.error(question("whole"))
        assert status == 503 and "within 0.3 seconds: ask for fewer tokens" in message
        with served.stream(question("stream")) as lines:
            found, _ = events(lines)
        assert found[-1]["error"]["type"] == "server_error"
        assert "[DONE]" not in found and text_of(found)
        eventually(lambda: backend.ended == ["whole", "stream"])


def test_an_error_of_the_backend_is_503_before_the_first_piece_and_an_event_after_it() -> None:
    backend = ScriptedBackend(failure=BackendError("it broke: ask again"))
    with serving(backend) as served:
        for stream in (False, True):
            assert served.error(question(stream=stream)) == (503, "it broke: ask again")
        assert served.request("GET", "/health")[0] == 503
        assert len(served.log) == 3 and "it broke" in served.log[0]
        backend.fails_after = 3
        with served.stream(question()) as lines:
            found, _ = events(lines)
        assert text_of(found) == "xxx"
        assert found[-1]["error"].items() >= {("message", "it broke: ask again")}
        assert found[-1]["error"]["type"] == "server_error"
        assert served.error(question())[0] == 503


def test_a_bug_is_500_without_a_traceback() -> None:
    with serving(ScriptedBackend(failure=TypeError("secret/path.py is None"))) as served:
        status, message = served.error(question())
        assert status == 500 and "secret" not in message
        number = re.search(r"request ([0-9a-f]{8})", message)
        assert number
        assert served.log == [f"request {number[1]}: TypeError: secret/path.py is None"]


@contextmanager
def embedded(path: Path) -> Iterator[tuple[EmbeddedBackend, int]]:
    """A backend, and the process of its llama.cpp."""
    before = children(os.getpid())
    backend = EmbeddedBackend(path, 2048)
    try:
        (llama,) = set(children(os.getpid())).difference(before)
        yield backend, llama
    finally:
        backend.close()


def test_llama_cpp_that_died_is_started_again(tiny: Tiny) -> None:
    with embedded(tiny.path) as (backend, llama), serving(backend) as served:
        before = served.post(question())[1]["choices"]
        with served.stream(question(temperature=1, max_tokens=30)) as lines:
            next(lines)
            os.kill(llama, signal.SIGKILL)
            found, _ = events([": the rest\n", *lines])
            # The answer may have been complete before
            assert found[-1] == "[DONE]" or "error" in found[-1]
        # The kernel takes a moment to end all of its threads
        eventually(lambda: served.post(question())[1].get("choices") == before)
        assert served.is_healthy()


def test_llama_cpp_that_cannot_be_started_again_is_reported(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(tiny.path.read_bytes())
    with embedded(path) as (backend, llama), serving(backend) as served:
        assert served.post(question(max_tokens=2))[0] == 200
        path.write_bytes(b"no model")
        os.kill(llama, signal.SIGKILL)
        dead = "llama.cpp died and does not start again"
        eventually(lambda: dead in served.error(question())[1])
        status, message = served.error(question())
        assert status == 503 and dead in message
        assert served.request("GET", "/health")[0] == 503


def test_a_server_that_stops_tells_the_clients_that_read_or_wait() -> None:
    backend = ScriptedBackend()
    with (
        serving(backend, parallel=1, comment_seconds=0.05) as served,
        served.stream(question("first")) as first,
        served.stream(question("second")) as second,
    ):
        # On a busy machine the backend may read the prompt for a while
        while next(first).startswith(":"):
            pass
        assert next(second) == ": waiting, 1 before you\n"
        served.stop()
        for lines in (first, second):
            found, _ = events([": the rest\n", *lines])
            error = {"message": "the server was stopped", "type": "server_error"}
            assert found[-1]["error"].items() >= error.items()
    assert backend.ended == ["first"]
