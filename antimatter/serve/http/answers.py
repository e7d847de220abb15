"""Computes answers, as many at a time as the backend can. The other clients wait in a queue.

A client has one slot, also if it asks for several answers, which are computed one after another.

A generation runs in a task of its own, so a client that reads slowly does not hold back the
backend. When a client disconnects or takes too long, its task is cancelled, which closes the
connection to the backend and frees the slot.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import groupby

from antimatter.chat import template
from antimatter.errors import UserError
from antimatter.llama.client import BackendError
from antimatter.serve import prompt
from antimatter.serve.backend import Backend, Finish, Generation
from antimatter.serve.http.errors import APIError
from antimatter.serve.http.question import Question
from antimatter.serve.prompt import Render

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
    began: float  # time.monotonic() when the client's turn came


@dataclass(frozen=True)
class Part:
    choice: int  # which of the answers
    value: str | Finish


Event = Queued | Started | Part


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
        self, question: Question, deadline: asyncio.Timeout
    ) -> AsyncGenerator[Event, None]:
        """What happens until all answers are finished. Closing the iterator ends the generation.

        Args:
            deadline: set when the client's turn comes.

        Raises:
            APIError: the queue is full, or a prompt does not fit the model.
            BackendError: the backend refused the request, or ended an answer early.
        """
        slot = self._slots.request()
        generation: asyncio.Task[None] | None = None
        try:
            jobs, dropped = await self._build(question)
            while not slot.done():
                await asyncio.wait({slot}, timeout=self._limits.comment_seconds)
                if not slot.done():
                    yield Queued(self._slots.position(slot))
            loop, began = asyncio.get_running_loop(), time.monotonic()
            deadline.reschedule(loop.time() + self._limits.answer_seconds)
            parts: asyncio.Queue[Part | Exception] = asyncio.Queue()
            generation = asyncio.create_task(self._generate(jobs, parts))
            # The slot is free when the generation ends, however slowly the client reads
            generation.add_done_callback(lambda _: self._slots.release(slot))
            is_started, n_open = False, len(jobs)
            while n_open:
                try:
                    async with asyncio.timeout(self._limits.comment_seconds):
                        arrived = await _next(parts)
                except TimeoutError:
                    if not is_started:
                        yield Queued(0)
                    continue
                for part in arrived:
                    # Before anything is sent, an error is a plain response
                    if isinstance(part, Exception):
                        raise part
                    if not is_started:
                        is_started = True
                        yield Started(dropped, began)
                    n_open -= isinstance(part.value, Finish)
                    yield part
        finally:
            if generation:
                generation.cancel()
            else:
                self._slots.release(slot)

    async def _build(self, question: Question) -> tuple[list[tuple[str, Generation]], int]:
        """The prompt and the generation of each answer, and the number of messages that did not
        fit. Counting the tokens may take a while.

        Raises:
            APIError: a prompt is too long, or it is empty and the model was tuned to chat.
        """
        is_bare = any(not message.text for messages in question.prompts for message in messages)
        if question.style == "continued" and self._backend.chat and is_bare:
            # Tuning has no answer at the start of a text, where greedy decoding repeats [BOS]
            problem = "prompt is empty, and a chat model has no beginning of its own"
            raise APIError(400, f"{problem}: write the beginning of a text", param="prompt")
        jobs, dropped = list[tuple[str, Generation]](), 0
        renders: dict[str, Render | None] = {
            "chat": None,
            "continued": template.continued,
            "raw": lambda messages: messages[0].text,
        }
        try:
            async with asyncio.timeout(self._limits.request_seconds), self._counts:
                for messages in question.prompts:
                    built = await prompt.build(
                        self._backend,
                        messages,
                        question.generation,
                        render=renders[question.style],
                        n_ctx=question.n_ctx,
                    )
                    dropped += len(messages) - len(built.messages)
                    jobs += [
                        (built.text, replace(built.generation, seed=question.seed(i)))
                        for i in range(question.choices)
                    ]
        except TimeoutError:
            raise BackendError(
                "the tokens of the prompt could not be counted in time: is the machine busy?"
            ) from None
        except BackendError:
            raise
        except UserError as error:
            param = "messages" if question.style == "chat" else "prompt"
            code = "context_length_exceeded"
            raise APIError(400, str(error), param=param, code=code) from None
        return jobs, dropped

    async def _generate(
        self, jobs: Sequence[tuple[str, Generation]], parts: "asyncio.Queue[Part | Exception]"
    ) -> None:
        try:
            for choice, (text, generation) in enumerate(jobs):
                async with aclosing(self._backend.stream(text, generation)) as stream:
                    async for value in stream:
                        parts.put_nowait(Part(choice, value))
        except Exception as error:
            parts.put_nowait(error)


async def _next(parts: "asyncio.Queue[Part | Exception]") -> list[Part | Exception]:
    """What has arrived, with the text of an answer in one part, so that a busy server writes less
    often.
    """
    arrived = [await parts.get()]
    while not parts.empty():
        arrived.append(parts.get_nowait())
    joined = list[Part | Exception]()
    for choice, some in groupby(arrived, _choice_of_text):
        if choice is None:
            joined += some
        else:
            pieces = [str(part.value) for part in some if isinstance(part, Part)]
            joined.append(Part(choice, "".join(pieces)))
    return joined


def _choice_of_text(part: Part | Exception) -> int | None:
    return part.choice if isinstance(part, Part) and isinstance(part.value, str) else None
