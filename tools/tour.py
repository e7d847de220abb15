"""Runs the commands of a page in a fresh clone of this repository, as a reader would type them, and
writes their output into the page.

Usage: python tools/tour.py docs/experiments.md [--clone FOLDER]

In a ```console block `$ ` begins a command, and a backslash continues it on the next line. The
lines below it are replaced by its output. All commands run in one shell, so `cd`, `export` and a
server in the background have an effect on later commands. A command must succeed, and one with a
comment `# fails` must fail. Otherwise the tool ends with status 1, names the command and does not
change the page.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from antimatter import files
from antimatter.errors import UserError

LIMIT = 1800  # seconds that a command may take
LINES, EDGE = 24, 10  # an output of more lines keeps this many at its beginning and at its end
WIDTH = 150  # characters of a line
CUT = "[…]"
STATUS = "tour_status"  # a variable of the shell
# Another kind of machine may compute other results than Git has, and the clone commits them. On the
# same kind of machine they are an error, which the last command of SETUP finds
COMMIT_OF_OTHER_MACHINE = (
    "if git diff metrics/checkpoints/provenance.json"
    r""" | grep --quiet '^+ *"\(kind\|precision\)"';"""
    " then git commit --all --quiet --message 'As this machine computes'; fi"
)
SETUP = (
    "git switch --quiet --force-create main",
    "make repro",
    COMMIT_OF_OTHER_MACHINE,
    "git status --short",
)


class Shell:
    """One bash for all commands. It ends with the block, and so does what it started in the
    background.
    """

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {
            **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "Reader"),
            **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "reader@localhost"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_EDITOR": "true",  # takes the message that Git proposes
            "TERM": "dumb",
            "COLUMNS": str(WIDTH),
        }
        # Of the `make tour` around this
        for name in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH"):
            environment.pop(name, None)
        # Bash and its commands must not inherit "ignore" from a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )

    def __enter__(self) -> "Shell":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.bash:
            self._end()

    def run(self, command: str) -> tuple[int, list[str]]:
        """Runs a command, and copies its output to stderr.

        Returns:
            Its exit status and its lines.

        Raises:
            UserError: it ended the shell, or took longer than LIMIT.
        """
        assert self.bash.stdin is not None and self.bash.stdout is not None
        mark = uuid.uuid4().hex
        self.bash.stdin.write(
            f"eval {shlex.quote(command)} </dev/null\n{STATUS}=$?; echo; echo {mark} ${STATUS}\n"
        )
        self.bash.stdin.flush()
        lines: list[str] = []
        clock = threading.Timer(LIMIT, self._end)
        clock.start()
        try:
            for line in self.bash.stdout:
                if line.startswith(mark):
                    # Without the `echo`'s empty line
                    return int(line.split()[1]), lines[:-1] if lines and not lines[-1] else lines
                lines.append(line.rstrip("\n"))
                print(line, end="", file=sys.stderr, flush=True)
        finally:
            clock.cancel()
        raise UserError(f"`{command}` ended the shell, or took longer than {LIMIT} s")

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.bash.pid, signal.SIGTERM)


def play(page: str, shell: Shell, home: Path) -> str:
    """The page with the present output of its commands. `home`, the folder around the clone, is
    shown as `~`.

    Raises:
        UserError: a command failed, or one that should have failed succeeded.
    """
    shown: list[str] = []
    inside = False
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith("```"):
            inside = line == "```console" if not inside else False
        elif inside and line.startswith("$ "):
            command = line[2:]
            shown.append(line)
            while command.endswith("\\"):
                shown.append(next(lines))
                command += "\n" + shown[-1]
            print(f"\n$ {command}", file=sys.stderr, flush=True)
            begin = time.monotonic()
            status, output = shell.run(command)
            print(f"[{time.monotonic() - begin:.0f} s]", file=sys.stderr, flush=True)
            should_fail = re.search(r"\s# fails\b[^'\"]*$", command) is not None
            if should_fail and status == 0:
                raise UserError(f"`{command}` succeeded, and should fail")
            if status != 0 and not should_fail:
                raise UserError(f"`{command}` failed with status {status}")
            shown += clean(output, home)
            continue
        elif inside:
            # What the command printed the last time
            continue
        shown.append(line)
    return "\n".join(shown) + "\n"


def clean(output: list[str], home: Path) -> list[str]:
    """What a terminal finally shows, without paths of this machine, and shortened."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(output)).replace(str(home), "~")
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    # Of several empty lines the first
    lines = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) > LINES:
        lines = [*lines[:EDGE], CUT, *lines[-EDGE:]]
    lines = [line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines]
    # Else the next run would take it for a command
    return [f" {line}" if line.startswith(("$ ", "```")) else line for line in lines]


def main(page: Path, clone: Path | None) -> None:
    text, setup = page.read_text(encoding="utf-8"), SETUP if clone is None else ()
    with tempfile.TemporaryDirectory(prefix="tour-", ignore_cleanup_errors=True) as temporary:
        folder = (clone or Path(temporary) / "antimatter").resolve()
        if clone is None:
            subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
        with Shell(folder) as shell:
            try:
                for command in setup:
                    status, lines = shell.run(command)
                    if status or (command.startswith("git status") and lines):
                        raise UserError(f"`{command}` in a fresh clone: status {status}, {lines}")
                new = play(text, shell, folder.parent)
            except BaseException:
                # Workers of the queue have their own sessions, so they do not end with the shell
                stop = [str(folder / ".venv/bin/python"), "-m", "dvc", "queue", "stop", "--kill"]
                subprocess.run(stop, cwd=folder, stdout=sys.stderr, check=False)
                raise
        files.write_text(page, new)
        # Pictures that the page shows and a command has drawn
        for name in re.findall(r"!\[[^]]*\]\(([\w.-]+)\)", new):
            if (folder / "dvc_plots" / name).is_file():
                shutil.copyfile(folder / "dvc_plots" / name, page.with_name(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Run the commands of a page in a fresh clone and write what they print into it."
    )
    parser.add_argument("page", type=Path)
    parser.add_argument(
        "--clone",
        type=Path,
        help="a clone in which `make repro` has run (default: a new one, which is deleted)",
    )
    arguments = parser.parse_args()
    try:
        main(arguments.page, arguments.clone)
    except (UserError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}; {arguments.page} is unchanged")
