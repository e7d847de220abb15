"""The tool behind `make tour` writes the output of a page's commands into the page, and finds a
command that fails.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from antimatter.errors import UserError
from tools import tour

TOOL = Path(tour.__file__)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[tour.Shell]:
    with tour.Shell(tmp_path) as shell:
        yield shell


def page(*lines: str) -> str:
    return "\n".join(["# A page", "", "```console", *lines, "```", "", "Words.", ""])


def test_new_output_replaces_old_output(shell: tour.Shell, tmp_path: Path) -> None:
    old = page("$ echo new", "old", "", "older", "$ true", "$ echo a \\", "    b", "c")
    new = page("$ echo new", "new", "$ true", "$ echo a \\", "    b", "a b")
    assert tour.play(old, shell, tmp_path) == new
    assert tour.play(new, shell, tmp_path) == new


def test_only_console_blocks_are_run(shell: tour.Shell, tmp_path: Path) -> None:
    text = "$ touch outside\n```\n$ touch inside\n```\n```python\n$ touch python\n```\n"
    assert tour.play(text, shell, tmp_path) == text
    assert not list(tmp_path.iterdir())


def test_folder_variables_and_jobs_have_an_effect_on_later_commands(
    shell: tour.Shell, tmp_path: Path
) -> None:
    setup = ("$ mkdir deep && cd deep", "$ export A=1", "$ sleep 100 &")
    played = tour.play(page(*setup, "$ pwd", "$ echo $A", "$ kill %1"), shell, tmp_path)
    assert played == page(*setup, "$ pwd", "~/deep", "$ echo $A", "1", "$ kill %1")


def test_a_command_does_not_read_the_next_one_as_its_input(
    shell: tour.Shell, tmp_path: Path
) -> None:
    assert tour.play(page("$ cat", "$ echo b"), shell, tmp_path) == page("$ cat", "$ echo b", "b")


def test_errors_and_output_keep_their_order(shell: tour.Shell, tmp_path: Path) -> None:
    assert "1\n2\n3\n" in tour.play(page("$ echo 1; echo 2 >&2; echo 3"), shell, tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", "`false` failed with status 1"),
        ("ls there-is-none 2>/dev/null", "failed with status 2"),
        ("no-such-command", "failed with status 127"),
        ("false   # a failure that is not expected", "failed with status 1"),
        ("true   # fails: not at all", "succeeded, and should fail"),
        ("exit 3", "ended the shell"),
    ],
)
def test_a_command_with_an_unexpected_status_is_named(
    shell: tour.Shell, tmp_path: Path, command: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        tour.play(page("$ true", f"$ {command}"), shell, tmp_path)


def test_a_failure_that_is_expected_is_shown(shell: tour.Shell, tmp_path: Path) -> None:
    assert "cat: none: No such" in tour.play(
        page("$ LC_ALL=C cat none   # fails: there is none"), shell, tmp_path
    )


def test_ctrl_c_reaches_a_command(shell: tour.Shell, tmp_path: Path) -> None:
    played = tour.play(page("$ timeout --signal INT 0.5 sleep 60   # fails"), shell, tmp_path)
    assert played == page("$ timeout --signal INT 0.5 sleep 60   # fails")


def test_a_command_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour, "LIMIT", 0.3)
    with (
        tour.Shell(tmp_path) as shell,
        pytest.raises(UserError, match=r"`sleep 60` ended the shell, or took longer than 0\.3 s"),
    ):
        shell.run("sleep 60")


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (["a", "", "", "b", ""], ["a", "", "b"]),
        (["\x1b[31mred\x1b[0m  "], ["red"]),
        (["10%\r 50%\r100%", "done\r"], ["100%", "done"]),
        (["in /home/reader/antimatter/x"], ["in ~/antimatter/x"]),
        ([str(i) for i in range(30)], [*map(str, range(10)), "[…]", *map(str, range(20, 30))]),
        (["x" * 200], ["x" * 149 + "…"]),
        (["$ no command", "```"], [" $ no command", " ```"]),
    ],
)
def test_output_is_shown_as_in_a_terminal(output: list[str], shown: list[str]) -> None:
    assert tour.clean(output, Path("/home/reader")) == shown


def test_a_page_changes_only_if_all_commands_have_the_expected_status(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", clone], check=True)
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(sys.executable)
    (clone / "dvc_plots").mkdir()
    text = tmp_path / "page.md"
    for line, status in (("$ echo hi; printf 'PNG' > dvc_plots/a.png", 0), ("$ false", 1)):
        text.write_text(page(line) + "![a picture](a.png)\n")
        done = subprocess.run(
            [sys.executable, TOOL, text, "--clone", clone], capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        assert text.read_text() == page(line, *([] if status else ["hi"])) + "![a picture](a.png)\n"
    assert (tmp_path / "a.png").read_text() == "PNG"
    error = done.stderr.splitlines()[-1]
    assert error == f"error: `false` failed with status 1; {text} is unchanged"


@pytest.mark.parametrize(
    ("kind", "status"), [("AVX512, x", [" M metrics/checkpoints/summary.json"]), ("AVX2, x", [])]
)
def test_other_results_are_committed_on_another_kind_of_machine_only(
    shell: tour.Shell, tmp_path: Path, kind: str, status: list[str]
) -> None:
    folder = tmp_path / "metrics/checkpoints"
    folder.mkdir(parents=True)
    summary, provenance = folder / "summary.json", folder / "provenance.json"
    summary.write_text("1")
    provenance.write_text('{\n  "kind": "AVX512, x",\n  "seed": 1\n}\n')
    commands = "git init --quiet && git add --all && git commit --quiet --message start"
    assert shell.run(commands) == (0, [])
    summary.write_text("2")
    provenance.write_text(provenance.read_text().replace("AVX512, x", kind))
    assert shell.run(tour.COMMIT_OF_OTHER_MACHINE) == (0, [])
    assert shell.run("git status --short") == (0, status)
