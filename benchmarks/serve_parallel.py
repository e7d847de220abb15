"""Tokens/s of the embedded llama.cpp that computes 1, 2, 4 and 8 answers at a time, and whether the
answers are those of one at a time.

    python benchmarks/serve_parallel.py [--model models/gguf]
"""

import argparse
import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from antimatter import params
from antimatter.export import ollama
from antimatter.serve.backend import Finish, Generation
from antimatter.serve.embedded import EmbeddedBackend

PROMPTS = [
    "The function returns",
    "Raises an error if",
    "import numpy as np\n",
    "class Foo:",
    "Once upon a time",
    "The array is a",
    "Returns a list of",
    "def main(",
]
ANSWERS, TOKENS, ROUNDS = 32, 100, 3


async def answer_all(
    backend: EmbeddedBackend, generation: Generation, parallel: int
) -> tuple[list[str], int]:
    """The answers, and the number of their tokens."""
    slots = asyncio.Semaphore(parallel)

    async def answer(number: int) -> tuple[str, int]:
        text = ""
        prompt = PROMPTS[number % len(PROMPTS)]
        async with slots, aclosing(backend.stream(prompt, generation)) as stream:
            async for part in stream:
                if isinstance(part, Finish):
                    return text, part.completion_tokens
                text += part
        raise AssertionError("a stream ends with a Finish, or an error")

    answers = await asyncio.gather(*map(answer, range(ANSWERS)))
    return [text for text, _ in answers], sum(count for _, count in answers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("models/gguf"))
    arguments = parser.parse_args()
    config = params.read(ollama.OllamaConfig, "ollama")
    generation = replace(Generation.of(config), temperature=0.0, max_tokens=TOKENS)
    model = arguments.model
    if model.is_dir():
        model = ollama.source_of(model, config.type)
    alone: list[str] = []
    for parallel in (1, 2, 4, 8):
        backend = EmbeddedBackend(model, config.num_ctx, parallel)
        speeds, n_same = [], 0
        for _ in range(ROUNDS):
            began = time.monotonic()
            texts, n_tokens = asyncio.run(answer_all(backend, generation, parallel))
            speeds.append(n_tokens / (time.monotonic() - began))
            alone = alone or texts
            n_same += sum(text == expected for text, expected in zip(texts, alone, strict=True))
        backend.close()
        speed = f"{max(speeds):.0f} tokens/s, the best of {ROUNDS} rounds"
        same = f"{n_same} of {ROUNDS * ANSWERS} texts are the same"
        print(f"{parallel} at a time: {speed}; {same}")


if __name__ == "__main__":
    main()
