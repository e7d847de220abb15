"""`antimatter chat`"""

import argparse
import signal
import sys

from antimatter.cli import options
from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "chat",
        help="talk to the model in the terminal, or through a pipe",
        description="It answers, or continues your text. In a pipe: one answer per line of input.",
    )
    options.add_model(command, auto="Ollama if it runs and has this model")
    command.add_argument(
        "--system",
        help="text before the conversation; '' is none (default: the one that the model was tuned"
        " with, if any)",
    )
    command.add_argument(
        "--temperature",
        type=options.number("[0, 10]"),
        help="0 always takes the likeliest token (default of this and the next: `ollama:` in"
        " params.yaml)",
    )
    command.add_argument("--top-p", type=options.number("(0, 1]"))
    command.add_argument("--top-k", type=options.integer(1))
    command.add_argument(
        "--num-predict", type=options.integer(1), help="tokens of an answer, at most"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from antimatter.serve.choose import choose
    from antimatter.serve.terminal import chat

    # Options that are not given keep the values of params.yaml
    names = ("temperature", "top_p", "top_k", "num_predict")
    values = {name: getattr(arguments, name) for name in names}
    values = {name: value for name, value in values.items() if value is not None}
    config = replace(options.ollama_config(arguments), **values)
    # As an exception, so that every `finally` restores the terminal and ends the backend
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    choice = options.backend_choice(arguments)
    backend = choose(choice, config, lambda: options.gguf_file(arguments, config), options.log)
    try:
        options.log(f"engine: {backend.description}, context {backend.n_ctx} tokens")
        system = arguments.system
        if system is None:
            system = backend.chat.system if backend.chat else ""
        if sys.stdin.isatty():
            chat.converse(backend, config, system)
        else:
            chat.pipe(backend, config, sys.stdin, sys.stdout, system)
    finally:
        backend.close()
