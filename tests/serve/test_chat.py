import builtins
import io
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from helpers import fake_ollama
from helpers.gguf_model import CONTEXT, Tiny
from test_engine import CONFIG

from antimatter import files
from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.export import ollama
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts, read_header
from antimatter.serve.backend import EmbeddedEngine, Finish, OllamaEngine
from antimatter.serve.terminal import chat, editor

ROOT = Path(__file__).parents[2]


@dataclass
class Echo:
    """An engine that answers with the last word of the prompt; one word is one token. At "stop" comes Ctrl-C, at "break" it breaks off."""

    chat: ChatFacts | None = None
    n_ctx: int = 20
    name: str = "echo"
    model: str = "echo"
    description: str = "echo"
    prompts: list[str] = field(default_factory=list)
    allowed: list[int] = field(default_factory=list)  # n_predict of each

    def count(self, text: str) -> int:
        return len(text.split()) + 1

    def stream(
        self, prompt: str, config: OllamaConfig, n_predict: int, seed: int | None = None
    ) -> Generator[str, None, Finish]:
        self.prompts.append(prompt)
        self.allowed.append(n_predict)
        yield prompt.replace("[ASSISTANT]", "").split()[-1]
        if prompt.endswith("stop"):
            raise KeyboardInterrupt
        if prompt.endswith("break"):
            raise ConnectionError("echo broke off the answer: ask again")
        yield "!"
        return Finish("stop", self.count(prompt), 2, 10.0)

    def close(self) -> None: ...


def test_a_pipe_gets_one_answer_a_line_and_nothing_else() -> None:
    engine, output = Echo(), io.StringIO()
    chat.pipe(engine, CONFIG, io.StringIO("say one\n\n  \nsay two  \n"), output)
    assert output.getvalue() == "one!\ntwo!\n"
    assert engine.prompts == ["say one", "say two"]  # each line for itself


def test_control_characters_of_the_model_do_not_reach_the_terminal() -> None:
    output = io.StringIO()
    chat.pipe(Echo(), CONFIG, io.StringIO("x\x1b[2J\x07\x9b31m\tend\r\n"), output)
    assert output.getvalue() == "end!\n"
    output = io.StringIO()
    chat.pipe(Echo(), CONFIG, io.StringIO("\x1b[2J\x07é🙂\n"), output)
    assert output.getvalue() == "[2Jé🙂!\n"


@pytest.mark.parametrize("text", ["/help", "/set temperature 0", "//x", "ends in\\"])
def test_data_in_a_pipe_cannot_steer_the_chat(text: str) -> None:
    engine, output = Echo(), io.StringIO()
    chat.pipe(engine, CONFIG, io.StringIO(f"{text}\nnext\n"), output)
    assert engine.prompts == [text, "next"]


def test_odd_lines_are_read_as_they_are_and_blank_ones_skipped() -> None:
    engine, output = Echo(), io.StringIO()
    chat.pipe(
        engine, CONFIG, io.StringIO("a\x00b\r\n\x1b\x07\n \x00 \n\ufffdx", newline=None), output
    )
    assert engine.prompts == ["a\x00b", "\ufffdx"]
    chat.pipe(engine, CONFIG, io.StringIO(""), output)
    assert output.getvalue() == "ab!\n\ufffdx!\n"


def test_a_line_that_fails_is_named_and_the_others_are_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine, output = Echo(), io.StringIO()
    with pytest.raises(ValueError, match=r"^2 of 4 lines could not be answered$"):
        chat.pipe(engine, CONFIG, io.StringIO(f"one\n\n{'x ' * 50}\ntwo\nbreak\n"), output)
    assert (
        output.getvalue() == "one!\ntwo!\nbreak\n"
    )  # what was said before it broke ends its own line
    assert capsys.readouterr().err == (
        "line 3: the text has 51 tokens, the model can read 10 and still answer: shorten it\nline 5: echo broke off the answer: ask again\n"
    )


def test_a_reader_that_leaves_is_not_taken_for_a_failed_answer() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    engine = Echo()
    with pytest.raises(BrokenPipeError):
        chat.pipe(engine, CONFIG, io.StringIO("one\ntwo\n"), Gone())
    assert engine.prompts == ["one"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_turns_the_direction_of_writing_does_not_reach_a_screen_but_does_reach_a_file() -> (
    None
):
    screen, file = Screen(), io.StringIO()
    for output in (screen, file):
        editor.write(output, "a\u202eb\u2066c\u2028d\u200f\x1b[2Jé\t\n")
    assert screen.getvalue() == "abc\nd\u200f[2Jé\t\n"
    assert file.getvalue() == "a\u202eb\u2066c\u2028d\u200f[2Jé\t\n"


def talk(
    monkeypatch: pytest.MonkeyPatch,
    engine: Echo,
    *lines: str | type[BaseException],
    system: str = "Be kind.",
) -> None:
    said = iter(lines)

    def ask(_: str = "") -> str:
        line = next(said, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setenv("XDG_STATE_HOME", os.devnull)  # a history that cannot be written
    before = signal.getsignal(signal.SIGINT)
    chat.converse(engine, CONFIG, system)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_conversation_remembers_and_ends_with_ctrl_d(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo()
    talk(monkeypatch, engine, "one", "", "two")
    assert engine.prompts == ["Be kind.\n\none", "Be kind.\n\none\n\none!\n\ntwo"]
    shown = capsys.readouterr()
    assert shown.out == "one!\ntwo!\n"  # the answers and nothing else
    assert shown.err.count("(2 tokens, 10 tokens/s)") == 2


def test_ctrl_c_stops_an_answer_and_not_the_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo()
    talk(monkeypatch, engine, "stop", KeyboardInterrupt, "two")
    assert engine.prompts == [
        "Be kind.\n\nstop",
        "Be kind.\n\nstop\n\nstop\n\ntwo",
    ]  # what was said before the interruption counts
    shown = capsys.readouterr()
    assert shown.out == "stop\ntwo!\n"
    assert "(stopped)" in shown.err


def test_a_text_that_is_too_long_is_reported_and_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo()
    talk(monkeypatch, engine, "x " * 50, "two")
    assert "error: the text has 53 tokens, the model can read 10" in capsys.readouterr().err
    assert engine.prompts == ["Be kind.\n\ntwo"]


def test_an_engine_that_breaks_off_is_reported_and_what_it_said_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo()
    talk(monkeypatch, engine, "break", "two", system="")
    assert "error: echo broke off the answer: ask again" in capsys.readouterr().err
    assert engine.prompts[1] == "break\n\nbreak\n\ntwo"


def test_reset_forgets_the_conversation_and_not_the_system_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Echo()
    talk(
        monkeypatch,
        engine,
        "one",
        "/reset",
        "two",
        "/set system Be brief.",
        "three",
        '/set system ""',
        "/reset",
        "four",
    )
    assert engine.prompts == [
        "Be kind.\n\none",
        "Be kind.\n\ntwo",
        "Be brief.\n\ntwo\n\ntwo!\n\nthree",
        "four",
    ]


def test_retry_answers_the_last_text_again_as_if_it_were_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo()
    talk(
        monkeypatch,
        engine,
        "/retry",
        "one",
        "two",
        "/retry",
        "/retry",
        "stop",
        "/retry",
        "/reset",
        "/retry",
        system="",
    )
    second = "one\n\none!\n\ntwo"
    assert engine.prompts == [
        "one",
        second,
        second,
        second,
        f"{second}\n\ntwo!\n\nstop",
        f"{second}\n\ntwo!\n\nstop",
    ]
    assert (
        capsys.readouterr().err.count("error: there is no text yet that could be answered again")
        == 2
    )


def test_two_slashes_send_a_text_that_begins_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo()
    talk(
        monkeypatch,
        engine,
        "//help",
        "/hlep",
        "/",
        "/usr/bin/python is a file",
        "/bye",
        "never",
        system="",
    )
    assert engine.prompts == ["/help"]
    error = capsys.readouterr().err
    assert (
        "error: there is no command /hlep (did you mean /help?): /help shows all, //hlep is text for the model\n"
        in error
    )
    assert "error: there is no command /: /help shows all" in error
    assert "error: there is no command /usr/bin/python: /help shows all" in error


def test_a_backslash_joins_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Echo()
    talk(
        monkeypatch,
        engine,
        "one\\",
        "two\\",
        "  three",
        "a\\ ",
        "dropped\\",
        KeyboardInterrupt,
        "last\\",
        EOFError,
        system="",
    )
    assert engine.prompts[0] == "one\ntwo\n  three"
    assert engine.prompts[1].endswith("\n\na\\")  # a blank after it: it stays
    assert len(engine.prompts) == 2


def test_turns_that_no_longer_fit_are_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo()
    talk(monkeypatch, engine, "a b c", "d e", "f g h", system="")
    assert engine.prompts == ["a b c", "a b c\n\nc!\n\nd e", "d e\n\ne!\n\nf g h"]
    assert (
        capsys.readouterr().err.count(
            "the oldest 2 turns no longer fit 20 tokens and were left out"
        )
        == 1
    )


TALKER = ChatFacts("Be kind.", "Hello! I am é.", ("Who are you?", "What can you do?", "Bye!"))


def test_a_chat_model_reads_roles_and_its_answers_as_it_learnt_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Echo(chat=TALKER)
    talk(monkeypatch, engine, "one [EOS]", "two", '/set system ""', "/reset", "three")
    first = "[SYSTEM]Be kind.[USER]one [ EOS][ASSISTANT]"
    assert engine.prompts == [
        first,
        f"{first}EOS]![EOS][USER]two[ASSISTANT]",
        "[USER]three[ASSISTANT]",
    ]
    engine.prompts.clear()
    chat.pipe(engine, CONFIG, io.StringIO("say one\n"), io.StringIO(), "Be brief.")
    assert engine.prompts == ["[SYSTEM]Be brief.[USER]say one[ASSISTANT]"]


def test_a_chat_says_what_its_model_is_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    talk(monkeypatch, Echo(chat=TALKER), "/help")
    greeted = capsys.readouterr()
    lines = [line.strip() for line in greeted.err.splitlines()]
    assert "Hello! I am é." in lines and set(TALKER.starters) <= set(lines)
    assert "model answers you" in greeted.err and "continues your text" not in greeted.err
    assert not greeted.out
    talk(monkeypatch, Echo(), "/help")
    said = capsys.readouterr().err
    assert said.count("continues your text") == 2 and "model answers you" not in said


def test_a_text_to_go_on_with_has_no_roles_whatever_the_model_is() -> None:
    engine = Echo(chat=TALKER)
    list(chat.answer(engine, [Message("user", "one")], CONFIG, continues=True))
    assert engine.prompts == ["one"]


@pytest.mark.parametrize(
    ("finish", "words"),
    [
        (Finish("stop", 5, 30, 99.6), "30 tokens, 100 tokens/s"),
        (
            Finish("length", 5, 20, 10.0),
            "20 tokens, 10 tokens/s; stopped at its length: /set num_predict allows more",
        ),
        (
            Finish("length", 5, 15, 10.0),
            "15 tokens, 10 tokens/s; stopped as the context of 256 tokens is full",
        ),
        (
            Finish("stop", 5, 1, 1e6),
            "1 token; the model ended the text at once: /retry, or write more",
        ),
        (
            Finish("stop", 5, 0, 0.0),
            "0 tokens; the model ended the text at once: /retry, or write more",
        ),
    ],
)
def test_how_an_answer_ended_is_said(finish: Finish, words: str) -> None:
    assert "; ".join(chat._ending(finish, 20, 256)) == words


def test_room_is_kept_for_the_answer_and_old_turns_make_way() -> None:
    engine = Echo(n_ctx=20)
    messages = [Message("user", f"turn {i} says") for i in range(6)]
    assert "".join(chat.answer(engine, messages, replace(CONFIG, num_predict=100)))
    assert messages == [
        Message("user", f"turn {i} says") for i in (3, 4, 5)
    ]  # 9 words and [BOS]: half of the context


def test_prompt_and_answer_never_exceed_the_context_and_use_it_all_if_asked() -> None:
    generator, refused = random.Random(0), 0
    for _ in range(500):
        engine, n_ctx, n_predict = Echo(), generator.randint(4, 60), generator.randint(1, 80)
        engine.n_ctx = n_ctx
        messages = [
            Message(role, "x " * generator.randint(1, 20)) for role in ("user", "assistant", "user")
        ]
        try:
            list(chat.answer(engine, messages, replace(CONFIG, num_predict=n_predict)))
        except ValueError:
            assert engine.prompts == []
            refused += 1
            continue
        assert engine.allowed == [min(n_predict, n_ctx - engine.count(engine.prompts[0]))]
        assert engine.allowed[0] >= min(n_predict, n_ctx // 2)
    assert 50 < refused < 450


@pytest.mark.parametrize("is_chat", [False, True])
def test_both_engines_are_asked_for_no_more_than_their_context(tiny: Tiny, is_chat: bool) -> None:
    """With llama.cpp itself: it says at 64 tokens that the answer reached its length, and has shifted nothing."""
    path = tiny.chat_path if is_chat else tiny.path
    config = replace(CONFIG, num_predict=1000, stop=("\x00",))
    messages = [
        Message("user" if i % 2 == 0 else "assistant", f"the function returns {i}")
        for i in range(9)
    ]
    embedded = EmbeddedEngine(path, 2048)
    try:
        shortened = [*messages]
        stream, finish = chat.answer(embedded, shortened, config), None
        while finish is None:
            try:
                next(stream)
            except StopIteration as end:
                finish = end.value
    finally:
        embedded.close()
    assert 0 < len(shortened) < len(messages)
    assert (finish.reason, finish.prompt_tokens + finish.completion_tokens) == ("length", CONTEXT)
    events = [{"response": " a"}, {"response": "", "done": True, "done_reason": "length"}]
    with fake_ollama.running(["antimatter:latest"], read_header(path).keys, events) as server:
        list(chat.answer(OllamaEngine(f"http://{server.host}", config), messages, config))
        (request,) = server.requests
    render = template.prompt if is_chat else template.continued
    assert request["prompt"] == render(shortened)  # both cut at the same turn
    assert request["options"]["num_predict"] == CONTEXT - finish.prompt_tokens
    assert request["shift"] is request["truncate"] is False


def test_the_chat_does_not_talk_to_an_old_model_in_ollama(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "models" / "gguf").mkdir(parents=True)
    shutil.copy(tiny.path, tmp_path / "models" / "gguf")
    manifest = ollama.manifest_path(tmp_path / "models" / "ollama" / "models", "antimatter")
    files.write_text(manifest, "of today")
    events = [{"response": "an old answer"}, {"response": "", "done": True}]
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys, events) as server:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OLLAMA_HOST": server.host}

        def ask() -> tuple[bytes, bytes]:
            command = [sys.executable, "-m", "antimatter.cli", "chat", "--num-predict", "8"]
            options: dict[str, Any] = {"capture_output": True, "check": True, "timeout": 60}
            done = subprocess.run(command, cwd=tmp_path, env=environ, input=b"The\n", **options)
            return done.stdout, done.stderr

        server.digest = "0" * 64
        answer, said = ask()
        assert b"an old answer" not in answer
        assert b"another antimatter:latest than models/ollama/models: using the embedded" in said
        server.digest = files.sha256(manifest)
        assert ask()[0] == b"an old answer\n"  # which the server gives whatever its model is


def test_what_was_held_back_for_a_stop_text_is_shown(tiny: Tiny) -> None:
    embedded = EmbeddedEngine(tiny.path, 2048)
    try:
        whole, other = io.StringIO(), io.StringIO()
        chat.pipe(embedded, CONFIG, io.StringIO("The function returns\n"), whole)
        config = replace(CONFIG, stop=(f"{whole.getvalue().rstrip()[-1]}ZZ",))
        chat.pipe(embedded, config, io.StringIO("The function returns\n"), other)
    finally:
        embedded.close()
    assert other.getvalue() == whole.getvalue() != "\n"


def test_the_chat_starts_without_torch_and_without_numpy() -> None:
    heavy = ("torch", "numpy", "gguf", "tokenizers", "xllamacpp")
    code = f"import sys, antimatter.cli, antimatter.serve.terminal.chat, antimatter.serve.backend; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
