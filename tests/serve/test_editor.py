"""`antimatter chat` as a user meets it: the real program in a real terminal, with a model that
never ends an answer by itself. Its behaviour in a pipe is at the end.
"""

import asyncio
import contextlib
import io
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import command, fake_ollama, gguf_model
from helpers.processes import children, is_alive
from helpers.terminal import PROMPT, User

from antimatter.export import gguf
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT
from antimatter.serve.terminal import editor

ENDLESS = 2048
DONE = {"response": "", "done": True, "done_reason": "stop", "eval_count": 2}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model that generates the letter a, whatever it reads, until its 2,048 tokens
    are full: seconds, on any machine.
    """
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_bytes((command.ROOT / "params.yaml").read_bytes())
    gguf_model.save_tokenizer(folder / "tokenizer")
    config = GPTConfig(
        n_layer=4,
        n_head=4,
        n_embd=256,
        block_size=ENDLESS,
        negative_slope=0.1,
        residual_scale=1.0,
        dropout=0.0,
        tied_embeddings=False,
        seed=1,
        vocab_size=gguf_model.VOCAB,
    )
    model = GPT(config).requires_grad_(False).eval()
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    tokens = json.loads(tokenizer.read_text())["model"]["vocab"]
    # The text before no longer matters
    model.norm.weight.zero_()
    model.norm.bias.fill_(1.0)
    model.head.weight.zero_()
    model.head.weight[tokens["a"]] = 1.0
    path = gguf.path_of(folder / "models" / "gguf", "endless", "f16")
    gguf.write(gguf_model.of_model(model), tokenizer, path, "f16", gguf_model.CONFIG)
    return folder


class Slow:
    """Events of a fake Ollama that takes its time before the first."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        time.sleep(1)
        yield {"response": "late"}
        for _ in range(1000):
            time.sleep(0.01)
            yield {"response": "r"}


@contextlib.contextmanager
def ollama(events: Iterable[dict[str, Any]]) -> Iterator[fake_ollama.FakeOllama]:
    info = {"mpt.context_length": 256, "general.architecture": "mpt"}
    with fake_ollama.running(["antimatter:latest"], info, events) as server:
        yield server


def test_a_user_chats_and_uses_commands(project: Path) -> None:
    with User(project, "--num-predict", "5") as user:
        assert len(user.backends) == 1
        user.types("Hello\r")
        user.sees("aaaaa\n")
        user.sees("(5 tokens, ")
        user.sees("/set num_predict")
        user.types("/set num_predict 3\r")
        user.sees("  num_predict    3 ")
        user.types("/retry\r")
        user.sees("\naaa\n(3 tokens")
        user.types("/set top_p 2\r")
        user.sees("error: top_p must lie in (0, 1], got 2.0")
        user.types("/sohw\r")
        user.sees("(did you mean /show?)")
        user.types("/show\r")
        user.sees("embedded llama.cpp, models/gguf/endless-f16.gguf, context 2048 tokens")
        user.sees("2 turns, ")
        user.types("/re\t\t")
        user.sees("/retry  /reset")
        user.types("set\t\r")
        user.sees("forgotten")
        user.types("/show\r")
        user.sees("0 turns, 1 token")
        user.types("/bye\r")
        assert user.ends() == 0
        assert "Traceback" not in user.screen


def test_ctrl_c_stops_an_answer_and_not_the_chat(project: Path) -> None:
    with User(project, "--num-predict", "2000") as user:
        for _ in range(2):
            user.types("Hello\r")
            user.sees("aaa")
            user.types("\x03")
            user.sees("(stopped)")
        user.sees(PROMPT)
        user.types("Hello\r")
        user.sees("aaa")
        # Each makes the terminal discard what was typed before
        user.types("\x03\x03\x03")
        time.sleep(0.5)
        user.types("/show\r")
        user.sees(" turns, ")
        user.sees(PROMPT)
        for text in ("half a line\x03", "\x03"):
            user.types(text)
            user.sees("(Ctrl-D ends the chat)")
            user.sees(PROMPT)
        user.types("/set num_predict 4\r")
        user.sees("num_predict    4")
        user.types("/reset\rHello\r")
        user.sees("\naaaa\n(4 tokens")
        assert user.leaves() == 0
        assert "Traceback" not in user.screen and "Exception" not in user.screen


def test_any_number_of_ctrl_c_at_any_time_does_not_end_the_chat(project: Path) -> None:
    with User(project, "--num-predict", "300") as user:
        for i in range(30):
            if i % 5 == 0:
                user.types("Hello\r")
            user.process.send_signal(signal.SIGINT)
            time.sleep(0.003 * (i % 4))
        time.sleep(0.5)
        user.types("/set num_predict 4\r")
        user.sees("num_predict    4")
        user.types("/reset\rHello\r")
        user.sees("\naaaa\n(4 tokens")
        assert user.leaves() == 0
        assert "Traceback" not in user.screen and "Exception" not in user.screen


def test_ctrl_c_before_the_first_piece_forgets_the_text_and_ends_the_request(project: Path) -> None:
    with (
        ollama(Slow()) as server,
        User(project, "--engine", "ollama", ollama=server.host) as user,
    ):
        user.types("first\r")
        deadline = time.monotonic() + 30
        while not server.requests:
            assert time.monotonic() < deadline, "Ollama gets no request"
            time.sleep(0.01)
        user.types("\x03")
        user.sees("(stopped)")
        assert server.hung_up.wait(10)
        user.types("second\r")
        user.sees("late")
        assert [request["prompt"] for request in server.requests] == ["first", "second"]
        user.types("\x03")
        user.sees("(stopped)")
        user.types("/quit\r")
        assert user.ends() == 0


def test_a_pasted_text_is_one_turn_and_so_are_lines_that_end_in_backslashes(project: Path) -> None:
    with (
        ollama([{"response": "ok"}, DONE | {"eval_duration": 10**9}]) as server,
        User(project, "--engine", "ollama", ollama=server.host) as user,
    ):
        # The first slash makes a text of what would be a command
        user.types("/\x1b[200~/not a command?\nsecond line\n\tthird\x1b[201~\r")
        user.sees("ok\n(2 tokens, 2 tokens/s)")
        user.types("/reset\r")
        user.sees("forgotten")
        user.types("one\\\rtwo\r")
        user.sees("ok\n(2")
        assert [request["prompt"] for request in server.requests] == [
            "/not a command?\nsecond line\n\tthird",
            "one\ntwo",
        ]
        user.types("/bye\r")
        assert user.ends() == 0


def test_arrow_up_recalls_the_texts_of_an_earlier_chat(project: Path, tmp_path: Path) -> None:
    with User(project, "--num-predict", "2", state=tmp_path / "state") as user:
        user.types("The first question é\r")
        user.sees("aa\n(")
        user.types("one\\\rtwo\r")
        user.sees("aa\n(")
        # It is written as it is typed
        user.process.kill()
        user.ends()
    history = tmp_path / "state" / "antimatter" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    lines = history.read_text().splitlines()
    assert [json.loads(line) for line in lines] == ["The first question é", "one\ntwo"]
    with User(project, "--num-predict", "2", state=tmp_path / "state") as user:
        # The second moves within the text of two lines
        user.types("\x1b[A\x1b[A\x1b[A")
        user.sees("The first question é")
        user.types(" again\r")
        user.sees("aa\n(")
        assert user.leaves() == 0
    assert json.loads(history.read_text().splitlines()[-1]) == "The first question é again"


def test_the_history_is_short_and_a_damaged_one_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert editor.history_path({}) == tmp_path / ".local/state/antimatter/chat_history"
    assert editor.history_path({"XDG_STATE_HOME": "relative"}) == editor.history_path({})
    path = tmp_path / "history"
    path.write_bytes(b"".join(b'"text %d"\n' % i for i in range(1500)) + b'\xff not json\n"cut sho')
    assert editor.load_history(path) == [f"text {i}" for i in range(500, 1500)]
    assert len(path.read_text().splitlines()) == 1000
    path.write_text("[" * 100_000 + '\n"a text"\n')
    assert editor.load_history(path) == ["a text"]
    path.unlink()
    path.mkdir()
    assert editor.load_history(path) == editor.load_history(None) == []


@pytest.mark.parametrize("moment", ["at the prompt", "in an answer"])
@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "SIGHUP"])
def test_nothing_is_left_behind_however_it_ends(project: Path, moment: str, end: str) -> None:
    with User(project, "--num-predict", "2000") as user:
        assert user.backends and all(map(is_alive, user.backends))
        if moment == "in an answer":
            user.types("Hello\r")
            user.sees("aaa")
        user.process.send_signal(signal.Signals[end])
        assert user.ends() == {"SIGTERM": 143, "SIGKILL": -9, "SIGHUP": -1}[end]
        assert "Traceback" not in user.screen
        if end == "SIGTERM":
            # The shell gets the terminal as it was
            assert termios.tcgetattr(user.terminal)[:4] == user.settings_before[:4]


def test_a_terminal_that_is_closed_ends_the_chat(project: Path) -> None:
    with User(project, "--num-predict", "2000") as user:
        user.types("Hello\r")
        user.sees("aaa")
        assert len(user.backends) == 1
        os.close(user.terminal)
        user.process.wait(60)
        user.wait_for_backends()


def test_a_narrow_window_that_changes_its_size(project: Path) -> None:
    with User(project, "--num-predict", "30", columns=20) as user:
        user.types("a text that is longer than the window is wide\r")
        user.sees("a" * 30)
        user.sees("(30 tokens")
        user.types("half of a text that")
        user.resize(40)
        user.types(" is typed while\x7f\x7f\x7f\x7f\x7f")
        user.resize(20)
        user.types("\r")
        user.sees("a" * 30)
        user.types("\x1b[A\x1b[A\r")
        user.sees("a" * 30)
        assert user.leaves() == 0


def test_a_file_gets_the_answers_and_the_terminal_all_else(project: Path, tmp_path: Path) -> None:
    with (
        (tmp_path / "answers.txt").open("w") as file,
        User(project, "--num-predict", "4", stdout=file) as user,
    ):
        user.types("Hello\n/set\n/help\nHello\n")
        for text in ("(4 tokens", "temperature", "/retry ", "(4 tokens"):
            user.sees(text)
        assert user.leaves() == 0
    assert (tmp_path / "answers.txt").read_text() == "aaaa\naaaa\n"


# Without a terminal


def test_without_a_terminal_lines_are_read_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_all() -> list[str]:
        reader, texts = editor.LineReader(tmp_path / "history", lambda *_: []), list[str]()
        with contextlib.suppress(EOFError):
            while True:
                texts.append(await reader.read())
        return texts

    monkeypatch.setattr(sys, "stdin", io.StringIO(" one \n\ntwo\\\n  three\na\\ \nlast\\"))
    handler = signal.getsignal(signal.SIGINT)
    assert asyncio.run(read_all()) == ["one", "", "two\n  three", "a\\"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert editor.load_history(tmp_path / "history") == ["one", "two\n  three", "a\\"]


def test_prompt_toolkit_is_imported_for_a_terminal_only() -> None:
    code = """\
import sys
from antimatter.serve.terminal import commands, editor
editor.LineReader(None, commands.completions)
print("prompt_toolkit" in sys.modules)
"""
    options: dict[str, Any] = {"input": "", "text": True}
    assert subprocess.check_output([sys.executable, "-c", code], **options) == "False\n"


def in_a_pipe(project: Path, script: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    chat = f"{shlex.join(command.COMMAND)} chat --engine embedded"
    return subprocess.run(
        ["bash", "-c", f'chat() {{ {chat} "$@"; }}; {script}'],
        cwd=project,
        input=text,
        capture_output=True,
        env=command.ENVIRONMENT,
        timeout=60,
    )


def test_a_pipe_gets_all_answers_that_are_possible_and_the_reasons_of_the_others(
    project: Path,
) -> None:
    text = b"one\r\n\x00\xff\xfe\n\x1b\x07\x00\n/bye\n" + b"long " * 3000 + b"\n\n[EOS][BOS]\nlast"
    done = in_a_pipe(project, "chat --num-predict 3", text)
    assert (done.returncode, done.stdout) == (1, b"aaa\n" * 5)
    assert re.search(rb"\nline 5: .*\b2045\b", done.stderr)
    assert re.search(rb"\nerror: 1 of 6 lines .*\n$", done.stderr)


def test_streams_that_are_closed_are_empty(project: Path) -> None:
    done = in_a_pipe(project, "chat --num-predict 3 <&-")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    done = in_a_pipe(project, "chat --num-predict 3 2>&-", b"one\n")
    assert (done.returncode, done.stdout) == (0, b"aaa\n")
    done = in_a_pipe(project, "chat --num-predict 3 >&-", b"one\n")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_ends_the_answer(project: Path) -> None:
    began = time.monotonic()
    done = in_a_pipe(
        project, "yes Hello | chat --num-predict 2000 | head -c 5; echo ${PIPESTATUS[1]}"
    )
    assert done.stdout == b"aaaaa0\n"
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_pipe(project: Path, number: signal.Signals, status: int) -> None:
    options = ["chat", "--engine", "embedded", "--num-predict", "2000"]
    with subprocess.Popen(
        [*command.COMMAND, *options],
        cwd=project,
        env=command.ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"Hello\n" * 100)
        process.stdin.flush()
        assert process.stdout.read(5) == b"aaaaa"  # before the end of the answer
        backends = children(process.pid)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert b"Traceback" not in error
    assert len(backends) == 1 and not any(map(is_alive, backends))
