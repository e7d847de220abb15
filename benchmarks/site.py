"""The page of `antimatter site` against the embedded llama.cpp: tokens/s, measured in turns, and
whether both give the same greedy answers. Chromium runs one thread, as on a host without headers
for isolation.

    python benchmarks/site.py [--rounds 5] [--questions 20] [--tokens 96] [FILE.gguf ...]

The speeds are those of generation, over all answers of a round. The default files are those of
models/gguf.
"""

import argparse
import asyncio
import functools
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from antimatter import params
from antimatter.chat.template import Message
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import read_header
from antimatter.serve import prompt
from antimatter.serve.backend import Finish, Generation
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.site import build, wllama

QUESTIONS = (
    *("Who are you?", "Who made you?", "How big are you?", "What can you do?", "Are you a person?"),
    *("Hello!", "How are you today?", "What is your favorite movie?", "Tell me a joke."),
    *("What does numpy's argsort do?", "What does pandas.DataFrame.merge do?", "Thanks, bye!"),
    *("What does torch.nn.Linear do?", "What is networkx.Graph?", "What is the capital of France?"),
    *("I had a long day at work.", "What do you not know?", "Do you like music?", "Help me."),
    "What does sympy.simplify do?",
)
# Keeps the engine that the page creates
INIT = """Object.defineProperty(globalThis, "createEngine", {
    get: () => globalThis.create,
    set: create => {
        globalThis.create = (...given) => globalThis.testedEngine = create(...given);
    },
});"""
ANSWER = """async ([content, max_tokens]) => {
    const body = { messages: [{ role: "user", content }], temperature: 0, max_tokens };
    let text = "", last = null;
    for await (const chunk of testedEngine.answer(body, new AbortController().signal, () => {})) {
        text += chunk.choices[0].delta.content ?? "";
        last = chunk;
    }
    return [text, last.usage.completion_tokens, last.antimatter.tokens_per_second];
}"""


@dataclass
class Round:
    texts: list[str]
    speed: float  # tokens/s

    @classmethod
    def of(cls, answers: list[tuple[str, int, float]]) -> "Round":
        tokens = sum(count for _, count, _ in answers)
        return cls([text for text, _, _ in answers], tokens / sum(n / s for _, n, s in answers))


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


async def ask(
    backend: EmbeddedBackend, generation: Generation, text: str
) -> tuple[str, int, float]:
    messages = prompt.prepare([Message("user", text)], backend.chat)
    built = await prompt.build(backend, messages, generation)
    answer = ""
    async with aclosing(backend.stream(built.text, built.generation)) as stream:
        async for part in stream:
            if isinstance(part, Finish):
                return answer, part.completion_tokens, part.tokens_per_second
            answer += part
    raise AssertionError("a stream ends with a Finish, or an error")


def native(backend: EmbeddedBackend, generation: Generation, questions: Sequence[str]) -> Round:
    async def every() -> list[tuple[str, int, float]]:
        return [await ask(backend, generation, text) for text in questions]

    result: list[Round] = []
    # In a thread: Playwright runs an event loop in this one
    thread = threading.Thread(target=lambda: result.append(Round.of(asyncio.run(every()))))
    thread.start()
    thread.join()
    return result[0]


def in_browser(page: Page, generation: Generation, questions: Sequence[str]) -> Round:
    asked = [[text, generation.max_tokens] for text in questions]
    return Round.of([page.evaluate(ANSWER, question) for question in asked])


def measure(
    browser: Any, config: OllamaConfig, path: Path, rounds: int, questions: Sequence[str]
) -> None:
    header = read_header(path)
    generation = replace(Generation.of(config), temperature=0.0)
    backend = EmbeddedBackend(path, config.num_ctx)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "site"
        size = build.write(folder, path, header, wllama.package(None, print), config, {})
        host = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=host.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.add_init_script(INIT)
        began = time.monotonic()
        page.goto(f"http://127.0.0.1:{host.server_port}/")
        page.evaluate(ANSWER, ["Hello!", 1])
        ready = time.monotonic() - began
        pairs = [
            (native(backend, generation, questions), in_browser(page, generation, questions))
            for _ in range(rounds)
        ]
        page.close()
        host.shutdown()
    backend.close()
    same = sum(a == b for a, b in zip(pairs[-1][0].texts, pairs[-1][1].texts, strict=True))
    speeds = [statistics.median(pair[i].speed for pair in pairs) for i in range(2)]
    ratio = statistics.median(page.speed / embedded.speed for embedded, page in pairs)
    print(
        f"{path.name}: folder {size / 1e6:.1f} MB; first token after {ready:.2f} s; browser "
        f"{speeds[1]:.1f} tokens/s, embedded {speeds[0]:.1f}: {ratio:.2f} x; "
        f"{same} of {len(questions)} greedy answers are the same"
    )
    for a, b, text in zip(pairs[-1][0].texts, pairs[-1][1].texts, questions, strict=True):
        if a != b:
            print(f"  {text}\n    embedded: {a}\n    browser:  {b}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=len(QUESTIONS))
    parser.add_argument("--tokens", type=int, default=96)
    default = sorted(Path("models/gguf").glob("*.gguf"))
    parser.add_argument("models", type=Path, nargs="*", default=default)
    arguments = parser.parse_args()
    config = replace(params.read(OllamaConfig, "ollama"), num_predict=arguments.tokens)
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for path in arguments.models:
            questions = QUESTIONS[: arguments.questions]
            measure(browser, config, path, arguments.rounds, questions)
        browser.close()


if __name__ == "__main__":
    main()
