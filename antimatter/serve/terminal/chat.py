"""A conversation in a terminal, or the answers to the lines of a pipe."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TextIO

from antimatter import text as figures
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts
from antimatter.serve import prompt
from antimatter.serve.backend import Backend, Finish, Generation
from antimatter.serve.terminal import commands, editor
from antimatter.serve.terminal.commands import Settings


def converse(
    backend: Backend,
    config: OllamaConfig,
    system: str = "",
    read: Callable[[], Awaitable[str]] | None = None,
) -> None:
    """Greets, asks and answers until Ctrl-D or /bye. Ctrl-C ends an answer, not the conversation.

    Args:
        system: text before the conversation, "" for none.
        read: the next text of the user, as editor.LineReader.read, which is the default.

    Raises:
        UserError: the system text is invalid.
        BrokenPipeError: the reader of the answers has gone.
    """
    chat = _Chat(backend, Settings(replace(config, system=system)))
    # With write(): greeting and starters come from the file of the model
    editor.write(sys.stderr, _welcome(backend.chat))
    read = read or editor.LineReader(editor.history_path(), commands.completions).read
    asyncio.run(chat.run(read))


def pipe(
    backend: Backend, config: OllamaConfig, lines: TextIO, output: TextIO, system: str = ""
) -> None:
    """Writes one answer for each line. Each line is a conversation of its own, so no answer depends
    on the lines before. Commands are text like any other.

    Raises:
        UserError: some lines could not be answered, or not completely. stderr has the reasons; the
            other lines are answered.
        BrokenPipeError: the reader of the answers has gone.
    """
    context = [Message("system", system)] if system else []
    generation = Generation.of(config)
    n_lines = n_failed = 0
    # The lines are read outside of the event loop, where Ctrl-C interrupts a read
    with asyncio.Runner() as runner:
        for number, line in enumerate(lines, 1):
            if not line.translate(editor.CONTROL).strip():
                continue
            n_lines += 1
            messages = [*context, Message("user", line.strip())]
            pieces = list[str]()
            try:
                runner.run(_answer(backend, messages, generation, pieces, output))
            except UserError as error:
                n_failed += 1
                print(f"line {number}: {error}", file=sys.stderr, flush=True)
            if pieces:
                editor.write(output, "\n")
    if n_failed:
        raise UserError(f"{n_failed} of {n_lines} lines could not be answered")


async def _answer(
    backend: Backend,
    messages: list[Message],
    generation: Generation,
    pieces: list[str],
    output: TextIO,
) -> None:
    built = await prompt.build(backend, messages, generation)
    await _write(backend.stream(built.text, built.generation), pieces, output)


async def _write(
    stream: AsyncGenerator[str | Finish, None], pieces: list[str], output: TextIO
) -> Finish:
    """Writes an answer as it arrives. `pieces` has what was written, also if it is interrupted."""
    async with aclosing(stream):
        async for part in stream:
            if isinstance(part, Finish):
                return part
            pieces.append(part)
            editor.write(output, part)
    raise AssertionError("a stream ends with a Finish, or an error")


class _Chat:
    """A conversation and its settings."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._ctrl_c = editor.CtrlC()
        self._is_ended = False
        # Without the system text; each turn of the user has its answer
        self._turns: list[Message] = []
        self._question = ""  # the last turn of the user, answered or not
        self._before: list[Message] = []  # the turns before it

    async def run(self, read: Callable[[], Awaitable[str]]) -> None:
        with self._ctrl_c.installed():
            while not self._is_ended:
                try:
                    editor.say("")
                    with self._ctrl_c:
                        text = await read()
                    await self._take(text)
                except EOFError:
                    editor.say("")
                    return
                except KeyboardInterrupt:
                    editor.say("  (Ctrl-D ends the chat)")
                except UserError as error:
                    editor.say(f"error: {error}")

    async def _take(self, text: str) -> None:
        """Handles a text of the user: a command, or a turn."""
        if text.startswith("/") and not text.startswith("//"):
            await self._run_command(*commands.split(text))
        elif text:
            await self._ask(text.removeprefix("/"))

    async def _run_command(self, name: str, words: str) -> None:
        match name:
            case "help":
                editor.say(commands.help_text(self._backend.chat is not None))
            case "set":
                self._settings, shown = commands.change(self._settings, words)
                editor.say(shown)
            case "show":
                await self._show()
            case "reset":
                self._turns, self._before, self._question = [], [], ""
                editor.say("  the conversation is forgotten")
            case "retry":
                if not self._question:
                    raise UserError("there is no text yet that could be answered again")
                self._turns = self._before
                await self._ask(self._question)
            case _:  # bye, quit
                self._is_ended = True

    async def _show(self) -> None:
        with self._ctrl_c:
            text = prompt.renderer(self._backend.chat)(self._messages())
            n_tokens = await self._backend.count(text)
        context = f"context {self._backend.n_ctx} tokens"
        length = f"{len(self._turns)} turns, {figures.plural(n_tokens, 'token')}"
        editor.say(f"  engine        {self._backend.description}, {context}")
        editor.say(f"  conversation  {length}")
        editor.say(f"  history       {editor.history_path() or 'none'}")

    def _messages(self) -> list[Message]:
        system = self._settings.config.system
        return [Message("system", system), *self._turns] if system else [*self._turns]

    async def _ask(self, text: str) -> None:
        """Shows the answer, then how it ended. A turn without any answer is forgotten."""
        self._question, self._before = text, self._turns
        messages = [*self._messages(), Message("user", text)]
        config, backend = self._settings.config, self._backend
        pieces, notes, error, kept = list[str](), list[str](), None, messages
        try:
            with self._ctrl_c:
                generation = Generation.of(config, self._settings.seed)
                built = await prompt.build(backend, messages, generation)
                kept = built.messages
                stream = backend.stream(built.text, built.generation)
                finish = await _write(stream, pieces, sys.stdout)
            notes = ending(finish, config.num_predict, backend.n_ctx)
        except KeyboardInterrupt:
            notes = ["stopped"]
        except UserError as problem:
            error = problem
        if pieces:
            editor.write(sys.stdout, "\n")
            self._turns = [message for message in kept if message.role != "system"]
            self._turns.append(Message("assistant", "".join(pieces).strip()))
        if dropped := len(messages) - len(kept):
            limit = f"no longer fit {backend.n_ctx} tokens and were left out"
            notes.append(f"the oldest {dropped} turns {limit}")
        if notes:
            editor.say(f"({'; '.join(notes)})", dim=True)
        if error:
            editor.say(f"error: {error}")


def ending(finish: Finish, num_predict: int, n_ctx: int) -> list[str]:
    """Notes about how an answer ended."""
    notes = [figures.plural(finish.completion_tokens, "token")]
    # For a single token there is no meaningful speed
    if finish.completion_tokens > 1:
        notes[0] += f", {finish.tokens_per_second:.0f} tokens/s"
    if finish.reason == "length":
        if finish.completion_tokens < num_predict:
            notes.append(f"stopped because the context of {n_ctx} tokens is full")
        else:
            notes.append("stopped at its length: /set num_predict allows more")
    elif finish.completion_tokens <= 1:  # [EOS] is one
        notes.append("the model ended the text at once: /retry, or write more")
    return notes


def _welcome(chat: ChatFacts | None) -> str:
    keys = "Ctrl-C stops an answer, Ctrl-D ends the chat, /help shows the rest."
    if chat is None:
        return f"The model continues your text: a base model answers no questions. {keys}\n"
    lines = [keys, ""]
    if chat.greeting:
        lines.append(chat.greeting)
    if chat.starters:
        lines += ["You might begin with:", *(f"  {text}" for text in chat.starters)]
    return "".join(f"{line}\n" for line in lines)
