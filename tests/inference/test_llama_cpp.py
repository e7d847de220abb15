"""Greedy answers of torch are those of the embedded llama.cpp, with models of the tiny pipeline."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import antimatter
from antimatter import params
from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.export import gguf
from antimatter.export.config import FileType, GGUFConfig
from antimatter.export.source import open_checkpoint
from antimatter.serve import prompt
from antimatter.serve.backend import Generation
from antimatter.serve.embedded import EmbeddedBackend

TOKENS = 40
QUESTIONS = [
    *("Who are you?", "What is your name?", "Hi", "Hello", "What can you do?"),
    *("Thanks, bye!", "é ☃", "def f(x):", "A text of several words, and a comma.", "[EOS]"),
]
CONVERSATION = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Who are you?")]
TEXTS = [
    "The",
    "The function returns",
    "Example:\n\n",
    "é",
    "import click\n",
    "A",
    "x = 1",
    "It is",
]


def written(tiny_pipeline: Path, name: str, file_type: FileType, folder: Path) -> Path:
    source = open_checkpoint(tiny_pipeline / "models" / name)
    config = params.read(GGUFConfig, "gguf", tiny_pipeline / "params.yaml")
    path = gguf.path_of(folder, name, file_type)
    gguf.write(source, tiny_pipeline / "data/tokenizer/tokenizer.json", path, file_type, config)
    return path


def answers(path: Path, prompts: list[str]) -> list[str]:
    """Of llama.cpp, without its repetition penalty, which torch does not have."""
    generation = Generation(
        temperature=0.0, top_p=1.0, top_k=0, repeat_penalty=1.0, max_tokens=TOKENS, stop=()
    )

    async def answer(backend: EmbeddedBackend, text: str) -> str:
        # As prompt.build() limits them
        room = backend.n_ctx - await backend.count(text)
        limited = Generation(**(vars(generation) | {"max_tokens": min(TOKENS, room)}))
        pieces = [piece async for piece in backend.stream(text, limited)]
        return "".join(piece for piece in pieces if isinstance(piece, str))

    async def every() -> list[str]:
        backend = EmbeddedBackend(path, 4096)
        try:
            return [await answer(backend, text) for text in prompts]
        finally:
            backend.close()

    return asyncio.run(every())


@pytest.mark.parametrize("file_type", ["f32", "f16"])
def test_a_chat_is_the_same(tiny_pipeline: Path, tmp_path: Path, file_type: FileType) -> None:
    model = antimatter.load(tiny_pipeline / "models/tuned")
    turns: list[list[tuple[Any, str]]] = [[("user", text)] for text in QUESTIONS]
    turns.append(CONVERSATION)
    conversations = [[Message(role, text) for role, text in some] for some in turns]
    ours = [
        model.chat(
            [{"role": message.role, "content": message.text} for message in messages],
            temperature=0,
            max_new_tokens=TOKENS,
        )
        for messages in conversations
    ]
    path = written(tiny_pipeline, "tuned", file_type, tmp_path)
    prompts = [
        template.prompt(prompt.prepare(messages, model.chat_facts)) for messages in conversations
    ]
    assert ours == answers(path, prompts)
    assert len(set(ours)) > 1


@pytest.mark.parametrize("file_type", ["f32", "f16"])
def test_a_continuation_is_the_same(
    tiny_pipeline: Path, tmp_path: Path, file_type: FileType
) -> None:
    model = antimatter.load(tiny_pipeline / "models/checkpoints")
    ours = [model.generate(text, temperature=0, max_new_tokens=TOKENS) for text in TEXTS]
    path = written(tiny_pipeline, "checkpoints", file_type, tmp_path)
    assert ours == answers(path, TEXTS)
    assert len(set(ours)) > 1
