"""Computes answers, as many at a time as the backend can. The other clients wait in a queue.

A generation runs in a task of its own, so a client that reads slowly does not hold back the
backend. When a client disconnects or takes too long, its task is cancelled, which closes the
connection to the backend and frees the slot.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from antimatter.errors import UserError
from antimatter.llama.client import BackendError
from antimatter.serve import prompt
from antimatter.serve.backend import Backend, Finish
from antimatter.serve.http import api
from antimatter.serve.http.api import APIError
from antimatter.serve.prompt import Prompt

# Each thread of llama.cpp that counts the tokens of a large text keeps its memory
_COUNTS = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    body: int = 1_000_000  # bytes of a request
    waiting: int = 128  # clients in the queue
    connections: int = 512  # half of the files that a process may usually open
    # For a request to arrive, for its tokens to be counted, and until an idle connection is closed
    request_seconds: float = 30
    answer_seconds: float = 600  # from a client's turn to the last byte of its answer
    stalled_seconds: float = 30  # in which a client reads nothing
    comment_seconds: float = 1  # between two signs of life for a client that waits
    stop_seconds: float = 2  # for open connections, when the server stops


@dataclass(frozen=True)
class Queued:
    ahead: int  # clients; 0 while the backend reads the prompt


@dataclass(frozen=True)
class Started:
    dropped_turns: int  # messages that did not fit


class Slots:
    """`count` clients at a time have a slot. Up to `max_waiting` others get one in the order in
    which they came.
    """

    def __init__(self, count: int, max_waiting: int) -> None:
        self._free, self._max_waiting = count, max_waiting
        self._waiting: deque[asyncio.Future[None]] = deque()

    def request(self) -> asyncio.Future[None]:
        """A slot, done when it is granted. It must be released, then or earlier."""
        slot = asyncio.get_running_loop().create_future()
        if self._free:
            self._free -= 1
            slot.set_result(None)
        elif len(self._waiting) < self._max_waiting:
            self._waiting.append(slot)
        else:
            message = f"{self._max_waiting} clients are waiting already: try again later"
            raise APIError(503, message, "overloaded_error", Retry_After="5")
        return slot

    def position(self, slot: asyncio.Future[None]) -> int:
        """The number of clients ahead, with the one that is answered now."""
        return self._waiting.index(slot) + 1

    def release(self, slot: asyncio.Future[None]) -> None:
        if not slot.done():
            self._waiting.remove(slot)
        elif self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1


class Answers:
    def __init__(self, backend: Backend, parallel: int, limits: Limits) -> None:
        self._backend, self._limits = backend, limits
        self._slots = Slots(parallel, limits.waiting)
        self._counts = asyncio.Semaphore(_COUNTS)

    async def stream(
        self, request: api.Request, deadline: asyncio.Timeout
    ) -> AsyncGenerator[Queued | Started | str | Finish, None]:
        """What happens until the answer is finished. Closing the iterator ends the generation.

        Args:
            deadline: set when the client's turn comes.

        Raises:
            APIError: the queue is full, or the request does not fit the model.
            BackendError: the backend refused the request, or ended the answer early.
        """
        slot = self._slots.request()
        generation: asyncio.Task[None] | None = None
        try:
            built = await self._build(request)
            while not slot.done():
                await asyncio.wait({slot}, timeout=self._limits.comment_seconds)
                if not slot.done():
                    yield Queued(self._slots.position(slot))
            loop = asyncio.get_running_loop()
            deadline.reschedule(loop.time() + self._limits.answer_seconds)
            parts: asyncio.Queue[str | Finish | Exception] = asyncio.Queue()
            generation = asyncio.create_task(self._generate(built, parts))
            # The slot is free when the generation ends, however slowly the client reads
            generation.add_done_callback(lambda _: self._slots.release(slot))
            is_started = False
            while True:
                try:
                    async with asyncio.timeout(self._limits.comment_seconds):
                        text, end = await _next(parts)
                except TimeoutError:
                    if not is_started:
                        yield Queued(0)
                    continue
                if not is_started:
                    # Before anything is sent, an error is a plain response
                    if isinstance(end, Exception):
                        raise end
                    is_started = True
                    yield Started(len(request.messages) - len(built.messages))
                if text:
                    yield text
                if isinstance(end, Exception):
                    raise end
                if end:
                    yield end
                    return
        finally:
            if generation:
                generation.cancel()
            else:
                self._slots.release(slot)

    async def _build(self, request: api.Request) -> Prompt:
        """The prompt. Counting its tokens may take a while."""
        try:
            async with asyncio.timeout(self._limits.request_seconds), self._counts:
                return await prompt.build(
                    self._backend,
                    request.messages,
                    request.generation,
                    continues=not request.is_chat,
                )
        except TimeoutError:
            raise BackendError(
                "the tokens of the prompt could not be counted in time: is the machine busy?"
            ) from None
        except BackendError:
            raise
        except UserError as error:
            raise APIError(400, str(error)) from None

    async def _generate(
        self, built: Prompt, parts: "asyncio.Queue[str | Finish | Exception]"
    ) -> None:
        try:
            async with aclosing(self._backend.stream(built.text, built.generation)) as stream:
                async for part in stream:
                    parts.put_nowait(part)
        except Exception as error:
            parts.put_nowait(error)


async def _next(
    parts: "asyncio.Queue[str | Finish | Exception]",
) -> tuple[str, Finish | Exception | None]:
    """All text that has arrived, as one piece, so that a busy server writes less often; and the
    end, if it has arrived too.
    """
    part, pieces = await parts.get(), list[str]()
    while isinstance(part, str):
        pieces.append(part)
        if parts.empty():
            return "".join(pieces), None
        part = parts.get_nowait()
    return "".join(pieces), part
