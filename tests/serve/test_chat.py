"""The conversation in a terminal, and the answers to a pipe."""

import asyncio
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from helpers import fake_ollama
from helpers.backends import CONFIG, complete, run
from helpers.gguf_model import CONTEXT, Tiny

from antimatter import files
from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.export import ollama
from antimatter.llama.client import BackendError
from antimatter.llama.header import ChatFacts, read_header
from antimatter.serve import prompt
from antimatter.serve.backend import Finish, Generation
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.ollama.backend import OllamaBackend
from antimatter.serve.terminal import chat, editor

ROOT = Path(__file__).parents[2]
FACTS = ChatFacts("Be kind.", "Hello! I am é.", ("Who are you?", "What can you do?", "Bye!"))


@dataclass
class EchoBackend:
    """Answers with the last word of the prompt. One word is one token. At "stop" the user presses
    Ctrl-C, at "break" the answer ends with an error.
    """

    chat: ChatFacts | None = None
    n_ctx: int = 20
    description: str = "echo"
    prompts: list[str] = field(default_factory=list)

    async def count(self, text: str) -> int:
        return len(text.split()) + 1

    async def stream(
        self, prompt: str, generation: Generation
    ) -> AsyncGenerator[str | Finish, None]:
        self.prompts.append(prompt)
        yield prompt.replace("[ASSISTANT]", "").split()[-1]
        if prompt.endswith("stop"):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(20)
        if prompt.endswith("break"):
            raise BackendError("echo broke off the answer: ask again")
        yield "!"
        yield Finish("stop", await self.count(prompt), 2, 10.0)

    async def check(self) -> None: ...

    def close(self) -> None: ...


def pipe(text: str, backend: EchoBackend, system: str = "") -> str:
    output = io.StringIO()
    chat.pipe(backend, CONFIG, io.StringIO(text, newline=None), output, system)
    return output.getvalue()


def test_a_pipe_gets_one_answer_a_line_and_nothing_else() -> None:
    backend = EchoBackend()
    assert pipe("say one\n\n  \nsay two  \n", backend) == "one!\ntwo!\n"
    # Each line is its own conversation
    assert backend.prompts == ["say one", "say two"]


def test_control_characters_of_the_model_do_not_reach_the_terminal() -> None:
    assert pipe("x\x1b[2J\x07\x9b31m\tend\r\n", EchoBackend()) == "end!\n"
    assert pipe("\x1b[2J\x07é🙂\n", EchoBackend()) == "[2Jé🙂!\n"


@pytest.mark.parametrize("text", ["/help", "/set temperature 0", "//x", "ends in\\"])
def test_a_line_of_a_pipe_is_never_a_command(text: str) -> None:
    backend = EchoBackend()
    pipe(f"{text}\nnext\n", backend)
    assert backend.prompts == [text, "next"]


def test_odd_lines_are_read_as_they_are_and_blank_ones_skipped() -> None:
    backend = EchoBackend()
    assert pipe("a\x00b\r\n\x1b\x07\n \x00 \n\ufffdx", backend) == "ab!\n\ufffdx!\n"
    assert backend.prompts == ["a\x00b", "\ufffdx"]
    assert pipe("", backend) == ""


def test_a_line_that_fails_is_named_and_the_others_are_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, lines = io.StringIO(), io.StringIO(f"one\n\n{'x ' * 50}\ntwo\nbreak\n")
    with pytest.raises(UserError, match=r"^2 of 4 lines could not be answered$"):
        chat.pipe(EchoBackend(), CONFIG, lines, output)
    # The text before an error ends its own line
    assert output.getvalue() == "one!\ntwo!\nbreak\n"
    third, fifth = capsys.readouterr().err.splitlines()
    assert third.startswith("line 3: the prompt is too long, it has 51 tokens, the model can ")
    assert fifth == "line 5: echo broke off the answer: ask again"


def test_a_reader_that_has_gone_is_not_a_failed_answer() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    backend = EchoBackend()
    with pytest.raises(BrokenPipeError):
        chat.pipe(backend, CONFIG, io.StringIO("one\ntwo\n"), Gone())
    assert backend.prompts == ["one"]


def test_ctrl_c_ends_a_pipe() -> None:
    backend = EchoBackend()
    with pytest.raises(KeyboardInterrupt):
        pipe("one\nstop\ntwo\n", backend)
    assert backend.prompts == ["one", "stop"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_characters_that_change_the_direction_of_writing_reach_a_file_but_no_screen() -> None:
    screen, file = Screen(), io.StringIO()
    for output in (screen, file):
        editor.write(output, "a\u202eb\u2066c\u2028d\u200f\x1b[2Jé\t\n")
    assert screen.getvalue() == "abc\nd\u200f[2Jé\t\n"
    assert file.getvalue() == "a\u202eb\u2066c\u2028d\u200f[2Jé\t\n"


def talk(backend: EchoBackend, *lines: str | type[BaseException], system: str = "") -> None:
    """A conversation in which the user types these lines, or presses Ctrl-C, and at last Ctrl-D."""
    rest = iter(lines)

    async def read() -> str:
        line = next(rest, EOFError)
        if isinstance(line, str):
            return line
        raise line

    before = signal.getsignal(signal.SIGINT)
    chat.converse(backend, CONFIG, system, read)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_conversation_remembers_and_ends_with_ctrl_d(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = EchoBackend()
    talk(backend, "one", "", "two", system="Be kind.")
    assert backend.prompts == ["Be kind.\n\none", "Be kind.\n\none\n\none!\n\ntwo"]
    output, messages = capsys.readouterr()
    # The answers and nothing else
    assert output == "one!\ntwo!\n"
    assert messages.count("(2 tokens, 10 tokens/s)") == 2


def test_ctrl_c_stops_an_answer_and_not_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    backend = EchoBackend()
    talk(backend, "stop", KeyboardInterrupt, "two")
    # The part before the interruption counts
    assert backend.prompts == ["stop", "stop\n\nstop\n\ntwo"]
    output, messages = capsys.readouterr()
    assert output == "stop\ntwo!\n"
    assert "(stopped)" in messages and "(Ctrl-D ends the chat)" in messages


def test_a_text_that_is_too_long_is_reported_and_forgotten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = EchoBackend()
    talk(backend, "x " * 50, "two")
    words = "error: the prompt is too long, it has 51 tokens, the model can read 10"
    assert words in capsys.readouterr().err
    assert backend.prompts == ["two"]


def test_an_answer_that_breaks_off_is_reported_and_its_part_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = EchoBackend()
    talk(backend, "break", "two")
    assert "error: echo broke off the answer: ask again" in capsys.readouterr().err
    assert backend.prompts[1] == "break\n\nbreak\n\ntwo"


def test_reset_forgets_the_conversation_and_not_the_system_text() -> None:
    backend = EchoBackend()
    before = ["one", "/reset", "two", "/set system Be brief.", "three"]
    talk(backend, *before, '/set system ""', "/reset", "four", system="Be kind.")
    assert backend.prompts == [
        "Be kind.\n\none",
        "Be kind.\n\ntwo",
        "Be brief.\n\ntwo\n\ntwo!\n\nthree",
        "four",
    ]


def test_retry_answers_the_last_text_again_as_if_it_were_new(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = EchoBackend()
    talk(backend, *"/retry one two /retry /retry stop /retry /reset /retry".split())
    second = "one\n\none!\n\ntwo"
    third = f"{second}\n\ntwo!\n\nstop"
    assert backend.prompts == ["one", second, second, second, third, third]
    assert capsys.readouterr().err.count("error: there is no text yet") == 2


def test_two_slashes_send_a_text_that_begins_with_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = EchoBackend()
    talk(backend, "//help", "/hlep", "/", "/usr/bin/python is a file", "/bye", "never")
    assert backend.prompts == ["/help"]
    messages = capsys.readouterr().err
    for name in ("/hlep", "/", "/usr/bin/python"):
        assert f"error: there is no command {name}" in messages


def test_a_backslash_joins_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = EchoBackend()
    monkeypatch.setenv("XDG_STATE_HOME", os.devnull)  # a history that cannot be written
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\\\ntwo\\\n  three\na\\ \nlast\\"))
    chat.converse(backend, CONFIG)
    assert backend.prompts[0] == "one\ntwo\n  three"
    # A backslash before a blank stays
    assert backend.prompts[1].endswith("\n\na\\")
    assert len(backend.prompts) == 2


def test_dropped_turns_are_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    backend = EchoBackend()
    talk(backend, "a b c", "d e", "f g h")
    assert backend.prompts == ["a b c", "a b c\n\nc!\n\nd e", "d e\n\ne!\n\nf g h"]
    assert capsys.readouterr().err.count("the oldest 2 turns no longer fit 20 tokens") == 1


def test_a_chat_model_gets_roles_and_its_answers_as_in_its_tuning_data() -> None:
    backend = EchoBackend(chat=FACTS)
    talk(backend, "one [EOS]", "two", '/set system ""', "/reset", "three", system="Be kind.")
    first = "[SYSTEM]Be kind.[USER]one [ EOS][ASSISTANT]"
    second = f"{first}EOS]![EOS][USER]two[ASSISTANT]"
    assert backend.prompts == [first, second, "[USER]three[ASSISTANT]"]
    backend.prompts.clear()
    pipe("say one\n", backend, "Be brief.")
    assert backend.prompts == ["[SYSTEM]Be brief.[USER]say one[ASSISTANT]"]


def test_a_chat_says_what_its_model_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    talk(EchoBackend(chat=FACTS), "/help")
    output, messages = capsys.readouterr()
    assert {FACTS.greeting, *FACTS.starters} <= {line.strip() for line in messages.splitlines()}
    assert "model answers you" in messages and "continues your text" not in messages
    assert not output
    talk(EchoBackend(), "/help")
    messages = capsys.readouterr().err
    assert messages.count("continues your text") == 2 and "model answers you" not in messages


@pytest.mark.parametrize(
    ("finish", "words"),
    [
        (Finish("stop", 5, 30, 99.6), ["30 tokens, 100 tokens/s"]),
        (Finish("length", 5, 20, 10.0), ["20 tokens, 10 tokens/s", "/set num_predict"]),
        (Finish("length", 5, 15, 10.0), ["15 tokens, 10 tokens/s", "context of 256 tokens"]),
        (Finish("stop", 5, 1, 1e6), ["1 token", "at once: /retry"]),
        (Finish("stop", 5, 0, 0.0), ["0 tokens", "at once: /retry"]),
    ],
)
def test_the_notes_say_how_an_answer_ended(finish: Finish, words: list[str]) -> None:
    notes = chat.ending(finish, 20, 256)
    assert notes[0] == words[0] and len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


@pytest.mark.parametrize("is_chat", [False, True])
def test_both_backends_are_asked_for_no_more_than_their_context(tiny: Tiny, is_chat: bool) -> None:
    """llama.cpp itself says, at 64 tokens, that the answer reached its length."""
    path = tiny.chat_path if is_chat else tiny.path
    generation = replace(Generation.of(CONFIG), max_tokens=1000, stop=("\x00",))
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], f"the function returns {i}") for i in range(9)]
    embedded = EmbeddedBackend(path, 2048)
    try:
        built = run(prompt.build(embedded, messages, generation))
        _, finish = complete(embedded, built.text, built.generation)
    finally:
        embedded.close()
    assert 0 < len(built.messages) < len(messages)
    assert finish.reason == "length"
    assert finish.prompt_tokens + finish.completion_tokens == CONTEXT
    events = [{"response": " a"}, {"response": "", "done": True, "done_reason": "length"}]
    with fake_ollama.running(["antimatter:latest"], read_header(path).keys, events) as server:
        other = OllamaBackend(f"http://{server.host}", CONFIG)
        # Both drop the same turns
        assert run(prompt.build(other, messages, generation)) == built
        complete(other, built.text, built.generation)
        (request,) = server.requests
    render = template.prompt if is_chat else template.continued
    assert request["prompt"] == render(built.messages)
    assert request["options"]["num_predict"] == CONTEXT - finish.prompt_tokens
    assert request["shift"] is request["truncate"] is False


def test_the_chat_does_not_use_an_old_model_in_ollama(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "models" / "gguf").mkdir(parents=True)
    shutil.copy(tiny.path, tmp_path / "models" / "gguf")
    manifest = ollama.manifest_path(tmp_path / "models" / "ollama" / "models", "antimatter")
    files.write_text(manifest, "of today")
    events = [{"response": "an old answer"}, {"response": "", "done": True}]
    with fake_ollama.running(["antimatter:latest"], read_header(tiny.path).keys, events) as server:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OLLAMA_HOST": server.host}

        def answer() -> tuple[bytes, bytes]:
            done = subprocess.run(
                [sys.executable, "-m", "antimatter.cli", "chat", "--num-predict", "8"],
                cwd=tmp_path,
                env=environ,
                input=b"The\n",
                capture_output=True,
                check=True,
                timeout=60,
            )
            return done.stdout, done.stderr

        server.digest = "0" * 64
        output, messages = answer()
        assert b"an old answer" not in output
        assert b"another antimatter:latest than models/ollama/models: using the" in messages
        # The fake server gives the same answer with any digest
        server.digest = files.sha256(manifest)
        assert answer()[0] == b"an old answer\n"


def test_text_held_back_for_a_stop_text_is_shown(tiny: Tiny) -> None:
    embedded = EmbeddedBackend(tiny.path, 2048)
    whole, other = io.StringIO(), io.StringIO()
    try:
        chat.pipe(embedded, CONFIG, io.StringIO("The function returns\n"), whole)
        config = replace(CONFIG, stop=(f"{whole.getvalue().rstrip()[-1]}ZZ",))
        chat.pipe(embedded, config, io.StringIO("The function returns\n"), other)
    finally:
        embedded.close()
    assert other.getvalue() == whole.getvalue() != "\n"


def test_the_chat_starts_without_heavy_imports() -> None:
    heavy = ("torch", "numpy", "gguf", "tokenizers", "xllamacpp", "aiohttp", "prompt_toolkit")
    modules = "antimatter.cli.main, antimatter.serve.terminal.chat, antimatter.serve.choose"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
