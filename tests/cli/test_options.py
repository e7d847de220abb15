"""Numbers and output files of the command line are checked before any work."""

import os
from pathlib import Path

import pytest

from antimatter import outputs
from antimatter.cli import main as cli
from antimatter.cli import options
from antimatter.errors import UserError


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect cleaned --count -1", "--count: it must be at least 0, got -1"),
        ("inspect shards --count -1", "--count: it must be at least 0, got -1"),
        ("inspect shards --seed -1", "--seed: it must lie in [0, 18446744073709551615], got -1"),
        ("inspect shards --seed x", "--seed: must be a whole number, got 'x'"),
        ("export --windows -1", "--windows: it must be at least 0, got -1"),
        ("ladder --mfu nan", "--mfu: must be a finite number, got nan"),
        ("ladder --devices 0", "--devices: it must be at least 1, got 0"),
        ("ladder --flops inf", "--flops: must be a finite number, got inf"),
        ("ladder --jobs 0", "--jobs: it must be at least 1, got 0"),
        ("plan --mfu 2", "--mfu: it must lie in (0, 1], got 2"),
        ("plan --devices 0", "--devices: it must be at least 1, got 0"),
        (f"chat --top-k {'9' * 30}", f"--top-k: it must lie in [1, 2147483647], got {'9' * 30}"),
        (f"chat --top-k {'9' * 5000}", "--top-k: must be a whole number, got '999"),
        ("chat --num-predict 3000000000", "--num-predict: it must lie in [1, 2147483647], got 3"),
        ("chat --temperature -1", "--temperature: it must lie in [0, 10], got -1"),
        ("chat --top-p nan", "--top-p: must be a finite number, got nan"),
        ("chat --top-p all", "--top-p: must be a number, got 'all'"),
        ("lm-eval --tasks a --limit nan", "--limit: must be a finite number, got nan"),
        ("lm-eval --tasks a --batch-size 0", "--batch-size: it must be at least 1, got 0"),
        ("lm-eval --tasks a --num-fewshot -1", "--num-fewshot: it must be at least 0, got -1"),
        ("serve --port 65536", "--port: it must lie in [0, 65535], got 65536"),
        ("serve --ollama-port -1", "--ollama-port: it must lie in [0, 65535], got -1"),
    ],
)
def test_a_number_outside_of_its_interval_is_a_usage_error(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(command.split())
    error = capsys.readouterr().err
    assert "Traceback" not in error and f"error: argument {words}" in error


@pytest.mark.parametrize("value", ["1", "0.5", "1e-3"])
def test_a_number_in_its_interval_is_taken(value: str) -> None:
    assert options.number("(0, 1]")(value) == float(value)


@pytest.mark.parametrize("command", ["plots", "card", "verify", "lm-eval --tasks a"])
@pytest.mark.parametrize("output", ["", ".", "/", "..", "folder", "absent/..", "file/a.json"])
def test_an_output_that_no_file_can_have_is_one_line_before_the_work(
    command: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/kept").touch()
    (tmp_path / "file").touch()
    option = "--json" if command == "verify" else "--output"
    # In an empty folder each of them would otherwise fail for another reason
    assert cli.main([*command.split(), option, output]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option} ") and error.count("\n") == 1
    assert "is a folder: name a file" in error or "is not a folder: name" in error
    assert (tmp_path / "folder/kept").exists() and (tmp_path / "file").is_file()


def test_charts_are_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plots", "--output", "a.svg"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_new_folder_or_over_an_old_one_is_an_output(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    for name in ("old", "new", "a/b/new"):
        outputs.check_file(tmp_path / name, "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a regular file"):
        outputs.check_file(tmp_path / "pipe", "--output")


def test_a_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, who may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=rf"--json .*: {tmp_path} is not writable"):
        outputs.check_file(tmp_path / "a/b", "--json")
