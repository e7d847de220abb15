import builtins
import io
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import pytest
from test_engine import CONFIG

from antimatter.export.ollama import OllamaConfig
from antimatter.serve import chat
from antimatter.serve.engine import Finish
from antimatter.serve.prompt import Message


@dataclass
class Echo:
    """An engine that answers with the last word of the prompt; one word is one token."""

    n_ctx: int = 20
    name: str = "echo"
    model: str = "echo"
    description: str = "echo"
    prompts: list[str] = field(default_factory=list)
    interrupt: bool = False

    def count(self, text: str) -> int:
        return len(text.split()) + 1

    def stream(self, prompt: str, config: OllamaConfig, n_predict: int, seed: int | None = None) -> Generator[str, None, Finish]:
        self.prompts.append(prompt)
        yield prompt.split()[-1]
        if self.interrupt:
            raise KeyboardInterrupt
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


def talk(monkeypatch: pytest.MonkeyPatch, engine: Echo, *lines: str | type[BaseException]) -> None:
    said = iter(lines)

    def ask(_: str) -> str:
        line = next(said, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(builtins, "input", ask)
    chat.converse(engine, CONFIG, system="Be kind.")


def test_a_conversation_remembers_and_ends_with_ctrl_d(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Echo()
    talk(monkeypatch, engine, "one", "", "two")
    assert engine.prompts == ["Be kind.\n\none", "Be kind.\n\none\n\none!\n\ntwo"]
    assert capsys.readouterr().out == "one!\ntwo!\n\n"


def test_ctrl_c_stops_an_answer_and_not_the_chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Echo(interrupt=True)
    talk(monkeypatch, engine, "one", KeyboardInterrupt, "two")
    assert engine.prompts == ["Be kind.\n\none", "Be kind.\n\none\n\none\n\ntwo"]  # what was said before the interruption counts
    assert "one …\n" in capsys.readouterr().out


def test_a_text_that_is_too_long_is_reported_and_forgotten(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Echo()
    talk(monkeypatch, engine, "x " * 50, "two")
    assert "error: the text has 53 tokens, the model can read 10" in capsys.readouterr().err
    assert engine.prompts == ["Be kind.\n\ntwo"]


def test_room_is_kept_for_the_answer_and_old_turns_make_way() -> None:
    engine = Echo(n_ctx=20)
    messages = [Message("user", f"turn {i} says") for i in range(6)]
    assert "".join(chat.answer(engine, messages, replace(CONFIG, num_predict=100)))
    assert messages == [Message("user", f"turn {i} says") for i in (3, 4, 5)]  # 9 words and [BOS]: half of the context


def test_the_chat_starts_without_torch_and_without_numpy() -> None:
    heavy = ("torch", "numpy", "gguf", "tokenizers", "xllamacpp")
    code = f"import sys, antimatter.cli, antimatter.serve.chat, antimatter.serve.engine; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
