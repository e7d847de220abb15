"""A conversation in a terminal, or through a pipe."""

import sys
from collections.abc import Generator
from typing import TextIO

from antimatter.export.ollama import OllamaConfig
from antimatter.serve import prompt
from antimatter.serve.engine import Engine, Finish
from antimatter.serve.prompt import Message

# A model may write any byte. Control characters (C0 but tab and newline, DEL, C1) would steer the terminal, so they are left out.
_CONTROL = {code: None for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in (0x09, 0x0A)}


def answer(engine: Engine, messages: list[Message], config: OllamaConfig, seed: int | None = None) -> Generator[str, None, Finish]:
    """What Engine.stream gives for the conversation. Turns that no longer fit are removed from `messages`, the oldest first.

    Raises:
        ValueError: the last turn alone is too long.
        ConnectionError: the engine refused, or broke off.
    """
    n_answer = min(config.num_predict, engine.n_ctx // 2)  # tokens kept free, so that a long conversation still gets an answer
    messages[:] = prompt.fit(messages, engine.n_ctx - n_answer, engine.count)
    return engine.stream(prompt.render(messages), config, n_answer, seed)


def converse(engine: Engine, config: OllamaConfig, system: str = "") -> None:
    """Asks and answers until Ctrl-D. Ctrl-C ends an answer, not the conversation."""
    import readline  # noqa: F401, gives input() line editing and history

    messages = [Message("system", system)] if system else []
    while True:
        try:
            text = input("\n> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("  (Ctrl-D ends the chat)", end="")
            continue
        if not text:
            continue
        messages.append(Message("user", text))
        said = []
        try:
            for piece in answer(engine, messages, config):
                said.append(piece)
                _write(sys.stdout, piece)
        except KeyboardInterrupt:
            _write(sys.stdout, " …")
        except (ValueError, ConnectionError) as error:
            print(f"error: {error}", file=sys.stderr)
        if said:
            messages.append(Message("assistant", "".join(said).strip()))
        else:
            messages.pop()  # nothing was said to it
        print()


def pipe(engine: Engine, config: OllamaConfig, lines: TextIO, output: TextIO, system: str = "") -> None:
    """One answer per line of input, each line a conversation of its own: what came before does not colour it."""
    for line in lines:
        if text := line.strip():
            messages = [Message("system", system)] if system else []
            for piece in answer(engine, [*messages, Message("user", text)], config):
                _write(output, piece)
            _write(output, "\n")


def _write(output: TextIO, text: str) -> None:
    output.write(text.translate(_CONTROL))
    output.flush()
