"""The terminal side of a chat: reading the user's input, Ctrl-C, and output that cannot control the
terminal.

prompt_toolkit edits the input. Its import takes a tenth of a second, so it happens only if there is
a terminal.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

Completions = Callable[[str, str], list[str]]

HISTORY = 1000  # texts kept from one chat to the next
_CONTINUATION = "... "

# A model can generate any byte. Control characters (C0 but tab and newline, DEL, C1) would control
# the terminal, so they are removed.
CONTROL: dict[int, str | None] = {
    code: None for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in (0x09, 0x0A)
}
# On a screen, characters that change the direction of writing are removed too, because they make a
# line look like another text. Unicode's line separators become newlines.
_SCREEN = (
    CONTROL
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
    | {0x2028: "\n", 0x2029: "\n"}
)


def write(output: TextIO, text: str) -> None:
    """Writes text of the model, unbuffered and without control characters."""
    output.write(text.translate(_SCREEN if output.isatty() else CONTROL))
    output.flush()


def say(text: str, dim: bool = False) -> None:
    """Prints a message of the chat program to stderr: stdout has only the answers."""
    dim = dim and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    print(f"\x1b[2m{text}\x1b[0m" if dim else text, file=sys.stderr, flush=True)


class CtrlC:
    """Ctrl-C raises KeyboardInterrupt inside `with ctrl_c:`, and has no effect elsewhere, so it
    cannot interrupt the cleanup after an earlier one.

    For coroutines: the block's task is cancelled, so every `await` in it can be interrupted.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._is_interrupted = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handles SIGINT during the block, in the running event loop of the main thread."""
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Self:
        self._task, self._is_interrupted = asyncio.current_task(), False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task and self._is_interrupted and kind is asyncio.CancelledError:
            task.uncancel()
            raise KeyboardInterrupt from error

    def _interrupt(self) -> None:
        if self._task and not self._is_interrupted:
            self._is_interrupted = True
            self._task.cancel()


class LineReader:
    """Reads the user's texts: with editing, history and completion at a terminal, else as plain
    lines of stdin.

    Args:
        path: the file of the history. None keeps none. A path that cannot be written is ignored,
            because a chat works without a history.
        completions: what Tab offers, for (the line before the word, the word).
    """

    def __init__(self, path: Path | None, completions: Completions) -> None:
        self._path = path
        # stdout may be a file: then stderr shows the input
        screen = next((stream for stream in (sys.stdout, sys.stderr) if stream.isatty()), None)
        self._session: PromptSession[str] | None = None
        if sys.stdin.isatty() and screen:
            self._session = _session(screen, load_history(path), completions)

    async def read(self) -> str:
        """The next text, stripped. A line that ends in a backslash continues in the next line.

        Raises:
            EOFError: Ctrl-D, or the end of stdin.
            KeyboardInterrupt: Ctrl-C; the text typed so far is discarded.
        """
        if self._session:
            # Its own handler of SIGINT would remove the one of CtrlC
            text = await self._session.prompt_async(
                handle_sigint=False, set_exception_handler=False
            )
        else:
            text = _read_plain()
        if text := text.strip():
            # At once, not at the end: a chat that is killed has a history too
            _append_history(self._path, text)
        return text


def history_path(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The history file, by the XDG Base Directory Specification, in which a relative path is
    invalid and ignored. None if there is no home.
    """
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state, "antimatter", "chat_history") if os.path.isabs(state) else None


def load_history(path: Path | None) -> list[str]:
    """The last HISTORY texts, oldest first. A longer file is shortened to them."""
    texts = list[str]()
    if not path:
        return texts
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            # An incomplete line, one of another program, or one that is nested too deeply
            with contextlib.suppress(ValueError, RecursionError):
                texts.append(str(json.loads(line)))
        if len(texts) > HISTORY:
            content = "".join(f"{json.dumps(text)}\n" for text in texts[-HISTORY:])
            path.write_text(content, encoding="utf-8")
    return texts[-HISTORY:]


def _append_history(path: Path | None, text: str) -> None:
    if not path:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
            # JSON, because a text may have several lines
            file.write(f"{json.dumps(text)}\n")


def _session(screen: TextIO, history: list[str], completions: Completions) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output.vt100 import Vt100_Output
    from prompt_toolkit.shortcuts import CompleteStyle

    class Words(Completer):
        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterator[Completion]:
            before, space, word = document.current_line_before_cursor.rpartition(" ")
            for completion in completions(before + space, word):
                yield Completion(completion, -len(word))

    keys = KeyBindings()

    @keys.add("enter", filter=Condition(lambda: session.default_buffer.text.endswith("\\")))
    def continue_text(event: KeyPressEvent) -> None:
        """Replaces the backslash by a line break."""
        buffer = event.current_buffer
        buffer.cursor_position = len(buffer.text)
        buffer.delete_before_cursor()
        buffer.insert_text("\n")

    output = Vt100_Output.from_pty(screen, os.environ.get("TERM"))
    # No cursor position requests: a slow terminal would answer one after the end of the chat, as
    # input of the shell
    output.enable_cpr = False
    session: PromptSession[str] = PromptSession(
        "> ",
        # No prefix where a long line is wrapped
        prompt_continuation=lambda _width, _line, wraps: "" if wraps else _CONTINUATION,
        history=InMemoryHistory(history),
        completer=Words(),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        enable_suspend=True,
        key_bindings=keys,
        output=output,
    )
    return session


def _read_plain() -> str:
    """A text from stdin. Blocks the event loop, which has nothing else to do meanwhile."""
    lines, prompt = list[str](), "> "
    # The event loop's handler would not run before the line is complete
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while not lines or lines[-1].endswith("\\"):
            print(prompt, end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            lines.append(line.removesuffix("\n"))
            prompt = _CONTINUATION
    finally:
        signal.signal(signal.SIGINT, before)
    return "\n".join([*(line[:-1] for line in lines[:-1]), lines[-1]])
