"""`antimatter chat` as a person meets it: the real program in a real terminal, with a model that never ends by itself."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from helpers import fake_ollama, gguf_model

from antimatter.export import gguf
from antimatter.export.source import of_model
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT
from antimatter.serve.terminal import editor

ROOT = Path(__file__).parents[2]
NOBODY = "127.0.0.1:9"  # no Ollama there
TAKE_TERMINAL = """import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "antimatter.cli", *sys.argv[1:]])"""
ENDLESS = 2048


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model that writes the letter a, whatever it reads, until its 2,048 tokens are full: seconds, on any machine."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    gguf_model.save_tokenizer(folder / "tokenizer")
    config = GPTConfig(
        n_layer=4,
        n_head=4,
        n_embd=256,
        block_size=ENDLESS,
        negative_slope=0.1,
        dropout=0.0,
        tied_embeddings=False,
        seed=1,
        vocab_size=gguf_model.VOCAB,
    )
    model = GPT(config).requires_grad_(False).eval()
    tokens = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    model.norm.weight.zero_()  # what comes before no longer matters
    model.norm.bias.fill_(1.0)
    model.head.weight.zero_()
    model.head.weight[tokens["a"]] = 1.0
    gguf.write(
        of_model(model),
        folder / "tokenizer" / "tokenizer.json",
        gguf.path_of(folder / "models" / "gguf", "endless", "f16"),
        "f16",
        gguf_model.CONFIG,
    )
    return folder


class Person:
    """Sits at a terminal in which the chat runs."""

    def __init__(
        self,
        project: Path,
        *arguments: str,
        ollama: str = NOBODY,
        columns: int = 80,
        state: Path | str = os.devnull,
        **files: Any,
    ) -> None:
        self.terminal, inside = pty.openpty()
        self.resize(columns)
        self.at_first = termios.tcgetattr(inside)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OLLAMA_HOST": ollama,
            "LC_ALL": "C.UTF-8",
            "XDG_STATE_HOME": str(state),
        }
        command = [sys.executable, "-c", TAKE_TERMINAL, "chat", *arguments]
        files = {"stdin": inside, "stdout": inside, "stderr": inside, **files}
        self.process = subprocess.Popen(
            command, cwd=project, env=environment, start_new_session=True, **files
        )
        os.close(inside)
        self.shown, self._seen = "", 0
        self.engines: list[int] = []

    def __enter__(self) -> Self:
        self.sees("/help shows the rest")
        self.sees("> ")
        self.engines = children(self.process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.terminal)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def types(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def sees(self, text: str) -> str:
        """Waits until `text` appears below what was seen before; all that was shown until then."""
        end = time.monotonic() + 30
        while (found := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < end and self._reads(), (
                f"{text!r} does not appear in {self.shown[self._seen :]!r}"
            )
        new, self._seen = self.shown[self._seen : found], found + len(text)
        return new

    def leaves(self) -> None:
        """Ctrl-D, when it is asked: in the middle of an answer the terminal swallows it."""
        self.sees("> ")
        self.types("\x04")

    def ends(self) -> int:
        """The exit status, when the chat ends; and nothing that it started is left."""
        end = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.shown[self._seen :]!r}"
            self._reads(0.1)
        self._reads(0.1)
        while any(map(alive, self.engines)):
            assert time.monotonic() < end, "its engine goes on"
            time.sleep(0.01)
        return self.process.returncode

    def _reads(self, timeout: float = 30) -> bool:
        if not select.select([self.terminal], [], [], timeout)[0]:
            return False
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            self.shown += re.sub(
                r"\x1b\[\??[0-9;]*[a-zA-Z]|[\x07\r]",
                "",
                os.read(self.terminal, 4096).decode(errors="replace"),
            )
            return True
        return False


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_person_talks_and_commands(project: Path) -> None:
    with Person(project, "--num-predict", "5") as person:
        assert len(person.engines) == 1
        person.types("Hello\r")
        person.sees("aaaaa\n")
        person.sees("(5 tokens, ")
        person.sees("stopped at its length: /set num_predict allows more)")
        person.types("/set num_predict 3\r")
        person.sees("  num_predict    3 ")
        person.types("/retry\r")
        person.sees("\naaa\n(3 tokens")
        person.types("/set top_p 2\r")
        person.sees("error: top_p must lie in (0, 1], got 2.0: it stays 0.9\n")
        person.types("/sohw\r")
        person.sees("error: there is no command /sohw (did you mean /show?)")
        person.types("/show\r")
        person.sees("embedded llama.cpp, models/gguf/endless-f16.gguf, context 2048 tokens")
        person.sees("2 turns, ")
        person.types("/re\t\t")
        person.sees("/reset   /retry")
        person.types("set\t\r")
        person.sees("the conversation is forgotten")
        person.types("/show\r")
        person.sees("0 turns, 1 token")
        person.types("/bye\r")
        assert person.ends() == 0
        assert "Traceback" not in person.shown


def test_ctrl_c_in_an_answer_stops_it_and_the_chat_goes_on(project: Path) -> None:
    with Person(project, "--num-predict", "2000") as person:
        for _ in range(2):
            person.types("Hello\r")
            person.sees("aaa")
            person.types("\x03")
            person.sees("(stopped)")
        person.sees("> ")
        person.types("Hello\r")
        person.sees("aaa")
        person.types(
            "\x03\x03\x03"
        )  # each makes the terminal throw away what was typed, and shown, and is still under way
        time.sleep(0.5)
        person.types("/show\r")
        person.sees(" turns, ")
        person.sees("> ")
        person.types("half a line\x03")
        person.sees("(Ctrl-D ends the chat)")
        person.sees("> ")
        person.types("\x03")
        person.sees("(Ctrl-D ends the chat)")
        person.types("/set num_predict 4\r")
        person.sees("num_predict    4")
        person.types("/reset\rHello\r")
        person.sees("\naaaa\n(4 tokens")
        person.leaves()
        assert person.ends() == 0
        assert "Traceback" not in person.shown and "Exception" not in person.shown


def test_any_number_of_ctrl_c_at_any_time_does_not_end_the_chat(project: Path) -> None:
    with Person(project, "--num-predict", "300") as person:
        for i in range(30):
            if i % 5 == 0:
                person.types("Hello\r")
            person.process.send_signal(signal.SIGINT)
            time.sleep(0.003 * (i % 4))
        time.sleep(0.5)
        person.types("/set num_predict 4\r")
        person.sees("num_predict    4")
        person.types("/reset\rHello\r")
        person.sees("\naaaa\n(4 tokens")
        person.leaves()
        assert person.ends() == 0
        assert "Traceback" not in person.shown and "Exception" not in person.shown


class Slow:
    """Events of a fake Ollama that takes its time before the first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __iter__(self) -> Iterator[dict[str, Any]]:
        time.sleep(self.seconds)
        yield {"response": "late"}
        for _ in range(1000):
            time.sleep(0.01)
            yield {"response": "r"}


@contextlib.contextmanager
def ollama(events: Iterable[dict[str, Any]]) -> Iterator[fake_ollama.FakeOllama]:
    with fake_ollama.running(
        ["antimatter:latest"], {"mpt.context_length": 256, "general.architecture": "mpt"}, events
    ) as server:  # type: ignore[arg-type]
        yield server


def test_ctrl_c_before_the_first_word_forgets_the_text_and_tells_the_engine(project: Path) -> None:
    with (
        ollama(Slow(1.0)) as server,
        Person(project, "--engine", "ollama", ollama=server.host) as person,
    ):
        person.types("first\r")
        end = time.monotonic() + 30
        while not server.requests:
            assert time.monotonic() < end, "Ollama is not asked"
            time.sleep(0.01)
        person.types("\x03")
        person.sees("(stopped)")
        assert server.hung_up.wait(10)
        person.types("second\r")
        person.sees("late")
        assert [request["prompt"] for request in server.requests] == ["first", "second"]
        person.types("\x03")
        person.sees("(stopped)")
        person.types("/quit\r")
        assert person.ends() == 0


def test_a_pasted_text_is_one_turn_and_so_are_lines_that_end_in_backslashes(project: Path) -> None:
    events = [
        {"response": "ok"},
        {
            "response": "",
            "done": True,
            "done_reason": "stop",
            "eval_count": 2,
            "eval_duration": 10**9,
        },
    ]
    with (
        ollama(events) as server,
        Person(project, "--engine", "ollama", ollama=server.host) as person,
    ):
        person.types("\x1b[200~/not a command?\nsecond line\n\tthird\x1b[201~")
        person.types("\x01/\r")  # Ctrl-A, and the slash that makes a text of it
        person.sees("ok\n(2 tokens, 2 tokens/s)")
        person.types("/reset\r")
        person.sees("forgotten")
        person.types("one\\\rtwo\r")
        person.sees("ok\n(2")
        assert [request["prompt"] for request in server.requests] == [
            "/not a command?\nsecond line\n\tthird",
            "one\ntwo",
        ]
        person.types("/bye\r")
        assert person.ends() == 0


def test_arrow_up_brings_back_what_an_earlier_chat_was_asked(project: Path, tmp_path: Path) -> None:
    with Person(project, "--num-predict", "2", state=tmp_path / "state") as person:
        person.types("The first question é\r")
        person.sees("aa\n(")
        person.types("one\\\rtwo\r")
        person.sees("aa\n(")
        person.process.kill()  # no farewell: it is written as it is typed
        person.ends()
    history = tmp_path / "state" / "antimatter" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    assert [json.loads(line) for line in history.read_text().splitlines()] == [
        "The first question é",
        "one\ntwo",
    ]
    with Person(project, "--num-predict", "2", state=tmp_path / "state") as person:
        person.types("\x1b[A\x1b[A")
        person.sees("The first question é")
        person.types(" again\r")
        person.sees("aa\n(")
        person.leaves()
        assert person.ends() == 0
    assert json.loads(history.read_text().splitlines()[-1]) == "The first question é again"


def test_the_history_is_short_and_a_damaged_one_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert editor.history_path({}) == tmp_path / ".local/state/antimatter/chat_history"
    assert editor.history_path({"XDG_STATE_HOME": "relative"}) == editor.history_path({})
    path = tmp_path / "history"
    path.write_bytes(b"".join(b'"text %d"\n' % i for i in range(1500)) + b'\xff not json\n"cut sho')
    lines = editor.Lines(path, lambda before, word: [])
    assert lines._load() == [f"text {i}" for i in range(500, 1500)]
    assert len(path.read_text().splitlines()) == 1000
    path.unlink()
    path.mkdir()
    assert editor.Lines(path, lambda before, word: [])._load() == []


@pytest.mark.parametrize("moment", ["at the prompt", "in an answer"])
@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "SIGHUP"])
def test_however_it_ends_nothing_is_left_behind(project: Path, moment: str, end: str) -> None:
    with Person(project, "--num-predict", "2000") as person:
        assert person.engines and all(map(alive, person.engines))
        if moment == "in an answer":
            person.types("Hello\r")
            person.sees("aaa")
        person.process.send_signal(signal.Signals[end])
        assert person.ends() == {"SIGTERM": 143, "SIGKILL": -9, "SIGHUP": -1}[end]
        assert "Traceback" not in person.shown
        if end == "SIGTERM":
            assert (
                termios.tcgetattr(person.terminal)[:4] == person.at_first[:4]
            )  # the shell gets the terminal as it was


def test_a_terminal_that_is_closed_ends_the_chat(project: Path) -> None:
    with Person(project, "--num-predict", "2000") as person:
        person.types("Hello\r")
        person.sees("aaa")
        assert len(person.engines) == 1
        os.close(person.terminal)
        person.process.wait(60)
        end = time.monotonic() + 30
        while any(map(alive, person.engines)):
            assert time.monotonic() < end, "its engine goes on"
            time.sleep(0.01)


def test_a_narrow_window_that_changes_its_size(project: Path) -> None:
    with Person(project, "--num-predict", "30", columns=20) as person:
        person.types("a text that is longer than the window is wide\r")
        person.sees("a" * 30)
        person.sees("(30 tokens")
        person.types("half of a text that")
        person.resize(40)
        person.types(" is typed while\x7f\x7f\x7f\x7f\x7f")
        person.resize(20)
        person.types("\r")
        person.sees("a" * 30)
        person.types("\x1b[A\x1b[A\r")
        person.sees("a" * 30)
        person.leaves()
        assert person.ends() == 0


def test_a_file_gets_the_answers_and_the_terminal_all_else(project: Path, tmp_path: Path) -> None:
    with (
        (tmp_path / "answers.txt").open("w") as file,
        Person(project, "--num-predict", "4", stdout=file) as person,
    ):
        person.types("Hello\n/set\n/help\nHello\n")
        person.sees("(4 tokens")
        person.sees("temperature")
        person.sees("/retry ")
        person.sees("(4 tokens")
        person.leaves()
        assert person.ends() == 0
    assert (tmp_path / "answers.txt").read_text() == "aaaa\naaaa\n"


def in_a_pipe(project: Path, script: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
    }
    script = f'chat() {{ {shlex.quote(sys.executable)} -m antimatter.cli chat --engine embedded "$@"; }}; {script}'
    return subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        input=text,
        capture_output=True,
        env=environment,
        timeout=60,
    )


def test_a_pipe_answers_what_it_can_and_says_what_it_could_not(project: Path) -> None:
    text = b"one\r\n\x00\xff\xfe\n\x1b\x07\x00\n/bye\n" + b"long " * 3000 + b"\n\n[EOS][BOS]\nlast"
    done = in_a_pipe(project, "chat --num-predict 3", text)
    assert (done.returncode, done.stdout) == (1, b"aaa\n" * 5)
    assert re.search(
        rb"\nline 5: the text has \d+ tokens, the model can read 2045 and still answer: shorten it\n",
        done.stderr,
    )
    assert done.stderr.endswith(b"\nerror: 1 of 6 lines could not be answered\n")


def test_streams_that_are_closed_are_empty(project: Path) -> None:
    done = in_a_pipe(project, "chat --num-predict 3 <&-")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    done = in_a_pipe(project, "chat --num-predict 3 2>&-", b"one\n")
    assert (done.returncode, done.stdout) == (0, b"aaa\n")
    done = in_a_pipe(project, "chat --num-predict 3 >&-", b"one\n")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_answer(project: Path) -> None:
    began = time.monotonic()
    done = in_a_pipe(
        project, "yes Hello | chat --num-predict 2000 | head -c 5; echo ${PIPESTATUS[1]}"
    )
    assert done.stdout == b"aaaaa0\n"
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_pipe_that_is_told_to_stop_stops(
    project: Path, sent: signal.Signals, status: int
) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "antimatter.cli",
        "chat",
        "--engine",
        "embedded",
        "--num-predict",
        "2000",
    ]
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"Hello\n" * 100)
        process.stdin.flush()
        assert process.stdout.read(5) == b"aaaaa"  # as it is made, not at its end
        engines = children(process.pid)
        process.send_signal(sent)
        _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert b"Traceback" not in error
    assert len(engines) == 1 and not any(map(alive, engines))
