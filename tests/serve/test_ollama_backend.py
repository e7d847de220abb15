"""A running Ollama as a backend, and the choice between it and llama.cpp."""

import hashlib
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import fake_ollama
from helpers.backends import CONFIG, GENERATION, complete, count, pieces, run
from helpers.gguf_model import CHAT, CONTEXT, TEXT, Tiny

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.export import ollama
from antimatter.llama.client import BackendError
from antimatter.llama.header import ChatFacts, read_header
from antimatter.serve.backend import Backend, Finish
from antimatter.serve.choose import choose
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.ollama.backend import OllamaBackend, ollama_url
from antimatter.serve.ollama.server import open_ollama

ANSWER: list[dict[str, Any]] = [
    {"response": " a"},
    {"response": "é🙂"},
    {"response": "日本\n"},
    {"response": "", "done": True, "done_reason": "stop"},
]
DIGEST = hashlib.sha256(b"a manifest").hexdigest()
NAMES = ["antimatter:latest"]


@pytest.fixture(scope="module")
def info(tiny: Tiny) -> dict[str, Any]:
    """The keys of the model, as Ollama returns them."""
    return read_header(tiny.path).keys


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model store with nothing but the manifest, which identifies the model."""
    manifest = ollama.manifest_path(tmp_path / "models", CONFIG.name)
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"a manifest")
    return tmp_path / "models"


def connect(server: fake_ollama.FakeOllama) -> OllamaBackend:
    return OllamaBackend(f"http://{server.host}", CONFIG)


def test_it_gets_the_raw_prompt_and_every_option_and_its_answer_comes_out_whole(
    info: dict[str, Any], store: Path
) -> None:
    with fake_ollama.running(["other:latest", *NAMES], info, ANSWER) as server:
        server.digest = DIGEST
        environ = {"OLLAMA_HOST": server.host}
        chosen = choose("auto", CONFIG, lambda: Path("absent"), pytest.fail, store, environ)
        assert isinstance(chosen, OllamaBackend)
        assert chosen.description == f"Ollama at http://{server.host}, model antimatter:latest"
        assert chosen.n_ctx == CONTEXT
        generation = replace(GENERATION, max_tokens=12)
        assert pieces(chosen, "Once", generation) == [" a", "é🙂", "日本\n"]
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
                "typical_p": 1.0,
                "repeat_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "repeat_last_n": 64,
            },
        }
    ]


def test_the_finish_has_the_counts_of_ollama(info: dict[str, Any]) -> None:
    counts = {"prompt_eval_count": 5, "eval_count": 30, "eval_duration": 2_000_000_000}
    last = {"response": "", "done": True, "done_reason": "length", **counts}
    with fake_ollama.running(NAMES, info, [*ANSWER[:-1], last]) as server:
        assert complete(connect(server), "Once")[1] == Finish("length", 5, 30, 15.0)


def test_it_gets_no_stop_text_and_its_answer_ends_there(info: dict[str, Any]) -> None:
    """Ollama 0.30 and later pass them to llama.cpp, and lose the same text."""
    counts = {"prompt_eval_count": 5, "eval_count": 9, "eval_duration": 10**9}
    events = [{"response": piece} for piece in ("Ret", "urn", "s é", "🙂x")]
    events.append({"done": True, "done_reason": "length", **counts})
    with fake_ollama.running(NAMES, info, events) as server:
        backend = connect(server)
        text, finish = complete(backend, "Once", replace(GENERATION, stop=("🙂xZZ",)))
        assert (text, finish) == ("Returns é🙂x", Finish("length", 5, 9, 9.0))
        assert server.requests[0]["options"]["stop"] == []
        text, finish = complete(backend, "Once", replace(GENERATION, stop=("ns é",)))
        assert (text, finish.reason) == ("Retur", "stop")
        # Without Ollama's counts, the tokens are counted from its vocabulary
        assert finish.prompt_tokens == count(backend, "Once")
        assert finish.completion_tokens == 2 + count(backend, "s é") - 1
        assert complete(backend, "Once", replace(GENERATION, stop=("x",)))[1].reason == "stop"


def test_both_backends_know_how_a_chat_begins_and_count_alike(
    tiny: Tiny, info: dict[str, Any]
) -> None:
    facts = ChatFacts(CHAT["system"], CHAT["greeting"], tuple(CHAT["starters"]))
    chat_info = read_header(tiny.chat_path).keys
    # Ollama does not return it
    chat_info.pop("tokenizer.chat_template")
    messages = [Message("system", "S"), Message("user", "é [EOS]")]
    text, expected = template.prompt(messages), template.prompt_tokens(messages, tiny.tokenizer)
    embedded = EmbeddedBackend(tiny.chat_path, 2048)
    try:
        with fake_ollama.running(NAMES, chat_info) as server:
            running = connect(server)
        assert embedded.chat == running.chat == facts
        assert count(embedded, text) == count(running, text) == len(expected)
        for text in ("", "x", TEXT[:500], "é🙂 it's  7"):
            assert count(running, text) == count(embedded, text)
    finally:
        embedded.close()
    with fake_ollama.running(NAMES, info) as server:
        assert connect(server).chat is None
    chat_info["antimatter.chat.starters"] = "not JSON"
    words = r"^antimatter\.chat\.starters must .*'not JSON'$"
    running = fake_ollama.running(NAMES, chat_info)
    with running as server, pytest.raises(UserError, match=words):
        connect(server)


def test_without_a_vocabulary_every_byte_counts() -> None:
    with fake_ollama.running(NAMES) as server:
        assert count(connect(server), "é🙂") == 7


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (ANSWER[:1], "broke off the answer"),
        ([ANSWER[0], {"error": "model\nrunner died"}], "stopped: model runner died"),
    ],
)
def test_an_answer_without_an_end_is_reported(
    info: dict[str, Any], events: list[dict[str, Any]], words: str
) -> None:
    with fake_ollama.running(NAMES, info, events) as server:
        assert read_until_error(connect(server), words) == [" a"]


@pytest.mark.parametrize(
    "event",
    [
        None,
        5,
        [],
        {"response": None},
        {"response": 5},
        {"response": "", "done": "yes"},
        {"done": True, "eval_count": "x"},
        {"done": True, "eval_count": 1, "eval_duration": None},
        {"done": True, "prompt_eval_count": -1},
    ],
)
def test_an_event_that_ollama_does_not_send_is_reported(info: dict[str, Any], event: Any) -> None:
    with fake_ollama.running(NAMES, info, [ANSWER[0], event]) as server:
        assert read_until_error(connect(server), "does not answer as Ollama does")[:1] == [" a"]


@pytest.mark.parametrize(
    "show",
    [
        None,
        5,
        {"model_info": "x"},
        {"model_info": None},
        {"model_info": {".context_length": "x"}},
        {"model_info": {"general.architecture": [], "[].context_length": None}},
    ],
)
def test_auto_uses_no_server_that_does_not_answer_as_ollama_does(
    tiny: Tiny, store: Path, show: Any
) -> None:
    log: list[str] = []
    with fake_ollama.running(NAMES) as server:
        server.digest, server.show = DIGEST, show
        with pytest.raises(BackendError, match="does not answer as Ollama does"):
            connect(server)
        environ = {"OLLAMA_HOST": server.host}
        chosen = choose("auto", CONFIG, lambda: tiny.path, log.append, store, environ)
        chosen.close()
    assert isinstance(chosen, EmbeddedBackend)
    (line,) = log
    assert server.host in line and line.endswith(": using the embedded llama.cpp")


@pytest.mark.parametrize(
    ("tokens", "merges"), [(["a", "b"], ["a b"]), ([["a"]], ["a a"]), (5, 5), (["a"], ["a"])]
)
def test_a_damaged_vocabulary_is_reported(tokens: Any, merges: Any) -> None:
    info = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}
    with (
        fake_ollama.running(NAMES, info) as server,
        pytest.raises(BackendError, match="vocabulary"),
    ):
        count(connect(server), "a")


def test_held_back_text_is_shown_before_an_answer_is_reported_as_cut_off(
    info: dict[str, Any],
) -> None:
    with fake_ollama.running(NAMES, info, [{"response": " a ["}]) as server:
        assert read_until_error(connect(server), "broke off the answer") == [" a ", "["]


def read_until_error(backend: Backend, words: str) -> list[object]:
    async def read() -> list[object]:
        parts = []
        async with aclosing(backend.stream("Once", GENERATION)) as stream:
            with pytest.raises(BackendError, match=words):
                async for part in stream:
                    parts.append(part)
        return parts

    return run(read())


def test_closing_an_answer_closes_the_connection(info: dict[str, Any]) -> None:
    async def read_one(backend: Backend) -> None:
        async with aclosing(backend.stream("Once", GENERATION)) as stream:
            await anext(stream)

    with fake_ollama.running(NAMES, info, [{"response": "x" * 1000}] * 100_000) as server:
        run(read_one(connect(server)))
        assert server.hung_up.wait(10)


def test_a_model_that_was_deleted_shows_in_the_check(info: dict[str, Any]) -> None:
    with fake_ollama.running(NAMES, info) as server:
        backend = connect(server)
        run(backend.check())
        server.models = []
        with pytest.raises(BackendError, match="has no model antimatter:latest any more"):
            run(backend.check())
        server.models = [[]]  # type: ignore[list-item]
        with pytest.raises(BackendError, match="does not answer as Ollama does"):
            run(backend.check())


@pytest.mark.parametrize(
    ("models", "digest", "stored", "words"),
    [
        (["other:latest"], DIGEST, True, "has no model antimatter:latest"),
        (NAMES, "0" * 64, True, "has another antimatter:latest than "),
        (NAMES, "", True, "has another antimatter:latest than "),
        (NAMES, DIGEST, False, "cannot be compared"),
        (None, DIGEST, True, "no Ollama answers at "),
    ],
)
def test_auto_uses_no_ollama_without_the_model_of_the_store(
    tiny: Tiny, store: Path, models: list[str] | None, digest: str, stored: bool, words: str
) -> None:
    log: list[str] = []
    with fake_ollama.running(models or [], read_header(tiny.path).keys) as server:
        server.digest = digest
        host = server.host if models else "127.0.0.1:9"
        folder = store if stored else store / "absent"
        environ = {"OLLAMA_HOST": host}
        chosen = choose("auto", CONFIG, lambda: tiny.path, log.append, folder, environ)
        chosen.close()
    assert isinstance(chosen, EmbeddedBackend)
    (line,) = log
    assert words in line and host in line and "\n" not in line
    assert line.endswith(": using the embedded llama.cpp")


@pytest.mark.parametrize(
    "host", ["://", "http://[::1", "[::1", "ftp://localhost", "x y", "a\x1b[2Jb", "http://\udcff"]
)
def test_a_malformed_ollama_host_is_one_line_and_auto_uses_llama_cpp(
    tiny: Tiny, store: Path, host: str
) -> None:
    words = f"OLLAMA_HOST must be an address such as 127.0.0.1:11434, got {host!r}"
    log: list[str] = []
    environ = {"OLLAMA_HOST": host, "PATH": ""}
    chosen = choose("auto", CONFIG, lambda: tiny.path, log.append, store, environ)
    chosen.close()
    assert isinstance(chosen, EmbeddedBackend)
    assert log == [f"{words}: using the embedded llama.cpp"]
    with pytest.raises(UserError) as error:
        choose("ollama", CONFIG, lambda: tiny.path, log.append, store, environ)
    assert str(error.value) == words
    # As `antimatter serve` opens it
    with (
        pytest.raises(UserError) as error,
        open_ollama(CONFIG, log.append, store=store, environ=environ),
    ):
        pass
    assert str(error.value) == words


@pytest.mark.parametrize("host", ["é", "a..b", "127.0.0.1:9/é"])
def test_a_host_that_cannot_be_asked_is_no_ollama(host: str, store: Path) -> None:
    environ = {"OLLAMA_HOST": host}
    with pytest.raises(UserError, match=r"^no Ollama answers at http://.*--engine embedded`$"):
        choose("ollama", CONFIG, lambda: Path("absent"), pytest.fail, store, environ)


def test_ollama_by_name_is_an_error_if_its_model_is_not_that_of_the_store(
    tiny: Tiny, store: Path
) -> None:
    log: list[str] = []

    def chosen(folder: Path, host: str) -> Backend:
        environ = {"OLLAMA_HOST": host}
        return choose("ollama", CONFIG, lambda: tiny.path, log.append, folder, environ)

    create = rf"run `ollama create antimatter -f {store.parent}/Modelfile`.*`--engine embedded`$"
    with pytest.raises(UserError, match=r"no Ollama answers at .*: start it, .*--engine emb"):
        chosen(store, "127.0.0.1:9")
    with fake_ollama.running(["other:latest"]) as server:
        with pytest.raises(UserError, match=rf"has no model antimatter:latest: {create}"):
            chosen(store, server.host)
        server.models, server.digest = NAMES, "0" * 64
        with pytest.raises(UserError, match=rf"another antimatter.* than {store}: {create}"):
            chosen(store, server.host)
        assert not log
        server.digest = DIGEST
        assert isinstance(chosen(store, server.host), OllamaBackend) and not log
        assert isinstance(chosen(store / "absent", server.host), OllamaBackend)
    (line,) = log
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
    assert ollama_url(host) == url
