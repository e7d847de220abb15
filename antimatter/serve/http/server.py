"""The HTTP server of `antimatter serve`: the chat page, and OpenAI's API, over one engine.

/v1/chat/completions renders the roles of a model that was tuned to chat, and puts its system text
first unless the request brings a system message; an empty one stands for none. Of a base model it
continues the texts of the messages. /v1/completions continues a text, whatever the model.

An engine's answer is a generator that blocks, so it runs in a thread; the event loop hands its pieces on. As many answers as the engine computes at a
time have a thread, the others wait in the order in which they came. A client that leaves, reads no more, or takes too long gives its place back at
once, since its thread is woken by hanging up (antimatter.llama.client.Hangup).
"""

import asyncio
import contextlib
import errno
import json
import os
import secrets
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.client import Hangup
from antimatter.serve import prompt
from antimatter.serve.backend import Engine, Finish
from antimatter.serve.http import access, api
from antimatter.serve.terminal import chat

PAGE = Path(__file__).with_name("page.html")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    body: int = 1_000_000  # bytes of a request
    waiting: int = 128  # clients, besides those that are being answered
    connections: int = 512  # half of the files that a process may usually open
    # For a request to arrive, for its tokens to be counted, and until an idle connection is closed
    request_seconds: float = 30
    answer_seconds: float = 600  # from a client's turn to the last byte of its answer
    stalled_seconds: float = 30  # in which a client reads nothing
    comment_seconds: float = 1  # between two signs of life to a client that waits
    stop_seconds: float = 2  # for open connections, when the server stops


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    parallel: int  # answers at a time
    token: str | None = None  # that requests must carry
    allowed_hosts: frozenset[str] = frozenset()  # further names in Host and Origin, in lower case
    limits: Limits = field(default_factory=Limits)


class Refusal(Exception):
    """An answer that is an error: a status, and one line for people."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", **headers: str
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind}}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Waiting:
    before: int  # clients; none while the engine reads the prompt


@dataclass(frozen=True)
class Begun:
    dropped: int  # messages that no longer fitted


class Server:
    """Made and used inside of a running event loop.

    Args:
        defaults: of everything that a request may leave out, and the name of the model.
        say: takes a line for the operator.
    """

    def __init__(
        self,
        engine: Engine,
        defaults: OllamaConfig,
        config: ServerConfig,
        say: Callable[[str], None],
    ) -> None:
        page = PAGE.read_text(encoding="utf-8")
        self._engine, self._defaults, self._config, self._limits, self._say = (
            engine,
            defaults,
            config,
            config.limits,
            say,
        )
        self._page = page.encode()
        self._headers = access.security_headers(page)
        self._loop = asyncio.get_running_loop()
        self._turns = _Turns(config.parallel, self._limits.waiting)
        self._answers = ThreadPoolExecutor(config.parallel, "answer")
        self._counts = ThreadPoolExecutor(2, "count")
        self._checks = ThreadPoolExecutor(1, "check")
        self._check: asyncio.Future[None] | None = None
        self._under_way: set[Hangup] = set()
        self._stopping = self._loop.create_future()
        self._runner = web.ServerRunner(
            _Listener(self.handle, self._limits, self._json),
            shutdown_timeout=self._limits.stop_seconds,
        )
        self._routes: dict[
            str, dict[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]
        ] = {
            "/": {"GET": self._chat_page},
            "/favicon.ico": {"GET": self._no_icon},
            "/health": {"GET": self._health},
            "/v1/models": {"GET": self._models},
            "/v1/chat/completions": {"POST": partial(self._complete, is_chat=True)},
            "/v1/completions": {"POST": partial(self._complete, is_chat=False)},
        }

    async def start(self, listening: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, listening, backlog=1024).start()

    async def stop(self) -> None:
        """Ends open answers with an error, and returns when no thread of ours runs any more."""
        self._stopping.set_result(None)
        for hangup in list(self._under_way):
            hangup.give_up()
        await self._runner.cleanup()
        for executor in (self._answers, self._counts, self._checks):
            await asyncio.to_thread(executor.shutdown, cancel_futures=True)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._respond(request)
        except ConnectionResetError:  # the client's own; an engine's is a plain ConnectionError
            raise
        except Exception as error:
            refusal = self._refusal(error)
            response = self._json(refusal.status, refusal.body, **refusal.headers)
        await self._patiently(request, response.prepare(request))
        await self._patiently(request, response.write_eof())
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if why := access.refusal(
            request.headers.getall("Host", []),
            request.headers.getall("Origin", []),
            self._config.allowed_hosts,
        ):
            raise Refusal(403, why)
        path, method = request.rel_url.raw_path, request.method
        if (
            path.startswith("/v1/")
            and self._config.token
            and not access.is_authorised(
                request.headers.getall("Authorization", []), self._config.token
            )
        ):
            raise Refusal(
                401,
                "this needs the header `Authorization: Bearer` with the server's token",
                "authentication_error",
                WWW_Authenticate="Bearer",
            )
        if path not in self._routes or request.rel_url.absolute:
            raise Refusal(404, f"there is nothing at {path[:80]!a}")
        methods = self._routes[path]
        respond = methods.get("GET" if method == "HEAD" else method)
        if respond is None:
            raise Refusal(
                405,
                f"{path} takes {' or '.join(methods)}, not {method[:20]!a}",
                Allow=", ".join(methods),
            )
        return await respond(request)

    async def _chat_page(self, _: web.BaseRequest) -> web.Response:
        return web.Response(
            body=self._page, content_type="text/html", charset="utf-8", headers=self._headers
        )

    async def _no_icon(self, _: web.BaseRequest) -> web.Response:
        return web.Response(status=204, headers=self._headers)

    async def _health(self, _: web.BaseRequest) -> web.Response:
        if self._check is None or self._check.done():  # one look serves all who ask meanwhile
            self._check = self._loop.run_in_executor(self._checks, self._engine.check)
        # The next to ask may put a new look in its place before this one goes on
        check = self._check
        await asyncio.wait({check})
        check.result()
        return self._json(200, {"status": "ok"})

    async def _models(self, _: web.BaseRequest) -> web.Response:
        engine = self._engine
        told = api.models(self._defaults, engine.description, engine.n_ctx, engine.chat)
        return self._json(200, told)

    async def _complete(self, request: web.BaseRequest, is_chat: bool) -> web.StreamResponse:
        body = await self._body(request)
        try:
            asked = api.parse(body, is_chat, self._defaults)
        except LookupError as error:
            raise Refusal(404, str(error)) from None
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        del body
        if asked.chat:
            asked = replace(asked, messages=prompt.prepare(asked.messages, self._engine.chat))
        if asked.stream:
            return await self._stream(request, asked)
        said: list[str] = []
        answer = api.Answer.begin(asked, self._defaults.name)
        async with aclosing(self._answer(asked)) as parts:
            async for part in parts:
                match part:
                    case Begun(dropped):
                        answer.dropped = dropped
                    case str(text):
                        said.append(text)
                    case Finish():
                        return self._json(200, answer.whole("".join(said), part))
        raise AssertionError("an answer ends with how it ended")

    async def _body(self, request: web.BaseRequest) -> bytes:
        if (
            request.content_type != "application/json"
            or (request.charset or "utf-8").lower() != "utf-8"
            or "Content-Encoding" in request.headers
        ):
            raise Refusal(
                415,
                "the request must have the header `Content-Type: application/json`, and be neither compressed nor in another character set",
            )
        body, most = bytearray(), self._limits.body
        fits = (request.content_length or 0) <= most
        if (
            fits
            and request.headers.get("Expect", "").lower() == "100-continue"
            and request.transport is not None
        ):
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # curl waits a second for it
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                while fits and len(body) <= most and (chunk := await request.content.readany()):
                    body += chunk
        except TimeoutError:
            raise Refusal(
                408, f"the request did not arrive within {self._limits.request_seconds:g} seconds"
            ) from None
        except (web.RequestPayloadError, HttpProcessingError):
            raise Refusal(400, "the body is not what the request's headers say") from None
        if not fits or len(body) > most:
            raise Refusal(413, f"the body has more than {most:,} bytes")
        return bytes(body)

    async def _stream(self, request: web.BaseRequest, asked: api.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                **self._headers,
                "Content-Type": "text/event-stream; charset=utf-8",
                "X-Accel-Buffering": "no",
            }
        )
        answer = api.Answer.begin(asked, self._defaults.name)

        async def write(event: str) -> None:
            # Not before there is something to say: an engine that fails at once is a plain error
            if not response.prepared:
                await self._patiently(request, response.prepare(request))
            await self._patiently(request, response.write(f"{event}\n\n".encode()))

        try:
            async with aclosing(self._answer(asked)) as parts:
                async for part in parts:
                    match part:
                        case Waiting(before):
                            await write(
                                f": waiting, {before} before you"
                                if before
                                else ": reading the prompt"
                            )
                        case Begun(dropped):
                            answer.dropped = dropped
                            await write(_data(answer.first()))
                        case str(text):
                            await write(_data(answer.piece(text)))
                        case Finish():
                            await write(_data(answer.last(part)))
                            await write("data: [DONE]")
        except ConnectionResetError:
            raise
        except Exception as error:
            if not response.prepared:
                raise
            await write(_data(self._refusal(error).body))
        return response

    async def _answer(
        self, asked: api.Request
    ) -> AsyncGenerator[Waiting | Begun | str | Finish, None]:
        """Waits for its turn, and gives the answer. Closed early, or cancelled, it ends the generation."""
        limits, messages, hangup = self._limits, list(asked.messages), Hangup()
        turn = self._turns.ask()
        thread: asyncio.Future[None] | None = None
        self._under_way.add(hangup)
        try:
            engine = self._engine.until(hangup)
            try:
                async with asyncio.timeout(limits.request_seconds):
                    ask = partial(
                        chat.answer,
                        engine,
                        messages,
                        asked.config,
                        asked.seed,
                        continues=not asked.chat,
                    )
                    stream = await self._loop.run_in_executor(self._counts, ask)
            except TimeoutError:
                raise ConnectionError(
                    f"{engine.name} does not count the tokens of the prompt: is it busy with something else?"
                ) from None
            except ValueError as error:
                raise Refusal(400, str(error)) from None
            while not turn.done():
                await asyncio.wait(
                    {turn, self._stopping},
                    timeout=limits.comment_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if self._stopping.done():
                    raise ConnectionError
                if not turn.done():
                    yield Waiting(self._turns.before(turn))
            deadline = self._loop.time() + limits.answer_seconds
            parts: asyncio.Queue[str | Finish | Exception] = asyncio.Queue()
            thread = self._loop.run_in_executor(
                self._answers,
                _pour,
                stream,
                lambda part: self._loop.call_soon_threadsafe(parts.put_nowait, part),
            )
            thread.add_done_callback(lambda _: self._turns.give_back(turn))
            begun = False
            while True:
                now = self._loop.time()
                if now > deadline:
                    raise Refusal(
                        503,
                        f"the answer was not ready within {limits.answer_seconds:g} seconds: ask for fewer tokens",
                        "server_error",
                    )
                try:
                    async with asyncio.timeout_at(min(deadline, now + limits.comment_seconds)):
                        text, end = await _next(parts)
                except TimeoutError:
                    if not begun:
                        yield Waiting(0)
                    continue
                if isinstance(end, Exception) and not begun:
                    raise end
                if not begun:
                    begun = True
                    yield Begun(len(asked.messages) - len(messages))
                if text:
                    yield text
                if isinstance(end, Exception):
                    raise end
                if end:
                    yield end
                    return
        finally:
            hangup.give_up()
            self._under_way.discard(hangup)
            if thread is None:
                self._turns.give_back(turn)

    async def _patiently(self, request: web.BaseRequest, writing: Awaitable[T]) -> T:
        """Raises ConnectionResetError if the client reads nothing for too long, and cuts the connection."""
        try:
            async with asyncio.timeout(self._limits.stalled_seconds):
                return await writing
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client reads no more") from None

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if self._stopping.done():
            return Refusal(503, "the server was stopped", "server_error")
        number = secrets.token_hex(4)
        self._say(f"request {number}: {type(error).__name__}: {' '.join(str(error).split())}")
        if isinstance(error, ConnectionError):
            return Refusal(503, str(error), "server_error", Retry_After="5")
        if os.environ.get("ANTIMATTER_TRACEBACK"):
            traceback.print_exception(error)
        return Refusal(
            500,
            f"something went wrong inside of the server; its own output has more, under request {number}",
            "server_error",
        )

    def _json(self, status: int, value: Any, **headers: str) -> web.Response:
        return web.Response(
            status=status,
            body=_dumps(value).encode(),
            content_type="application/json",
            headers=self._headers | headers,
        )


class _Turns:
    """At most `places` at a time; up to `most` others wait, and come in the order in which they asked."""

    def __init__(self, places: int, most: int) -> None:
        self._free, self._most = places, most
        self._waiting: deque[asyncio.Future[None]] = deque()

    def ask(self) -> asyncio.Future[None]:
        """Done when it is one's turn. Must be given back, then or before."""
        turn = asyncio.get_running_loop().create_future()
        if self._free:
            self._free -= 1
            turn.set_result(None)
        elif len(self._waiting) < self._most:
            self._waiting.append(turn)
        else:
            raise Refusal(
                503,
                f"{self._most} clients are waiting already: try again in a while",
                "overloaded_error",
                Retry_After="5",
            )
        return turn

    def before(self, turn: asyncio.Future[None]) -> int:
        return self._waiting.index(turn) + 1  # with the one who is answered now

    def give_back(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            self._waiting.remove(turn)
        elif self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1


class _Listener(web.Server):
    def __init__(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        limits: Limits,
        error: Callable[..., web.Response],
    ) -> None:
        # A client that leaves ends what is done for it
        super().__init__(handle, handler_cancellation=True)
        self._limits, self._error = limits, error

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            self._error,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._limits.request_seconds,  # also bounds the time for the headers
            # Seconds to swallow a refused body: cut off at once, a client would not see why
            lingering_time=1.0,
            auto_decompress=False,  # a body of some kilobytes may unpack to gigabytes
            access_log=None,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        # So that a finished answer is in the kernel, and a closed connection waits for nobody
        transport.set_write_buffer_limits(0)
        if len(self.connections) > self._limits.connections:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
            )
            transport.close()


class _Connection(RequestHandler):
    """aiohttp's, but what is no HTTP is answered in our words."""

    def __init__(
        self, manager: _Listener, error: Callable[..., web.Response], **arguments: Any
    ) -> None:
        super().__init__(manager, **arguments)
        self._error = error

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size:
            raise ConnectionResetError("the client is gone")
        line = ascii((message or "").splitlines()[0][:100]) if message else "no HTTP"
        response = self._error(status, Refusal(status, f"the request cannot be read: {line}").body)
        response.force_close()
        return response


def _pour(
    stream: Generator[str, None, Finish], put: Callable[[str | Finish | Exception], Any]
) -> None:
    """In a thread: every piece, then how it ended."""
    with contextlib.closing(stream):
        try:
            while True:
                put(next(stream))
        except StopIteration as end:
            put(end.value)
        except Exception as error:
            put(error)


async def _next(
    parts: asyncio.Queue[str | Finish | Exception],
) -> tuple[str, Finish | Exception | None]:
    """The text that has come meanwhile, as one piece, so that a busy server writes less often; and the end, if it has come too."""
    part, said = await parts.get(), []
    while isinstance(part, str):
        said.append(part)
        if parts.empty():
            return "".join(said), None
        part = parts.get_nowait()
    return "".join(said), part


def _data(value: Any) -> str:
    return f"data: {_dumps(value)}"


def _dumps(value: Any) -> str:
    return (
        json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        .encode("utf-8", "replace")
        .decode()
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; who connects before the server starts, waits.

    Raises:
        OSError, ValueError: one line that says what else to try.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must lie in [0, 65535], got {port}: 0 finds a free one")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise OSError(
            f"--host {host} is not known: 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in"
        ) from None
    family, kind, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listening = socket.socket(family, kind)
    try:
        # A port that was in use a minute ago
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port {port} is taken: end what listens there, or use `--port 0` for a free one"
            ) from None
        if error.errno == errno.EACCES:
            raise PermissionError(
                f"port {port} is not for everybody: use one above 1023, or `--port 0` for a free one"
            ) from None
        raise OSError(
            f"--host {host} is no address of this machine ({error.strerror}): 127.0.0.1 always is"
        ) from None
    return listening


def url(listening: socket.socket, token: str | None) -> str:
    """Where a browser on this machine finds the page."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    secret = f"#token={quote(token, safe='')}" if token else ""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{secret}"


def run(
    engine: Engine,
    defaults: OllamaConfig,
    config: ServerConfig,
    listening: socket.socket,
    ready: Callable[[], None],
) -> None:
    """Serves until SIGTERM. Raises KeyboardInterrupt after Ctrl-C. `ready` is called once it serves."""

    async def serve() -> signal.Signals:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[signal.Signals] = loop.create_future()
        server = Server(
            engine, defaults, config, lambda line: print(line, file=sys.stderr, flush=True)
        )

        def tell(number: signal.Signals) -> None:
            if not told.done():
                told.set_result(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tell, number)
        try:
            await server.start(listening)
            ready()
            return await told
        finally:
            await server.stop()

    if asyncio.run(serve()) == signal.SIGINT:
        raise KeyboardInterrupt
