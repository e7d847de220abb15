"""A conversation in a terminal, or through a pipe."""

import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TextIO

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts
from antimatter.serve import prompt
from antimatter.serve.backend import Engine, Finish
from antimatter.serve.terminal import commands, editor
from antimatter.serve.terminal.commands import Settings


def answer(
    engine: Engine,
    messages: list[Message],
    config: OllamaConfig,
    seed: int | None = None,
    *,
    continues: bool = False,
) -> Generator[str, None, Finish]:
    """What Engine.stream gives for the conversation. Turns that no longer fit are removed from `messages`, the oldest first.

    Prompt and answer together never exceed the context, so that no runtime has a reason to shift it: positions are learned, and a shift is none.

    Args:
        continues: the messages are a text to go on with, whatever the model was tuned for.

    Raises:
        ValueError: the last turn alone is too long.
        ConnectionError: the engine refused, or broke off.
    """
    render = template.continued if continues else prompt.renderer(engine.chat)

    def count(some: Sequence[Message]) -> int:
        return engine.count(render(some))

    # Tokens kept free, so that a long conversation still gets an answer
    reserved = min(config.num_predict, engine.n_ctx // 2)
    messages[:] = prompt.fit(messages, engine.n_ctx - reserved, count)
    text = render(messages)
    return engine.stream(
        text, config, min(config.num_predict, engine.n_ctx - engine.count(text)), seed
    )


def converse(engine: Engine, config: OllamaConfig, system: str = "") -> None:
    """Greets, asks and answers until Ctrl-D or /bye. Ctrl-C ends an answer, not the conversation.

    Args:
        system: text before the conversation, "" for none.

    Raises:
        ValueError: a system text that cannot be.
        BrokenPipeError: nobody reads the answers any more.
    """
    chat = _Chat(engine, Settings(replace(config, system=system)))
    lines = editor.Lines(editor.history_path(), commands.completions)
    # By write(): greeting and starters come from the file of the model
    editor.write(sys.stderr, _welcome(engine.chat))
    with chat.ctrl_c.installed():
        while not chat.ended:
            try:
                editor.say("")
                with chat.ctrl_c:
                    text = lines.ask()
                chat.take(text)
            except EOFError:
                editor.say("")
                return
            except KeyboardInterrupt:
                editor.say("  (Ctrl-D ends the chat)")
            except BrokenPipeError:
                raise
            except (ValueError, ConnectionError) as error:
                editor.say(f"error: {error}")


def pipe(
    engine: Engine, config: OllamaConfig, lines: TextIO, output: TextIO, system: str = ""
) -> None:
    """One answer per line of input, each line a conversation of its own: what came before does not colour it. Commands are text like any other.

    Raises:
        ValueError: some lines have no answer, or not a whole one; stderr said which, and why. The others are answered.
        BrokenPipeError: nobody reads the answers any more.
    """
    context = [Message("system", system)] if system else []
    asked = failed = 0
    for number, line in enumerate(lines, 1):
        if not line.translate(editor.CONTROL).strip():
            continue
        asked += 1
        said: list[str] = []
        try:
            _pour(answer(engine, [*context, Message("user", line.strip())], config), said, output)
        except BrokenPipeError:
            raise
        except (ValueError, ConnectionError) as error:
            failed += 1
            print(f"line {number}: {error}", file=sys.stderr, flush=True)
        if said:
            editor.write(output, "\n")
    if failed:
        raise UserError(f"{failed} of {asked} lines could not be answered")


class _Chat:
    """A conversation under way: what was said, and the settings for what comes."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.ended = False
        self.ctrl_c = editor.CtrlC()
        self._engine = engine
        self._settings = settings
        # Without the system text; an answer follows each turn of the user
        self._turns: list[Message] = []
        self._asked = ""  # the last turn of the user, answered or not
        self._before: list[Message] = []  # the turns before it

    def take(self, text: str) -> None:
        """One text of the person: a command, or a turn.

        Raises:
            ValueError, ConnectionError: a command that cannot be obeyed.
        """
        if text.startswith("/") and not text.startswith("//"):
            self._obey(*commands.split(text))
        elif text:
            self._ask(text.removeprefix("/"))

    def _obey(self, name: str, words: str) -> None:
        match name:
            case "help":
                editor.say(commands.help_text(self._engine.chat is not None))
            case "set":
                self._settings, shown = commands.change(self._settings, words)
                editor.say(shown)
            case "show":
                with self.ctrl_c:
                    text = prompt.renderer(self._engine.chat)(self._messages())
                    n_tokens = self._engine.count(text)
                editor.say(
                    f"  engine        {self._engine.description}, context {self._engine.n_ctx} tokens"
                )
                editor.say(
                    f"  conversation  {len(self._turns)} turns, {_number(n_tokens, 'token')}"
                )
                editor.say(f"  history       {editor.history_path() or 'none'}")
            case "reset":
                self._turns, self._before, self._asked = [], [], ""
                editor.say("  the conversation is forgotten")
            case "retry":
                if not self._asked:
                    raise UserError("there is no text yet that could be answered again")
                self._turns = self._before
                self._ask(self._asked)
            case _:  # bye, quit
                self.ended = True

    def _messages(self) -> list[Message]:
        system = self._settings.config.system
        return [Message("system", system), *self._turns] if system else [*self._turns]

    def _ask(self, text: str) -> None:
        """Shows the answer, then how it went. A turn to which nothing was said is forgotten."""
        self._asked, self._before = text, self._turns
        config, n_ctx = self._settings.config, self._engine.n_ctx
        messages = [*self._messages(), Message("user", text)]
        n_messages, said, notes, error = len(messages), list[str](), list[str](), None
        try:
            with self.ctrl_c:
                finish = _pour(
                    answer(self._engine, messages, config, self._settings.seed), said, sys.stdout
                )
            notes = _ending(finish, config.num_predict, n_ctx)
        except KeyboardInterrupt:
            notes = ["stopped"]
        except BrokenPipeError:
            raise
        except (ValueError, ConnectionError) as problem:
            error = problem
        if said:
            editor.write(sys.stdout, "\n")
            self._turns = [message for message in messages if message.role != "system"]
            self._turns.append(Message("assistant", "".join(said).strip()))
        if dropped := n_messages - len(messages):
            notes.append(
                f"the oldest {dropped} turns no longer fit {n_ctx} tokens and were left out"
            )
        if notes:
            editor.say(f"({'; '.join(notes)})", dim=True)
        if error:
            editor.say(f"error: {error}")


def _pour(stream: Generator[str, None, Finish], said: list[str], output: TextIO) -> Finish:
    """Writes an answer as it comes. What was said is in `said`, however it ends."""
    with closing(stream):
        while True:
            try:
                piece = next(stream)
            except StopIteration as end:
                return end.value
            said.append(piece)
            editor.write(output, piece)


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


def _ending(finish: Finish, num_predict: int, n_ctx: int) -> list[str]:
    notes = [_number(finish.completion_tokens, "token")]
    if finish.completion_tokens > 1:  # the speed of one is that of a clock
        notes[0] += f", {finish.tokens_per_second:.0f} tokens/s"
    if finish.reason == "length":
        full = finish.completion_tokens < num_predict
        notes.append(
            f"stopped as the context of {n_ctx} tokens is full"
            if full
            else "stopped at its length: /set num_predict allows more"
        )
    elif finish.completion_tokens <= 1:  # [EOS] is one
        notes.append("the model ended the text at once: /retry, or write more")
    return notes


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
