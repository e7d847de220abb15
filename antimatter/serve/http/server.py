"""The HTTP server of `antimatter serve`: the chat page, OpenAI's API and Ollama's, in front of one
backend.

A chat, by /v1/chat/completions, /api/chat or /api/generate, renders the roles of a model that was
tuned to chat, and puts its system text first unless the request brings a system message; an empty
one means none. With a base model it continues the texts of the messages. /v1/completions continues
a text, whatever the model, and /api/generate in raw mode leaves it unchanged.

The access rules, the form of errors and the time limit for writing are middleware, so they hold for
every request that aiohttp can parse, whatever its route. Bytes that are not HTTP get a 400 in plain
text from aiohttp itself, without the security headers and with its version in `Server`: it has no
public way to replace that response. The same holds for an unknown `Expect` at an unknown path.
"""

import asyncio
import logging
import os
import secrets
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any, TypeVar

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler

from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.client import BackendError
from antimatter.serve import prompt
from antimatter.serve.backend import Backend
from antimatter.serve.http import access, ollama, openai, values
from antimatter.serve.http.answers import Answers, Event, Limits
from antimatter.serve.http.errors import APIError
from antimatter.serve.http.question import Question
from antimatter.serve.ollama import install

PAGE = Path(__file__).with_name("page.html")
T = TypeVar("T")
Reply = openai.Reply | ollama.Reply
Parse = Callable[[bytes, OllamaConfig], tuple[Question, Reply]]
_OLLAMA = "/api/"  # where its routes are
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    parallel: int  # answers at a time
    token: str | None = None  # that requests must have
    allowed_hosts: frozenset[str] = frozenset()  # further names in Host and Origin, in lower case
    limits: Limits = field(default_factory=Limits)


class Server:
    """Create and use it inside a running event loop.

    Args:
        defaults: for the options that a request leaves out, and the name of the model.
        log: takes a line for the operator.
    """

    def __init__(
        self,
        backend: Backend,
        defaults: OllamaConfig,
        config: ServerConfig,
        log: Callable[[str], None],
    ) -> None:
        page = PAGE.read_text(encoding="utf-8")
        self._backend, self._defaults, self._config = backend, defaults, config
        self._limits, self._log = config.limits, log
        self._page = page.encode()
        self._headers = access.security_headers(page)
        self._answers = Answers(backend, config.parallel, config.limits)
        self._deadlines: set[asyncio.Timeout] = set()
        self._is_stopping = False
        app = web.Application(middlewares=[self._respond], client_max_size=config.limits.body)
        app.add_routes(self._routes())
        app.on_response_prepare.append(self._add_headers)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            # Silent: a client that sends nonsense must not fill the operator's terminal
            logger=logging.Logger(__name__, logging.CRITICAL),
            # When a client disconnects, its handler is cancelled
            handler_cancellation=True,
            # Also limits the time for the headers of a request
            keepalive_timeout=self._limits.request_seconds,
            # Seconds to read on after a refused body: a client that is cut off while it sends would
            # not see why
            lingering_time=1.0,
            # A body of some kilobytes may unpack to gigabytes
            auto_decompress=False,
            shutdown_timeout=self._limits.stop_seconds,
        )

    def _routes(self) -> list[web.RouteDef]:
        answer, route = self._answer, partial(web.route, expect_handler=self._expect)
        get, post = partial(web.get, expect_handler=self._expect), partial(route, "POST")
        return [
            get("/", self._chat_page),
            get("/favicon.ico", self._no_icon),
            get("/health", self._health),
            get("/v1/models", self._models),
            get("/v1/models/{id}", self._model),
            post("/v1/chat/completions", partial(answer, parse=openai.parse_chat)),
            post("/v1/completions", partial(answer, parse=openai.parse_completion)),
            post("/api/chat", partial(answer, parse=ollama.parse_chat)),
            post("/api/generate", partial(answer, parse=ollama.parse_generate)),
            post("/api/show", self._show),
            get("/api/tags", self._tags),
            get("/api/ps", self._running),
            get("/api/version", self._version),
            *(route("*", path, self._unsupported) for path in ollama.UNSUPPORTED),
        ]

    async def start(self, listening: socket) -> None:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connect, sock=listening, backlog=1024)

    async def stop(self) -> None:
        """Ends the open answers with an error."""
        self._is_stopping = True
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(0)
        self._listener.close()
        await self._runner.cleanup()

    def _connect(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server
        return server() if len(server.connections) < self._limits.connections else _Busy()

    @web.middleware
    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.transport:
            # A write is then complete when the kernel has it, so it can be limited in time
            request.transport.set_write_buffer_limits(0)
        try:
            try:
                self._check_access(request)
                response = await handler(request)
            except ConnectionResetError:
                raise
            except Exception as error:
                failure = self._api_error(request, error)
                is_ollama = request.path.startswith(_OLLAMA)
                body = failure.ollama() if is_ollama else failure.openai()
                response = _json_response(body, failure.status, failure.headers)
            await self._send(request, response.prepare(request))
            await self._send(request, response.write_eof())
        except ConnectionResetError:
            # The client has gone. aiohttp notices it when it sends this
            return web.Response()
        return response

    async def _add_headers(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._headers)

    def _check_access(self, request: web.Request) -> None:
        hosts, origins = (request.headers.getall(name, []) for name in ("Host", "Origin"))
        try:
            access.check_origin(hosts, origins, self._config.allowed_hosts)
        except UserError as error:
            raise APIError(403, str(error)) from None
        token, given = self._config.token, request.headers.getall("Authorization", [])
        is_api = request.path.startswith(("/v1/", _OLLAMA))
        if token and is_api and not access.is_authorised(given, token):
            raise APIError(
                401,
                "this needs the header `Authorization: Bearer` with the server's token",
                "authentication_error",
                code="invalid_api_key",
                WWW_Authenticate="Bearer",
            )
        expected = request.headers.get("Expect", "100-continue")
        if request.version == HttpVersion11 and expected.lower() != "100-continue":
            message = f"the header Expect may be 100-continue, got {expected[:20]!a}"
            raise APIError(417, message)

    async def _expect(self, request: web.Request) -> None:
        """Tells a client that waits for it to send its body. aiohttp itself would answer another
        expectation in plain text, before the rules for access.
        """
        is_known = request.headers.get("Expect", "").lower() == "100-continue"
        if request.version == HttpVersion11 and is_known:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # What counts as sent is the response
            request.writer.output_size = 0

    async def _chat_page(self, _: web.Request) -> web.Response:
        return web.Response(body=self._page, content_type="text/html", charset="utf-8")

    async def _no_icon(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _health(self, _: web.Request) -> web.Response:
        await self._backend.check()
        return _json_response({"status": "ok"})

    async def _models(self, _: web.Request) -> web.Response:
        return _json_response({"object": "list", "data": [self._described()]})

    async def _model(self, request: web.Request) -> web.Response:
        openai.check_model(request.match_info["id"], self._defaults)
        return _json_response(self._described())

    def _described(self) -> dict[str, Any]:
        backend = self._backend
        return openai.model(self._defaults, backend.description, backend.n_ctx, backend.chat)

    async def _show(self, request: web.Request) -> web.Response:
        verbose = ollama.parse_show(await self._read(request), self._defaults)
        file, backend = await self._backend.file(), self._backend
        shown = ollama.show(self._defaults, file, backend.chat, backend.n_ctx, verbose)
        return _json_response(shown)

    async def _tags(self, _: web.Request) -> web.Response:
        return _json_response(ollama.tags(self._defaults, await self._backend.file()))

    async def _running(self, _: web.Request) -> web.Response:
        file = await self._backend.file()
        return _json_response(ollama.running(self._defaults, file, self._backend.n_ctx))

    async def _version(self, _: web.Request) -> web.Response:
        return _json_response({"version": install.VERSION})

    async def _unsupported(self, request: web.Request) -> web.Response:
        raise APIError(501, f"{request.path[:80]} is not supported: this server has one model")

    async def _answer(self, request: web.Request, parse: Parse) -> web.StreamResponse:
        question, reply = parse(await self._read(request), self._defaults)
        if question.style == "chat":
            prepared = [prompt.prepare(some, self._backend.chat) for some in question.prompts]
            question = replace(question, prompts=prepared)
        if question.stream and question.prompts:
            return await self._stream(request, question, reply)
        if question.prompts:
            async with self._events(question) as events:
                async for event in events:
                    reply.add(event)
        return _json_response(reply.whole())

    async def _read(self, request: web.Request) -> bytes:
        is_ollama, kind = request.path.startswith(_OLLAMA), request.content_type
        try:
            access.check_content_type(request.headers, kind, request.charset, any_type=is_ollama)
        except UserError as error:
            raise APIError(415, str(error)) from None
        # Before it has arrived
        if (request.content_length or 0) > self._limits.body:
            raise web.HTTPRequestEntityTooLarge(self._limits.body)
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                return await request.read()
        except TimeoutError:
            seconds = f"{self._limits.request_seconds:g} seconds"
            raise APIError(408, f"the request did not arrive within {seconds}") from None
        except web.RequestPayloadError:
            raise APIError(400, "the body is not what the request's headers say") from None

    async def _stream(
        self, request: web.Request, question: Question, reply: Reply
    ) -> web.StreamResponse:
        headers = {"Content-Type": reply.content_type, "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)

        async def write(text: str) -> None:
            # Not earlier: an error before the first event is a plain response
            if not response.prepared:
                await self._send(request, response.prepare(request))
            await self._send(request, response.write(text.encode()))

        try:
            async with self._events(question) as events:
                async for event in events:
                    for text in reply.chunks(event):
                        await write(text)
        except ConnectionResetError:
            raise
        except Exception as error:
            if not response.prepared:
                raise
            await write(reply.failure(self._api_error(request, error)))
        return response

    @asynccontextmanager
    async def _events(self, question: Question) -> AsyncIterator[AsyncGenerator[Event, None]]:
        """The events of an answer. Ends the block with an error when the answer takes too long, and
        when the server stops.
        """
        try:
            async with asyncio.timeout(None) as deadline:
                self._deadlines.add(deadline)
                async with aclosing(self._answers.stream(question, deadline)) as events:
                    yield events
        except TimeoutError:
            seconds = f"{self._limits.answer_seconds:g} seconds"
            message = f"the answer was not ready within {seconds}: ask for fewer tokens"
            if self._is_stopping:
                message = "the server was stopped"
            raise APIError(503, message, "server_error") from None
        finally:
            self._deadlines.discard(deadline)

    async def _send(self, request: web.Request, writing: Awaitable[T]) -> T:
        """Cuts the connection if the client reads nothing for too long.

        Raises:
            ConnectionResetError: this client is gone.
        """
        try:
            async with asyncio.timeout(self._limits.stalled_seconds):
                return await writing
        except TimeoutError:
            if request.transport:
                request.transport.abort()
            raise ConnectionResetError("the client does not read") from None

    def _api_error(self, request: web.Request, error: Exception) -> APIError:
        """An error as the client sees it. Those that the client cannot avoid are logged."""
        match error:
            case APIError():
                return error
            case web.HTTPNotFound():
                return APIError(404, f"there is nothing at {request.path[:80]!a}")
            case web.HTTPMethodNotAllowed():
                allowed = ", ".join(sorted(error.allowed_methods))
                message = f"{request.path} takes {allowed}, not {request.method[:20]!a}"
                return APIError(405, message, Allow=allowed)
            case web.HTTPRequestEntityTooLarge():
                return APIError(413, f"the body has more than {self._limits.body:,} bytes")
        number = secrets.token_hex(4)
        self._log(f"request {number}: {type(error).__name__}: {' '.join(str(error).split())}")
        if isinstance(error, BackendError):
            return APIError(503, str(error), "server_error", Retry_After="5")
        if os.environ.get("ANTIMATTER_TRACEBACK"):
            traceback.print_exception(error)
        message = f"the server failed; its own output has more, under request {number}"
        return APIError(500, message, "server_error")


class _Busy(asyncio.Protocol):
    """Answers a connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_BUSY)
        transport.close()


def _json_response(
    value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    body = values.dumps(value).encode()
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
