"""Runs the server: its socket, its address, and the signals that stop it."""

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Callable
from urllib.parse import quote

from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.serve.backend import Backend
from antimatter.serve.http.server import Server, ServerConfig


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Clients that connect before the server starts wait.

    Raises:
        UserError: the address cannot be used; the message says what else to try.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must lie in [0, 65535], got {port}: 0 takes a free one")
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        fix = "127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in"
        raise UserError(f"--host {host} is not known: {fix}") from None
    family, kind, _, _, address = min(addresses, key=lambda info: info[0] != socket.AF_INET)
    listening = socket.socket(family, kind)
    try:
        # Allows a port that was in use a minute ago
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise UserError(_cannot_bind(host, port, error)) from None
    return listening


def _cannot_bind(host: str, port: int, error: OSError) -> str:
    free = "use `--port 0` for a free one"
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use: stop the program that listens there, or {free}"
        case errno.EACCES:
            return f"port {port} needs more rights: use one above 1023, or {free}"
        case _:
            return (
                f"--host {host} is not an address of this machine ({error.strerror}): "
                "127.0.0.1 always is"
            )


def url(listening: socket.socket, token: str | None) -> str:
    """The address of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"[{host}]" if ":" in host else host
    secret = f"#token={quote(token, safe='')}" if token else ""
    return f"http://{address}:{port}/{secret}"


def run(
    backend: Backend,
    defaults: OllamaConfig,
    config: ServerConfig,
    listening: socket.socket,
    on_ready: Callable[[], None],
) -> None:
    """Serves until SIGTERM. Raises KeyboardInterrupt after Ctrl-C."""

    async def serve() -> signal.Signals:
        loop = asyncio.get_running_loop()
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        server = Server(
            backend, defaults, config, lambda line: print(line, file=sys.stderr, flush=True)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        await server.start(listening)
        try:
            on_ready()
            return await signals.get()
        finally:
            await server.stop()

    if asyncio.run(serve()) == signal.SIGINT:
        raise KeyboardInterrupt
