"""`antimatter chat` in a pipe, with the embedded llama.cpp."""

from pathlib import Path

import pytest
from helpers.command import antimatter


def test_a_pipe_streams_one_answer_a_line_and_exits_0(project: Path) -> None:
    text = "The function returns\nSecond line: é\n".encode()
    done = antimatter(project, "chat", "--num-predict", "8", text=text)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.decode().strip()) > 0
    # Nothing else: no log of llama.cpp, no warning of torch
    no_ollama, engine = done.stderr.decode().splitlines()
    assert "http://127.0.0.1:9" in no_ollama
    assert engine == "engine: embedded llama.cpp, models/gguf/tiny-f16.gguf, context 64 tokens"


def test_the_same_question_has_the_same_likeliest_answer(project: Path) -> None:
    arguments = ("--engine", "embedded", "--temperature", "0", "--num-predict", "8")
    first, second = (antimatter(project, "chat", *arguments, text=b"The\n") for _ in range(2))
    assert first.stdout == second.stdout != b""


def test_without_input_there_is_no_answer(project: Path) -> None:
    done = antimatter(project, "chat", "--engine", "embedded")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "absent.gguf"), ["absent.gguf", "`dvc repro gguf`"]),
        (("--model", "params.yaml"), ["params.yaml", "GGUF"]),
        (("--engine", "ollama"), ["http://127.0.0.1:9"]),
    ],
)
def test_a_bad_model_or_option_is_one_line_and_exit_1(
    project: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    done = antimatter(project, "chat", *arguments, text=b"Hi\n")
    assert (done.returncode, done.stdout) == (1, b"")
    error = done.stderr.decode()
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in words), error


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_a_file_and_ollama_by_name_contradict_each_other(project: Path, command: str) -> None:
    done = antimatter(project, command, "--engine", "ollama", "--model", "models/gguf")
    assert done.returncode == 1
    assert b"--model" in done.stderr and b"--engine ollama" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_line_that_is_too_long_is_one_clear_error(project: Path) -> None:
    done = antimatter(project, "chat", "--engine", "embedded", text=b"many words " * 100)
    assert done.returncode == 1
    # Half of the context of 64
    (error,) = (line for line in done.stderr.decode().splitlines() if "32 " in line)
    assert "shorten it" in error
