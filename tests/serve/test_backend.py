import hashlib
import random
import socket
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import fake_ollama, gguf_model
from helpers.gguf_model import CHAT, CONTEXT, TEXT, Tiny

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.data.special_tokens import EOS, USER
from antimatter.export import gguf, ollama
from antimatter.export.ollama import OllamaConfig
from antimatter.export.source import of_model
from antimatter.llama.client import Client, Hangup
from antimatter.llama.header import ChatFacts, read_header
from antimatter.serve import backend as engine
from antimatter.serve.backend import EmbeddedEngine, Engine, Finish, OllamaEngine

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
ANSWER = [
    {"response": " a"},
    {"response": "é🙂"},
    {"response": "日本\n"},
    {"response": "", "done": True, "done_reason": "stop"},
]


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


def test_the_context_is_the_models_own_if_that_is_shorter(
    tiny: Tiny, embedded: EmbeddedEngine
) -> None:
    assert embedded.n_ctx == CONTEXT
    assert "embedded llama.cpp" in embedded.description and str(tiny.path) in embedded.description


def test_tokens_are_counted_as_the_runtime_counts_them(
    tiny: Tiny, embedded: EmbeddedEngine
) -> None:
    for text in ("", "x", TEXT[:500], "é🙂"):
        assert embedded.count(text) == len(tiny.tokenizer.encode(text)) + 1


def test_a_text_that_could_never_fit_is_counted_nearly_right(
    tiny: Tiny, embedded: EmbeddedEngine
) -> None:
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
        stream = (
            OllamaEngine(f"http://{server.host}", CONFIG).until(hangup).stream("Once", CONFIG, 5)
        )
        assert next(stream) == "first"
        timer = threading.Timer(0.2, hangup.give_up)
        timer.start()
        with pytest.raises(ConnectionError):
            list(stream)
        timer.join()
        silent.set()
        with pytest.raises(ConnectionError, match="the call was given up"):
            list(
                OllamaEngine(f"http://{server.host}", CONFIG)
                .until(hangup)
                .stream("Once", CONFIG, 5)
            )
        assert not hangup._sockets


def test_hanging_up_wakes_a_call_that_has_no_answer_yet() -> None:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as mute:  # connects, by the kernel, and says nothing
        hangup = Hangup()
        timer = threading.Timer(0.2, hangup.give_up)
        timer.start()
        with pytest.raises(ConnectionError, match=r"^mute does not answer to /x"):
            Client("mute", f"http://127.0.0.1:{mute.getsockname()[1]}").until(hangup).get("/x", 20)
        timer.join()


def test_several_answers_at_a_time_are_those_of_one_alone_each_with_the_whole_context(
    tiny: Tiny, embedded: EmbeddedEngine
) -> None:
    """At temperature 0. A batch of another size may round otherwise, so with another model and processor near ties could fall to the other side."""
    texts = [f"The function returns {'a ' * i}" for i in range(12)]
    alone = ["".join(embedded.stream(text, CONFIG, 30)) for text in texts]
    many = EmbeddedEngine(tiny.path, 2048, parallel=4)
    try:
        assert many.n_ctx == CONTEXT
        with ThreadPoolExecutor(12) as pool:
            assert (
                list(pool.map(lambda text: "".join(many.stream(text, CONFIG, 30)), texts)) == alone
            )
        prompt = "x " * ((CONTEXT - 8) // 2)
        while many.count(prompt) < CONTEXT - 5:
            prompt += "x"
        assert len(list(many.stream(prompt, CONFIG, 4))) > 0
    finally:
        many.close()


def test_how_an_answer_ended_is_told_with_the_counts_of_the_engine(
    tiny: Tiny, embedded: EmbeddedEngine
) -> None:
    def finish(engine: Engine, n_predict: int, config: OllamaConfig = CONFIG) -> Finish:
        return read(engine.stream("The function returns", config, n_predict))[1]

    length = finish(embedded, 7)
    assert (length.reason, length.prompt_tokens, length.completion_tokens) == (
        "length",
        embedded.count("The function returns"),
        7,
    )
    assert length.tokens_per_second > 0
    whole = "".join(embedded.stream("The function returns", CONFIG, 20))
    assert finish(embedded, 20, replace(CONFIG, stop=(whole[6],))).reason == "stop"
    last = ANSWER[-1] | {
        "done_reason": "length",
        "prompt_eval_count": 5,
        "eval_count": 30,
        "eval_duration": 2_000_000_000,
    }
    with fake_ollama.running(
        ["antimatter:latest"], read_header(tiny.path).keys, [*ANSWER[:-1], last]
    ) as server:
        assert finish(OllamaEngine(f"http://{server.host}", CONFIG), 30) == Finish(
            "length", 5, 30, 15.0
        )


def test_a_seed_repeats_an_answer(embedded: EmbeddedEngine) -> None:
    hot = replace(CONFIG, temperature=2.0, top_k=400, top_p=1.0)
    answers = ["".join(embedded.stream("The", hot, 20, seed)) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_a_stop_text_ends_the_answer_and_is_not_shown(embedded: EmbeddedEngine) -> None:
    whole = "".join(embedded.stream("The function returns", CONFIG, 20))
    stop = whole[6:9].replace('"', "").replace("\n", "") or whole[6]
    cut = "".join(embedded.stream("The function returns", replace(CONFIG, stop=(stop,)), 20))
    assert cut == whole[: whole.index(stop)]


PROMPT = "The function returns"
HOT = replace(CONFIG, temperature=0.5, top_k=400, top_p=1.0)


def with_stops(*stops: str) -> OllamaConfig:
    """Past the checks, as antimatter.serve.http.api does: a request may name any text."""
    config = replace(HOT)
    object.__setattr__(config, "stop", stops)
    return config


def read(stream: Generator[str, None, Finish]) -> tuple[str, Finish]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return "".join(pieces), end.value


@pytest.fixture(scope="module")
def seeded(embedded: EmbeddedEngine) -> tuple[int, str]:
    """A seed, and its answer of 12 tokens: plain text that does not repeat one letter."""
    for seed in range(1000):
        text, finish = read(embedded.stream(PROMPT, with_stops(), 12, seed))
        if finish.reason == "length" and len(set(text)) > 6 and text.isascii():
            return seed, text
    pytest.fail("no such seed")


def test_what_may_become_a_stop_text_and_does_not_is_shown(
    embedded: EmbeddedEngine, seeded: tuple[int, str]
) -> None:
    """llama.cpp, asked to stream, drops it where the answer ends by its length."""
    seed, whole = seeded
    for i in range(len(whole)):
        text, finish = read(embedded.stream(PROMPT, with_stops(f"{whole[i:]}ZZ"), 12, seed))
        assert (text, finish.reason) == (whole, "length")
        assert (finish.prompt_tokens, finish.completion_tokens) == (embedded.count(PROMPT), 12)


def test_a_stop_text_ends_the_answer_where_llama_cpp_ends_it(
    embedded: EmbeddedEngine, seeded: tuple[int, str]
) -> None:
    """Asked not to stream, llama.cpp does it right: it is the judge of text, reason and counts."""
    seed, whole = seeded
    for i in range(len(whole) - 2):
        stops = [f"{whole[i:]}ZZ", whole[i : i + 3], whole[i + 1 : i + 4]]
        body = {"prompt": PROMPT, "n_predict": 12, "stop": stops, **engine._sampling(HOT, seed)}
        judge = embedded._llama.post("/completion", body)
        assert judge["stop_type"] == "word"
        text, finish = read(embedded.stream(PROMPT, with_stops(*stops), 12, seed))
        assert (text, finish.reason) == (judge["content"], "stop")
        expected = judge["tokens_evaluated"], judge["tokens_predicted"]
        assert (finish.prompt_tokens, finish.completion_tokens) == expected


def test_no_more_is_held_back_than_what_may_become_a_stop_text() -> None:
    generator = random.Random(1)

    def text(longest: int) -> str:
        return "".join(generator.choices("ab", k=generator.randint(1, longest)))

    for _ in range(2000):
        stops = [text(6) for _ in range(generator.randint(0, 3))]
        matcher, whole, shown = engine.StopTexts(stops), "", ""
        for last in [*[False] * 7, True]:
            piece = text(4)
            whole += piece
            shown += matcher.take(piece, last)
            if starts := [whole.index(stop) for stop in stops if stop in whole]:
                assert matcher.found and shown == whole[: min(starts)]
                break
            held = whole.removeprefix(shown)
            assert not matcher.found and whole == shown + held
            assert not held or (not last and any(stop.startswith(held) for stop in stops))


def test_ollama_is_asked_for_no_stop_text_and_its_answer_ends_there(tiny: Tiny) -> None:
    """Ollama 0.30 and later pass them to llama.cpp, and lose the same text."""
    last = {"prompt_eval_count": 5, "eval_count": 9, "eval_duration": 10**9}
    events = [{"response": piece} for piece in ("Ret", "urn", "s é", "🙂x")]
    events.append({"done": True, "done_reason": "length", **last})
    info = read_header(tiny.path).keys
    with fake_ollama.running(["antimatter:latest"], info, events) as server:
        made = OllamaEngine(f"http://{server.host}", CONFIG)
        text, finish = read(made.stream("Once", with_stops("🙂xZZ"), 9))
        assert (text, finish) == ("Returns é🙂x", Finish("length", 5, 9, 9.0))
        assert server.requests[0]["options"]["stop"] == []
        text, finish = read(made.stream("Once", with_stops("ns é"), 9))
        assert (text, finish.reason) == ("Retur", "stop")
        # what Ollama has not counted yet is counted from its vocabulary
        assert finish.prompt_tokens == made.count("Once")
        assert finish.completion_tokens == 2 + made.count("s é") - 1
        assert read(made.stream("Once", with_stops("x"), 9))[1].reason == "stop"


def test_characters_of_several_tokens_come_out_whole(embedded: EmbeddedEngine) -> None:
    hot = replace(CONFIG, temperature=5.0, top_k=400, top_p=1.0)
    texts = ["".join(embedded.stream("é", hot, 40, seed)) for seed in range(5)]
    for seed, text in enumerate(texts):
        pieces = list(embedded.stream("é", hot, 40, seed))
        assert "".join(pieces) == text and all(
            piece.encode("utf-8") for piece in pieces
        )  # half of a character would raise
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
    with pytest.raises(
        ConnectionError, match=r"^llama\.cpp does not answer to /completion .*: is it running\?$"
    ):
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


DIGEST = hashlib.sha256(b"a manifest").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model store, as far as it tells which model it holds."""
    manifest = ollama.manifest_path(tmp_path / "models", CONFIG.name)
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"a manifest")
    return tmp_path / "models"


def test_ollama_gets_the_raw_prompt_and_every_option_and_its_answer_comes_out_whole(
    tiny: Tiny, store: Path
) -> None:
    with fake_ollama.running(
        ["other:latest", "antimatter:latest"], read_header(tiny.path).keys, ANSWER
    ) as server:
        server.digest = DIGEST
        environ = {"OLLAMA_HOST": server.host}
        chosen = engine.choose("auto", CONFIG, lambda: Path("absent"), pytest.fail, store, environ)
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
                    "stop": [],
                    "temperature": 0.0,
                    "top_p": 0.9,
                    "top_k": 40,
                    "min_p": 0.0,
                    "repeat_penalty": 1.0,
                    "repeat_last_n": 64,
                },
            }
        ]


def test_tokens_of_ollamas_model_are_counted_from_its_own_vocabulary(
    tiny: Tiny, embedded: EmbeddedEngine
) -> None:
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys) as server:
        counter = OllamaEngine(f"http://{server.host}", CONFIG)
        for text in ("", "x", TEXT[:500], "é🙂 it's  7"):
            assert counter.count(text) == embedded.count(text)
    with fake_ollama.running(
        ["antimatter:latest"]
    ) as server:  # an Ollama that keeps the vocabulary to itself
        assert OllamaEngine(f"http://{server.host}", CONFIG).count("é🙂") == 7


def test_both_engines_tell_how_a_chat_begins_and_count_the_roles(tiny: Tiny) -> None:
    facts = ChatFacts(CHAT["system"], CHAT["greeting"], tuple(CHAT["starters"]))
    info = read_header(tiny.chat_path).keys
    info.pop("tokenizer.chat_template")  # which Ollama does not show
    messages = [Message("system", "S"), Message("user", "é [EOS]")]
    text, expected = template.prompt(messages), template.prompt_tokens(messages, tiny.tokenizer)
    made = EmbeddedEngine(tiny.chat_path, 2048)
    try:
        with fake_ollama.running(["antimatter:latest"], info) as server:
            other = OllamaEngine(f"http://{server.host}", CONFIG)
        assert made.chat == other.chat == facts
        assert made.count(text) == other.count(text) == len(expected)
    finally:
        made.close()
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys) as server:
        assert OllamaEngine(f"http://{server.host}", CONFIG).chat is None
    info["antimatter.chat.starters"] = "not JSON"
    words = r"^antimatter\.chat\.starters must .*'not JSON'$"
    running = fake_ollama.running(["antimatter:latest"], info)
    with running as server, pytest.raises(ValueError, match=words):
        OllamaEngine(f"http://{server.host}", CONFIG)


@pytest.mark.parametrize("end", [EOS, USER])
def test_an_answer_ends_with_the_turn(tiny: Tiny, tmp_path: Path, end: int) -> None:
    """The model says nothing but `end`. A base model has no turns, so [USER] ends nothing there."""
    model = gguf_model.gpt(tied=False)
    model.norm.weight.zero_()  # what comes before no longer matters
    model.norm.bias.fill_(1.0)
    model.head.weight.zero_()
    model.head.weight[end] = 1.0
    for chat in (CHAT, None):
        path = tmp_path / f"{chat is None}.gguf"
        source = replace(of_model(model), chat=chat)
        tokenizer = tiny.tokenizer_folder / "tokenizer.json"
        gguf.write(source, tokenizer, path, "f16", gguf_model.CONFIG)
        made = EmbeddedEngine(path, CONTEXT)
        try:
            text, finish = read(made.stream("[USER]Hi[ASSISTANT]", CONFIG, 5))
        finally:
            made.close()
        ends = end == EOS or chat is not None
        assert (text, finish.reason) == ("", "stop" if ends else "length")


def test_an_answer_of_ollama_without_an_end_is_reported_as_cut_off(tiny: Tiny) -> None:
    for events, words in (
        (ANSWER[:2], "broke off the answer"),
        ([ANSWER[0], {"error": "model\nrunner died"}], "stopped: model runner died"),
    ):
        with fake_ollama.running(
            ["antimatter:latest"], read_header(tiny.path).keys, events
        ) as server:
            stream = OllamaEngine(f"http://{server.host}", CONFIG).stream("Once", CONFIG, 5)
            assert next(stream) == " a"
            with pytest.raises(ConnectionError, match=words):
                list(stream)


def test_what_was_held_back_is_shown_before_an_answer_is_reported_as_cut_off(tiny: Tiny) -> None:
    config = replace(CONFIG, stop=("[EOS]",))
    with fake_ollama.running(
        ["antimatter:latest"], read_header(tiny.path).keys, [{"response": " a ["}]
    ) as server:
        stream = OllamaEngine(f"http://{server.host}", config).stream("Once", config, 5)
        assert [next(stream), next(stream)] == [" a ", "["]
        with pytest.raises(ConnectionError, match="broke off the answer"):
            next(stream)


def test_giving_up_an_answer_of_ollama_hangs_up(tiny: Tiny) -> None:
    with fake_ollama.running(
        ["antimatter:latest"], read_header(tiny.path).keys, [{"response": "x" * 1000}] * 100_000
    ) as server:
        stream = OllamaEngine(f"http://{server.host}", CONFIG).stream("Once", CONFIG, 5)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert server.hung_up.wait(10)


@pytest.mark.parametrize(
    ("models", "digest", "stored", "words"),
    [
        (["other:latest"], DIGEST, True, "has no model antimatter:latest"),
        (["antimatter:latest"], "0" * 64, True, "has another antimatter:latest than "),
        (["antimatter:latest"], "", True, "has another antimatter:latest than "),
        (["antimatter:latest"], DIGEST, False, "cannot be compared"),
        (None, DIGEST, True, "no Ollama answers at "),
    ],
)
def test_auto_takes_no_ollama_but_one_with_the_model_of_the_store(
    tiny: Tiny, store: Path, models: list[str] | None, digest: str, stored: bool, words: str
) -> None:
    said: list[str] = []
    with fake_ollama.running(models or [], read_header(tiny.path).keys) as server:
        server.digest = digest
        host = server.host if models else "127.0.0.1:9"
        place = store if stored else store / "absent"
        environ = {"OLLAMA_HOST": host}
        made = engine.choose("auto", CONFIG, lambda: tiny.path, said.append, place, environ)
        made.close()
    assert isinstance(made, EmbeddedEngine)
    (line,) = said
    assert words in line and host in line and "\n" not in line
    assert line.endswith(": using the embedded llama.cpp")


def test_ollama_by_name_is_an_error_where_its_model_is_not_that_of_the_store(
    tiny: Tiny, store: Path
) -> None:
    def choose(place: Path, host: str) -> Engine:
        environ = {"OLLAMA_HOST": host}
        return engine.choose("ollama", CONFIG, lambda: tiny.path, said.append, place, environ)

    said: list[str] = []
    create = rf"run `ollama create antimatter -f {store.parent}/Modelfile`.*`--engine embedded`$"
    with pytest.raises(ConnectionError, match=r"no Ollama answers at .*: start it, or use"):
        choose(store, "127.0.0.1:9")
    with fake_ollama.running(["other:latest"]) as server:
        with pytest.raises(ConnectionError, match=rf"has no model antimatter:latest: {create}"):
            choose(store, server.host)
        server.models, server.digest = ["antimatter:latest"], "0" * 64
        with pytest.raises(ConnectionError, match=rf"another antimatter.* than {store}: {create}"):
            choose(store, server.host)
        assert not said
        server.digest = DIGEST
        assert isinstance(choose(store, server.host), OllamaEngine) and not said
        assert isinstance(choose(store / "absent", server.host), OllamaEngine)
    (line,) = said
    assert f"{store / 'absent'} has no antimatter:latest" in line and "cannot be compared" in line


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
