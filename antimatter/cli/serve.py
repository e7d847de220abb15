"""`antimatter serve`"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from antimatter.cli import options
from antimatter.cli.options import Commands
from antimatter.errors import UserError

if TYPE_CHECKING:
    from antimatter.export.ollama import OllamaConfig
    from antimatter.serve.backend import Backend

MAX_PARALLEL = 256  # LLAMA_MAX_SEQ of llama.cpp


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "serve",
        help="the chat page and the APIs of OpenAI and Ollama over HTTP",
        description="Serves the chat page at /, OpenAI's API at /v1 and Ollama's at /api, on this"
        " machine alone unless --host says otherwise.",
    )
    options.add_model(command, auto="Ollama if there is one, else the embedded llama.cpp")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; beyond this machine a token is needed (default: 127.0.0.1)",
    )
    command.add_argument(
        "--port",
        type=options.integer(0, 65535),
        default=8000,
        help="0: a free one (default: 8000)",
    )
    command.add_argument(
        "--token-file",
        type=Path,
        help="requests must carry the token in it; the environment's ANTIMATTER_TOKEN does the"
        " same",
    )
    command.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of this server, e.g. of a tunnel",
    )
    command.add_argument(
        "--parallel",
        type=options.integer(1, MAX_PARALLEL),
        default=4,
        help=f"answers at a time, at most {MAX_PARALLEL} (default: 4)",
    )
    ollama = command.add_argument_group(
        "Ollama",
        "if none that has the model is running, one from PATH or --prefix is started, and ends"
        " with this command",
    )
    ollama.add_argument(
        "--install",
        action="store_true",
        help="if there is none, download it (1.4 GB), without root",
    )
    ollama.add_argument("--cpu-only", action="store_true", help="unpack no libraries for GPUs")
    ollama.add_argument(
        "--archive",
        default="",
        metavar="FILE_OR_URL",
        help="install from this archive of a release; its sha256sum.txt lies beside it",
    )
    ollama.add_argument(
        "--prefix",
        type=Path,
        default=Path(".state/ollama"),
        help="where to look for it, and to install it (default: .state/ollama)",
    )
    ollama.add_argument(
        "--ollama-port",
        type=options.integer(0, 65535),
        help="start one there, and look for no running one (default: a free port)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from antimatter.serve.http import access, runner
    from antimatter.serve.http.server import ServerConfig

    # Until the server has its own handler. As an exception, so that every `finally` ends what was
    # started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = options.ollama_config(arguments)
    # Before the backend, which takes longer
    with runner.bind(arguments.host, arguments.port) as listening:
        token = access.load_token(
            arguments.token_file,
            os.environ,
            required=not access.is_loopback(listening.getsockname()[0]),
        )
        names = frozenset(access.parse_allowed_host(name) for name in arguments.allow_host)
        with open_backend(arguments, config) as backend:
            url = runner.url(listening, token)
            line = f"serving {config.name} by {backend.description} at {url}"
            runner.run(
                backend,
                config,
                ServerConfig(parallel=arguments.parallel, token=token, allowed_hosts=names),
                listening,
                lambda: print(line, flush=True),
            )


@contextmanager
def open_backend(arguments: argparse.Namespace, config: "OllamaConfig") -> "Iterator[Backend]":
    """The backend that the options ask for, open during the block."""
    from antimatter.serve.embedded import EmbeddedBackend
    from antimatter.serve.ollama.server import open_ollama

    choice = options.backend_choice(arguments)
    backend: Backend | None = None
    with ExitStack() as stack:
        if choice != "embedded":
            ollama = open_ollama(
                config,
                options.log,
                named=choice == "ollama",
                prefix=arguments.prefix,
                install_it=arguments.install,
                cpu_only=arguments.cpu_only,
                archive=arguments.archive,
                port=arguments.ollama_port,
                parallel=arguments.parallel,
            )
            try:
                backend = stack.enter_context(ollama)
            except (OSError, UserError) as error:
                if choice == "ollama":
                    raise
                options.log(f"{error}: using the embedded llama.cpp")
        if backend is None:
            path = options.gguf_file(arguments, config)
            embedded = EmbeddedBackend(path, config.num_ctx, arguments.parallel)
            backend = stack.enter_context(closing(embedded))
        yield backend
