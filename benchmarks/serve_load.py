"""A hundred clients at once, some slow, some that hang up: what does `antimatter serve` give, beside llama.cpp's own HTTP server?

    python benchmarks/serve_load.py [--clients 100] [--seconds 15] [--rounds 3] [--parallel 4] [--good] [--model models/gguf]

Of the clients 80% read as fast as they can, 10% read a little now and then, and 10% hang up in the middle of an answer; each asks again as soon as
its answer is over. With --good all read as fast as they can. Both servers compute --parallel answers at a time, with the same model, prompts and
options, and are asked in turn. Speed is that of the well-behaved clients, which share the machine's cores with the servers.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serve_fuzz import quiet, serving

from antimatter.export import ollama
from antimatter.llama.header import read_header
from antimatter.llama.server import Llama

TOKENS = 48
PROMPTS = [
    "The function returns",
    "Raises an error if the",
    "import numpy as np",
    "A list of",
    "This class",
    "Parameters",
    "See also",
    "If the array",
]
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1, "stream": True}


@dataclass
class Figures:
    answers: int = 0
    failed: int = 0
    tokens: int = 0
    first: list[float] = field(default_factory=list)  # seconds from the request to the first token
    seconds: float = 0.0

    def rows(self) -> str:
        p50, p95, p99 = (statistics.quantiles(self.first, n=100)[i] for i in (49, 94, 98))
        return (
            f"{self.answers / self.seconds:6.1f} answers/s {self.tokens / self.seconds:7.0f} tokens/s   "
            f"first token {p50:.2f} s, 95% {p95:.2f}, 99% {p99:.2f}   {self.failed} failed"
        )


@dataclass(frozen=True)
class Target:
    name: str
    port: int
    request: Callable[[str], bytes]
    is_text: Callable[[Any], bool]  # whether an event has a token
    count: Callable[[Any], int]  # tokens of the whole answer, in the last event; 0 before


async def answer(target: Target, prompt: str, manner: str, figures: Figures) -> None:
    begin, first, tokens = time.monotonic(), 0.0, 0
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=2**20)
    try:
        writer.write(target.request(prompt))
        pieces = 0
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if target.is_text(event):
                    pieces += 1
                    first = first or time.monotonic() - begin
                tokens = tokens or target.count(event)
                if manner == "slow":
                    await asyncio.sleep(0.2)
                if manner == "broken" and pieces == 3:
                    return
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    if manner == "good":
        figures.answers += 1
        figures.failed += not tokens
        figures.tokens += tokens
        figures.first += [first] if first else []


async def load(target: Target, clients: int, seconds: float, good: bool, figures: Figures) -> None:
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        manner = "good" if good else {8: "slow", 9: "broken"}.get(number % 10, "good")
        for turn in itertools.count(number):
            if time.monotonic() > end:
                return
            try:
                await answer(target, PROMPTS[turn % len(PROMPTS)], manner, figures)
            except OSError:
                figures.failed += 1

    begin = time.monotonic()
    await asyncio.gather(*(client(number) for number in range(clients)))
    figures.seconds += time.monotonic() - begin


def post(path: str, body: dict[str, Any], **headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Connection: close",
        f"Content-Length: {len(content)}",
    ]
    return (
        "\r\n".join(
            [*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        ).encode()
        + content
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--good", action="store_true")
    parser.add_argument("--model", type=Path, default=Path("models/gguf"))
    given = parser.parse_args()
    model = ollama.source_of(given.model, "f16") if given.model.is_dir() else given.model
    with ExitStack() as stack:
        port, process, _ = stack.enter_context(serving(model, "--parallel", str(given.parallel)))
        llama = stack.enter_context(
            Llama(model, read_header(model).context_length, parallel=given.parallel)
        )
        ours = Target(
            "antimatter serve",
            port,
            lambda prompt: post(
                "/v1/completions", {"prompt": prompt, "max_tokens": TOKENS, **SAMPLING}
            ),
            lambda event: bool(event["choices"][0]["text"]),
            lambda event: event.get("usage", {}).get("completion_tokens", 0),
        )
        peer = Target(
            "llama.cpp itself",
            urlsplit(llama._client.url).port or 0,
            lambda prompt: post(
                "/completion",
                {"prompt": prompt, "n_predict": TOKENS, "min_p": 0.0, **SAMPLING},
                **llama._client._headers,
            ),
            lambda event: bool(event["content"]),
            lambda event: event["tokens_predicted"] if event["stop"] else 0,
        )
        figures = {target.name: Figures() for target in (ours, peer)}
        for target in (ours, peer):
            # What is built on first use
            asyncio.run(load(target, given.clients, 2, given.good, Figures()))
        quiet(process)
        before = (process.memory(), process.files(), process.threads())
        for number in range(given.rounds):
            for target in (ours, peer) if number % 2 == 0 else (peer, ours):
                asyncio.run(
                    load(target, given.clients, given.seconds, given.good, figures[target.name])
                )
        quiet(process)
        after = (process.memory(), process.files(), process.threads())
        for name, found in figures.items():
            print(f"{name:17}{found.rows()}")
        first, second = figures.values()
        print(
            f"ratio of tokens/s: {first.tokens / first.seconds / (second.tokens / second.seconds):.2f}"
        )
        for what, old, new in zip(("MB", "open files", "threads"), before, after, strict=True):
            print(f"{what}: {old:.0f} before, {new:.0f} after")


if __name__ == "__main__":
    main()
