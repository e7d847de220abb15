"""What all subcommands share: their help, and how errors are printed."""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import COMMAND, ENVIRONMENT, ROOT, antimatter

from antimatter.cli import check, main
from antimatter.errors import UserError

COMMANDS = [
    *("chat", "export", "push", "tune", "lm-eval", "serve", "site", "perplexity", "inspect"),
    *("check", "resume", "preset", "plan", "ladder", "watch", "card", "plots", "verify", "kaggle"),
]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main.main(["--help"])
    assert re.findall(r"^    (\S+)", capsys.readouterr().out, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main.main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: antimatter {command} ")


def test_to_start_it_needs_only_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-S", *COMMAND[1:], "--help"], cwd=ROOT, env=ENVIRONMENT, timeout=60
    )
    assert done.returncode == 0


Fail = Callable[[BaseException], int]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """`antimatter check` that raises an error. Returns its exit status."""
    monkeypatch.delenv("ANTIMATTER_TRACEBACK", raising=False)

    def call(error: BaseException) -> int:
        def run(arguments: argparse.Namespace) -> None:
            raise error

        monkeypatch.setattr(check, "run", run)
        return main.main(["check"])

    return call


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("params.yaml: model.n_head is missing"), 1, "error: params.yaml: model.n_head"),
        (
            PermissionError(13, "Permission denied", "a file"),
            1,
            "error: a file: Permission denied: change its permissions",
        ),
        (OSError(28, "No space left on device", "x"), 1, "error: x: No space left .*: free some"),
        (UserError("a\nb is missing"), 1, "error: a b is missing"),
        (OSError("of a library"), 1, "error: of a library"),
        (InterruptedError("paused at step 3"), 130, "paused at step 3"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_is_not_a_bug_is_one_line_on_stderr(
    fail: Fail,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    line: str,
) -> None:
    assert fail(error) == status
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == int(bool(line))
    assert re.match(line, output.err)


@pytest.mark.parametrize(
    "error", [ValueError("of numpy"), RuntimeError("of torch"), KeyError("key"), AssertionError()]
)
def test_a_bug_keeps_its_traceback(fail: Fail, error: Exception) -> None:
    with pytest.raises(type(error)):
        fail(error)


@pytest.mark.parametrize("error", [UserError("a value"), PermissionError(13, "denied", "a file")])
def test_the_traceback_of_a_users_error_on_request(
    fail: Fail, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setenv("ANTIMATTER_TRACEBACK", "1")
    with pytest.raises(type(error)):
        fail(error)


def test_outside_of_a_project_the_error_says_what_to_do(tmp_path: Path) -> None:
    done = antimatter(tmp_path, "chat")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"error: params.yaml is missing: ")
    assert b"root of the repository" in done.stderr


def test_a_reader_that_leaves_early_is_not_an_error(project: Path) -> None:
    chat = " ".join([f"'{COMMAND[0]}'", *COMMAND[1:], "chat --engine embedded --num-predict 4"])
    pipe = f"printf 'a\\nb\\nc\\n' | {chat} | true; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(
        ["bash", "-c", pipe], cwd=project, capture_output=True, env=ENVIRONMENT, timeout=60
    )
    assert done.stdout == b"0\n"
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [("| true", 0, b""), ("> /dev/full", 1, b"error: [Errno 28] No space left"), (">&-", 0, b"")],
)
def test_help_that_cannot_be_written_has_no_traceback(
    tmp_path: Path, target: str, status: int, words: bytes
) -> None:
    if "full" in target and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    command = " ".join([f"'{COMMAND[0]}'", *COMMAND[1:], "--help"])
    script = f"{command} {target}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, env=ENVIRONMENT, timeout=60
    )
    assert (done.returncode, done.stderr[: len(words)]) == (status, words)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_messages_are_utf_8_in_any_locale(project: Path) -> None:
    done = antimatter(project, "plan", "params.yaml", "--gpu", "T4")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "12·L·C·T".encode() in done.stdout
