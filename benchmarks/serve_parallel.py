"""Tokens/s of the embedded engine when it computes 1, 2, 4 and 8 answers at a time; and are the answers those of one at a time?

python benchmarks/serve_parallel.py [--model models/gguf]
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from antimatter import params
from antimatter.export import ollama
from antimatter.serve.backend import EmbeddedEngine, Finish

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("models/gguf"))
    given = parser.parse_args()
    config = replace(params.read(ollama.OllamaConfig, "ollama"), temperature=0.0)
    model = ollama.source_of(given.model, config.type) if given.model.is_dir() else given.model
    alone: list[str] = []
    for parallel in (1, 2, 4, 8):
        engine = EmbeddedEngine(model, config.num_ctx, parallel)

        def answer(number: int, engine: EmbeddedEngine = engine) -> tuple[str, int]:
            stream, said = engine.stream(PROMPTS[number % len(PROMPTS)], config, TOKENS), ""
            while True:
                try:
                    said += next(stream)
                except StopIteration as end:
                    finish: Finish = end.value
                    return said, finish.completion_tokens

        speeds, same = [], 0
        with ThreadPoolExecutor(parallel) as pool:
            for _ in range(ROUNDS):
                begin = time.monotonic()
                answers = list(pool.map(answer, range(ANSWERS)))
                speeds.append(sum(count for _, count in answers) / (time.monotonic() - begin))
                texts = [text for text, _ in answers]
                alone = alone or texts
                same += sum(text == expected for text, expected in zip(texts, alone, strict=True))
        engine.close()
        print(
            f"{parallel} at a time: {max(speeds):.0f} tokens/s, of {ROUNDS} rounds the best; {same} of {ROUNDS * ANSWERS} texts are the same"
        )


if __name__ == "__main__":
    main()
