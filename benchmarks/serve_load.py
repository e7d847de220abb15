"""A hundred clients at once, some slow, some that disconnect: `antimatter serve` beside llama.cpp's
own HTTP server.

    python benchmarks/serve_load.py [--clients 100] [--seconds 15] [--rounds 3] [--parallel 4]
                                    [--good] [--model models/gguf]

Of the clients 80% read as fast as they can, 10% read a little now and then, and 10% disconnect in
the middle of an answer; each asks again when its answer is over. With --good all read as fast as
they can. Both servers compute --parallel answers at a time, with the same model, prompts and
options, in alternating rounds. Speed is that of the well-behaved clients, which share the machine's
cores with the servers.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import serve_process

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
        speed = f"{self.answers / self.seconds:6.1f} answers/s {self.tokens / self.seconds:7.0f}"
        return (
            f"{speed} tokens/s   first token {p50:.2f} s, 95% {p95:.2f}, 99% {p99:.2f}   "
            f"{self.failed} failed"
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


def post(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Connection: close",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


def antimatter(port: int) -> Target:
    def request(prompt: str) -> bytes:
        body = {"prompt": prompt, "max_tokens": TOKENS} | SAMPLING
        return post("/v1/completions", body | {"stream_options": {"include_usage": True}})

    return Target(
        "antimatter serve",
        port,
        request,
        lambda event: any(choice["text"] for choice in event["choices"]),
        lambda event: (event["usage"] or {}).get("completion_tokens", 0),
    )


def llama_cpp(llama: Llama) -> Target:
    def request(prompt: str) -> bytes:
        body = {"prompt": prompt, "n_predict": TOKENS, "min_p": 0.0} | SAMPLING
        return post("/completion", body, llama.client.headers)

    return Target(
        "llama.cpp itself",
        urlsplit(llama.client.url).port or 0,
        request,
        lambda event: bool(event["content"]),
        lambda event: event["tokens_predicted"] if event["stop"] else 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--good", action="store_true")
    parser.add_argument("--model", type=Path, default=Path("models/gguf"))
    arguments = parser.parse_args()
    model, parallel = arguments.model, arguments.parallel
    if model.is_dir():
        model = ollama.source_of(model, "f16")
    with (
        serve_process.serving(model, "--parallel", str(parallel)) as server,
        Llama(model, read_header(model).context_length, parallel=parallel) as llama,
    ):
        targets = [antimatter(server.port), llama_cpp(llama)]
        figures = {target.name: Figures() for target in targets}

        def run(target: Target, seconds: float, result: Figures) -> None:
            asyncio.run(load(target, arguments.clients, seconds, arguments.good, result))

        # What is built on first use
        for target in targets:
            run(target, 2, Figures())
        before = server.usage()
        for number in range(arguments.rounds):
            # Each round begins with the other one
            for target in targets[:: -1 if number % 2 else 1]:
                run(target, arguments.seconds, figures[target.name])
        after = server.usage()
    for name, result in figures.items():
        print(f"{name:17}{result.rows()}")
    ours, theirs = (result.tokens / result.seconds for result in figures.values())
    print(f"ratio of tokens/s: {ours / theirs:.2f}")
    serve_process.report(before, after)


if __name__ == "__main__":
    main()
