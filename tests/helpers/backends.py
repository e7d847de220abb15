"""Backends for tests: one that a test scripts, and synchronous calls to the real ones."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts
from antimatter.serve.backend import Backend, Finish, Generation, ModelFile

T = TypeVar("T")
CONFIG = OllamaConfig(
    name="antimatter",
    type="f16",
    temperature=0.0,
    top_p=0.9,
    top_k=40,
    repeat_penalty=1.0,
    num_ctx=2048,
    num_predict=20,
    stop=("[EOS]",),
    system="",
)
GENERATION = Generation.of(CONFIG)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it in a thread, because Playwright's event loop may be running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def count(backend: Backend, text: str) -> int:
    return run(backend.count(text))


def pieces(backend: Backend, prompt: str, generation: Generation = GENERATION) -> list[str]:
    return run(_read(backend, prompt, generation))[0]


def complete(
    backend: Backend, prompt: str, generation: Generation = GENERATION
) -> tuple[str, Finish]:
    """The whole answer, and how it ended."""
    texts, finish = run(_read(backend, prompt, generation))
    return "".join(texts), finish


async def _read(backend: Backend, prompt: str, generation: Generation) -> tuple[list[str], Finish]:
    async with aclosing(backend.stream(prompt, generation)) as stream:
        *texts, finish = [part async for part in stream]
    assert isinstance(finish, Finish)
    return [text for text in texts if isinstance(text, str)], finish


@dataclass
class ScriptedBackend:
    """Says `piece` `repeats` times. One word is one token."""

    piece: str = "x"
    repeats: int = 1_000_000
    pause: float = 0.02  # seconds before each piece
    failure: Exception | None = None  # raised after `fails_after` pieces
    fails_after: int = 0
    chat: ChatFacts | None = None
    n_ctx: int = 100
    description: str = "scripted"
    # Prompts: of all requests, of those that have ended, and of those in progress
    prompts: list[str] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)  # of all requests
    ended: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)

    async def check(self) -> None:
        if self.failure:
            raise self.failure

    async def count(self, text: str) -> int:
        return len(text.split()) + 1

    async def stream(
        self, prompt: str, generation: Generation
    ) -> AsyncGenerator[str | Finish, None]:
        self.prompts.append(prompt)
        self.generations.append(generation)
        self.running.append(prompt)
        try:
            for i in range(self.repeats):
                await asyncio.sleep(self.pause)
                if self.failure and i == self.fails_after:
                    raise self.failure
                yield self.piece
            yield Finish("stop", await self.count(prompt), self.repeats, 10.0)
        finally:
            self.running.remove(prompt)
            self.ended.append(prompt)

    async def file(self) -> ModelFile:
        keys = {"general.architecture": "mpt", "general.file_type": 1, "list": [1, 2]}
        return ModelFile(1000, "0" * 64, "2026-01-01T00:00:00+00:00", keys, 2_500_000)

    def close(self) -> None: ...
