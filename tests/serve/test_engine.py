import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fake_ollama
import pytest
from tiny_gguf import CONTEXT, TEXT, Tiny

from antimatter.export.client import Client, Hangup
from antimatter.export.header import read_header
from antimatter.export.ollama import OllamaConfig
from antimatter.serve import engine
from antimatter.serve.engine import EmbeddedEngine, Engine, Finish, OllamaEngine

CONFIG = OllamaConfig(
    name="antimatter",
    type="f16",
    temperature=0.0,
    top_p=0.9,
    top_k=40,
    repeat_penalty=1.0,
    num_ctx=2048,
    num_predict=20,
    stop=("[EOS]",),
    system="",
)
ANSWER = [{"response": " a"}, {"response": "é🙂"}, {"response": "日本\n"}, {"response": "", "done": True, "done_reason": "stop"}]


@pytest.fixture(scope="module")
def embedded(tiny: Tiny) -> Iterator[EmbeddedEngine]:
    made = EmbeddedEngine(tiny.path, 2048)
    yield made
    made.close()


def test_the_embedded_engine_continues_as_torch_does(tiny: Tiny, embedded: EmbeddedEngine) -> None:
    import torch

    text = "The function returns"
    ids = [1, *tiny.tokenizer.encode(text)]
    for _ in range(20):
        ids.append(int(tiny.model(torch.tensor([ids]))[0, -1].argmax()))
    expected = tiny.tokenizer.decode(ids[-20:])
    pieces = list(embedded.stream(text, CONFIG, 20))
    assert "".join(pieces).startswith(expected.split("\ufffd")[0])
    assert len(pieces) > 1


def test_the_context_is_the_models_own_if_that_is_shorter(tiny: Tiny, embedded: EmbeddedEngine) -> None:
    assert embedded.n_ctx == CONTEXT
    assert "embedded llama.cpp" in embedded.description and str(tiny.path) in embedded.description


def test_tokens_are_counted_as_the_runtime_counts_them(tiny: Tiny, embedded: EmbeddedEngine) -> None:
    for text in ("", "x", TEXT[:500], "é🙂"):
        assert embedded.count(text) == len(tiny.tokenizer.encode(text)) + 1


def test_a_text_that_could_never_fit_is_counted_nearly_right(tiny: Tiny, embedded: EmbeddedEngine) -> None:
    text = TEXT * (200_000 // len(TEXT) + 1)
    assert embedded.count(text) == pytest.approx(len(tiny.tokenizer.encode(text)), rel=0.001)


def test_hanging_up_wakes_a_call_that_waits_and_refuses_those_that_come_later(tiny: Tiny) -> None:
    silent = threading.Event()

    def silence() -> Iterator[dict[str, object]]:
        yield {"response": "first"}
        silent.wait(20)
        yield {"response": "x" * 100_000}

    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys) as server:
        server.events = silence()  # type: ignore[assignment]
        hangup = Hangup()
        stream = OllamaEngine(f"http://{server.host}", CONFIG).until(hangup).stream("Once", CONFIG, 5)
        assert next(stream) == "first"
        timer = threading.Timer(0.2, hangup.give_up)
        timer.start()
        with pytest.raises(ConnectionError):
            list(stream)
        timer.join()
        silent.set()
        with pytest.raises(ConnectionError, match="the call was given up"):
            list(OllamaEngine(f"http://{server.host}", CONFIG).until(hangup).stream("Once", CONFIG, 5))
        assert not hangup._sockets


def test_hanging_up_wakes_a_call_that_has_no_answer_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # connects, by the kernel, and says nothing
        hangup = Hangup()
        timer = threading.Timer(0.2, hangup.give_up)
        timer.start()
        with pytest.raises(ConnectionError, match=r"^mute does not answer to /x"):
            Client("mute", f"http://127.0.0.1:{mute.getsockname()[1]}").until(hangup).get("/x", 20)
        timer.join()


def test_several_answers_at_a_time_are_those_of_one_alone_each_with_the_whole_context(tiny: Tiny, embedded: EmbeddedEngine) -> None:
    """At temperature 0. A batch of another size may round otherwise, so with another model and processor near ties could fall to the other side."""
    texts = [f"The function returns {'a ' * i}" for i in range(12)]
    alone = ["".join(embedded.stream(text, CONFIG, 30)) for text in texts]
    many = EmbeddedEngine(tiny.path, 2048, parallel=4)
    try:
        assert many.n_ctx == CONTEXT
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(lambda text: "".join(many.stream(text, CONFIG, 30)), texts)) == alone
        prompt = "x " * ((CONTEXT - 8) // 2)
        while many.count(prompt) < CONTEXT - 5:
            prompt += "x"
        assert len(list(many.stream(prompt, CONFIG, 4))) > 0
    finally:
        many.close()


def test_how_an_answer_ended_is_told_with_the_counts_of_the_engine(tiny: Tiny, embedded: EmbeddedEngine) -> None:
    def finish(engine: Engine, n_predict: int, config: OllamaConfig = CONFIG) -> Finish:
        stream = engine.stream("The function returns", config, n_predict)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                assert isinstance(end.value, Finish)
                return end.value

    length = finish(embedded, 7)
    assert (length.reason, length.prompt_tokens, length.completion_tokens) == ("length", embedded.count("The function returns"), 7)
    assert length.tokens_per_second > 0
    whole = "".join(embedded.stream("The function returns", CONFIG, 20))
    assert finish(embedded, 20, replace(CONFIG, stop=(whole[6],))).reason == "stop"
    last = ANSWER[-1] | {"done_reason": "length", "prompt_eval_count": 5, "eval_count": 30, "eval_duration": 2_000_000_000}
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys, [*ANSWER[:-1], last]) as server:
        assert finish(OllamaEngine(f"http://{server.host}", CONFIG), 30) == Finish("length", 5, 30, 15.0)


def test_a_seed_repeats_an_answer(embedded: EmbeddedEngine) -> None:
    hot = replace(CONFIG, temperature=2.0, top_k=400, top_p=1.0)
    answers = ["".join(embedded.stream("The", hot, 20, seed)) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_a_stop_text_ends_the_answer_and_is_not_shown(embedded: EmbeddedEngine) -> None:
    whole = "".join(embedded.stream("The function returns", CONFIG, 20))
    stop = whole[6:9].replace('"', "").replace("\n", "") or whole[6]
    cut = "".join(embedded.stream("The function returns", replace(CONFIG, stop=(stop,)), 20))
    assert cut == whole[: whole.index(stop)]


def test_characters_of_several_tokens_come_out_whole(embedded: EmbeddedEngine) -> None:
    hot = replace(CONFIG, temperature=5.0, top_k=400, top_p=1.0)
    texts = ["".join(embedded.stream("é", hot, 40, seed)) for seed in range(5)]
    for seed, text in enumerate(texts):
        pieces = list(embedded.stream("é", hot, 40, seed))
        assert "".join(pieces) == text and all(piece.encode("utf-8") for piece in pieces)  # half of a character would raise
    assert not "".join(texts).isascii()  # else this would show nothing


def test_an_engine_that_was_asked_nothing_stops_too(tiny: Tiny) -> None:
    for _ in range(5):
        made = EmbeddedEngine(tiny.path, 64)
        process = made._llama._process
        assert process.poll() is None
        made.close()
        assert process.poll() is not None


def test_an_engine_that_died_is_one_clear_error(tiny: Tiny) -> None:
    made = EmbeddedEngine(tiny.path, 64)
    made.close()
    with pytest.raises(ConnectionError, match=r"^llama\.cpp does not answer to /completion .*: is it running\?$"):
        list(made.stream("x", CONFIG, 5))


def test_an_answer_given_up_leaves_the_engine_ready(embedded: EmbeddedEngine) -> None:
    for _ in range(3):
        stream = embedded.stream("The", CONFIG, 50)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert "".join(embedded.stream("The", CONFIG, 5))


def test_a_prompt_beyond_the_context_is_refused_not_cut(embedded: EmbeddedEngine) -> None:
    with pytest.raises(ConnectionError, match="exceeds the available context size"):
        list(embedded.stream("x " * 300, CONFIG, 5))


def test_a_broken_file_never_reaches_llama_cpp(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content in (b"no model", tiny.path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.gguf is (not a GGUF file|a damaged GGUF file)"):
            EmbeddedEngine(path, 64)


def test_what_llama_cpp_refuses_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(tiny.path.read_bytes().replace(b"blk.1.ffn_up.bias", b"blk.1.ffn_xx.bias"))
    with pytest.raises(ValueError, match=r"^[^\n]*a\.gguf is refused by llama\.cpp[^\n]*$"):
        EmbeddedEngine(path, 64)


def test_ollama_gets_the_raw_prompt_and_every_option_and_its_answer_comes_out_whole(tiny: Tiny) -> None:
    with fake_ollama.running(["other:latest", "antimatter:latest"], read_header(tiny.path).keys, ANSWER) as server:
        chosen = engine.choose("auto", CONFIG, lambda: Path("absent"), pytest.fail, {"OLLAMA_HOST": server.host})
        assert isinstance(chosen, OllamaEngine)
        assert chosen.description == f"Ollama at http://{server.host}, model antimatter:latest"
        assert chosen.n_ctx == CONTEXT
        assert list(chosen.stream("Once", CONFIG, 12)) == [" a", "é🙂", "日本\n"]
        assert server.requests == [
            {
                "model": "antimatter:latest",
                "prompt": "Once",
                "raw": True,
                "stream": True,
                "shift": False,
                "truncate": False,
                "options": {
                    "num_ctx": CONTEXT,
                    "num_predict": 12,
                    "stop": ["[EOS]"],
                    "temperature": 0.0,
                    "top_p": 0.9,
                    "top_k": 40,
                    "min_p": 0.0,
                    "repeat_penalty": 1.0,
                    "repeat_last_n": 64,
                },
            }
        ]


def test_tokens_of_ollamas_model_are_counted_from_its_own_vocabulary(tiny: Tiny, embedded: EmbeddedEngine) -> None:
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys) as server:
        counter = OllamaEngine(f"http://{server.host}", CONFIG)
        for text in ("", "x", TEXT[:500], "é🙂 it's  7"):
            assert counter.count(text) == embedded.count(text)
    with fake_ollama.running(["antimatter:latest"]) as server:  # an Ollama that keeps the vocabulary to itself
        assert OllamaEngine(f"http://{server.host}", CONFIG).count("é🙂") == 7


def test_an_answer_of_ollama_without_an_end_is_reported_as_cut_off(tiny: Tiny) -> None:
    for events, words in ((ANSWER[:2], "broke off the answer"), ([ANSWER[0], {"error": "model\nrunner died"}], "stopped: model runner died")):
        with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys, events) as server:
            stream = OllamaEngine(f"http://{server.host}", CONFIG).stream("Once", CONFIG, 5)
            assert next(stream) == " a"
            with pytest.raises(ConnectionError, match=words):
                list(stream)


def test_giving_up_an_answer_of_ollama_hangs_up(tiny: Tiny) -> None:
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys, [{"response": "x" * 1000}] * 100_000) as server:
        stream = OllamaEngine(f"http://{server.host}", CONFIG).stream("Once", CONFIG, 5)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert server.hung_up.wait(10)


def test_without_ollama_or_without_the_model_the_embedded_engine_answers_and_says_why(tiny: Tiny) -> None:
    said: list[str] = []
    with fake_ollama.running(["other:latest"]) as server:
        made = engine.choose("auto", CONFIG, lambda: tiny.path, said.append, {"OLLAMA_HOST": server.host})
        made.close()
        gone = server.host
        with pytest.raises(ConnectionError, match=r"has no model antimatter:latest.*use `--engine embedded`"):
            engine.choose("ollama", CONFIG, lambda: tiny.path, said.append, {"OLLAMA_HOST": server.host})
    engine.choose("auto", CONFIG, lambda: tiny.path, said.append, {"OLLAMA_HOST": gone}).close()
    assert isinstance(made, EmbeddedEngine)
    assert f"Ollama at http://{gone} has no model antimatter:latest" in said[0] and said[0].endswith("using the embedded llama.cpp")
    assert f"no Ollama answers at http://{gone}" in said[1]
    with pytest.raises(ConnectionError, match="no Ollama answers at"):
        engine.choose("ollama", CONFIG, lambda: tiny.path, said.append, {"OLLAMA_HOST": gone})


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        (":5000", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("https://example.org/ollama/", "https://example.org:443/ollama"),
        ("127.0.0.1:notaport", "http://127.0.0.1:11434"),
        ("127.0.0.1:99999", "http://127.0.0.1:11434"),
        ("[::1]:5000", "http://[::1]:5000"),
        (' "localhost" ', "http://localhost:11434"),
    ],
)
def test_ollama_host_means_what_it_means_to_ollama(host: str, url: str) -> None:
    assert engine.ollama_url(host) == url
