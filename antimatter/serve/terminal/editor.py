"""The person's side of a chat: editing of lines with a history, Ctrl-C where it is expected, and nothing of the model's that steers a terminal."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TextIO

HISTORY = 1000  # texts that are kept from one chat to the next

_MISSED = 0.2  # seconds until a signal that was missed is noticed

# A model may write any byte. Control characters (C0 but tab and newline, DEL, C1) would steer the
# terminal, so they are left out.
CONTROL: dict[int, str | None] = {
    code: None for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in (0x09, 0x0A)
}
# On a screen also what turns the direction of writing, and so makes a line read as what it is not;
# Unicode's own line breaks become ours.
_SCREEN = (
    CONTROL
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
    | {0x2028: "\n", 0x2029: "\n"}
)


def write(output: TextIO, text: str) -> None:
    """Text of the model, at once."""
    output.write(text.translate(_SCREEN if output.isatty() else CONTROL))
    output.flush()


def say(text: str, dim: bool = False) -> None:
    """Text of the chat itself. On stderr, so that stdout holds the answers and nothing else."""
    dim = dim and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    print(f"\x1b[2m{text}\x1b[0m" if dim else text, file=sys.stderr, flush=True)


class CtrlC:
    """Ctrl-C raises KeyboardInterrupt inside `with ctrl_c:`, once. Anywhere else it does nothing, so that none can hit the clearing up after another.

    Python runs a handler between two steps of its own, so a signal that comes just before a call that waits (readline's, a socket's) would be heard
    only when that ends. A timer interrupts such calls, which then look for what they missed; that holds for SIGTERM as well.
    """

    def __init__(self) -> None:
        self._armed = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        handlers = {signal.SIGINT: self._handle, signal.SIGALRM: lambda *_: None}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        signal.setitimer(signal.ITIMER_REAL, _MISSED, _MISSED)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        self._armed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt


class Lines:
    """What the person types, through readline: editing, history, completion.

    Args:
        path: where the history survives. A folder that cannot be written is no reason not to chat, so then it does not; nor with None.
        completions: what Tab offers for (the line before the word, the word).
    """

    def __init__(self, path: Path | None, completions: Callable[[str, str], list[str]]) -> None:
        import readline

        self._readline = readline
        self._path = path
        self._completions = completions
        readline.set_auto_history(False)  # a text is one entry, however many lines it has
        readline.set_completer_delims(" ")  # else the slash would not belong to the word
        readline.set_completer(self._complete)
        readline.parse_and_bind(
            "bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete"
        )
        # Pasted line breaks belong to the text; Python switches it off
        readline.parse_and_bind("set enable-bracketed-paste on")
        for text in self._load():
            readline.add_history(text)

    def ask(self) -> str:
        """The next text, without blanks around it. A line that ends in a backslash goes on in the next.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C; what was typed is dropped.
        """
        lines = [_input("> ")]
        while lines[-1].endswith("\\"):
            lines.append(_input("... "))
        text = "\n".join([*(line[:-1] for line in lines[:-1]), lines[-1]]).strip()
        if text:
            self._keep(text)
        return text

    def _load(self) -> list[str]:
        texts = []
        with contextlib.suppress(OSError):
            for line in (
                self._path.read_text(encoding="utf-8", errors="replace").splitlines()
                if self._path
                else []
            ):
                # A line that was cut short, or of another program
                with contextlib.suppress(ValueError):
                    texts.append(str(json.loads(line)))
            if self._path and len(texts) > HISTORY:
                self._path.write_text(
                    "".join(f"{json.dumps(text)}\n" for text in texts[-HISTORY:]), encoding="utf-8"
                )
        return texts[-HISTORY:]

    def _keep(self, text: str) -> None:
        """At once and not at the end: a chat that is killed has a history too."""
        self._readline.add_history(text)
        if self._path:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open(
                    self._path,
                    "a",
                    encoding="utf-8",
                    opener=lambda path, flags: os.open(path, flags, 0o600),
                ) as file:
                    file.write(f"{json.dumps(text)}\n")  # JSON, as a text may have several lines

    def _complete(self, word: str, i: int) -> str | None:
        found = self._completions(
            self._readline.get_line_buffer()[: self._readline.get_begidx()], word
        )
        return found[i] if i < len(found) else None


def history_path(environ: Mapping[str, str] = os.environ) -> Path | None:
    """By the XDG rules, which call a relative path invalid. None if there is no home."""
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state, "antimatter", "chat_history") if os.path.isabs(state) else None


def _input(prompt: str) -> str:
    if not sys.stdout.isatty():
        print(prompt, end="", file=sys.stderr, flush=True)  # input() would put it among the answers
        prompt = ""
    try:
        return input(prompt)
    # CPython looks for signals again with the exception of the first in hand, and trips over a
    # handler that returns
    except SystemError as error:
        raise error.__cause__ or error from None
