"""What computes answers: the `Backend` protocol, and how an answer is asked for and ends.

There are two backends: `EmbeddedBackend`, which is llama.cpp in a child process, and
`OllamaBackend`, which is a running Ollama.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import ChatFacts


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How an answer is generated."""

    temperature: float
    top_p: float
    top_k: int  # 0: all tokens
    repeat_penalty: float
    max_tokens: int
    stop: tuple[str, ...]  # any texts, while those of OllamaConfig must fit into a Modelfile
    seed: int | None = None  # None: the backend chooses one
    # These are off. Penalties are llama.cpp's, over the last `repeat_last_n` tokens, of which those
    # of the prompt are some; -1 is the whole context
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64

    @classmethod
    def of(cls, config: OllamaConfig, seed: int | None = None) -> Self:
        return cls(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            repeat_penalty=config.repeat_penalty,
            max_tokens=config.num_predict,
            stop=config.stop,
            seed=seed,
        )

    def sampling(self) -> dict[str, Any]:
        """The options for both runtimes, also those whose defaults differ between them."""
        seed = {} if self.seed is None else {"seed": self.seed}
        return seed | {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "typical_p": self.typical_p,
            "repeat_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repeat_last_n": self.repeat_last_n,
        }


@dataclass(frozen=True)
class Finish:
    """How an answer ended. Counts and speed are the backend's, where it has them."""

    reason: Literal["stop", "length"]  # the model or a stop text; or its maximum of tokens
    prompt_tokens: int  # [BOS] included
    completion_tokens: int
    tokens_per_second: float  # of the completion
    prompt_seconds: float = 0.0  # to read the part of the prompt that was not cached


@dataclass(frozen=True)
class ModelFile:
    """The file of the model, for clients that list models."""

    size: int  # bytes
    digest: str  # sha256; Ollama's is that of the manifest
    modified: str  # RFC 3339
    keys: Mapping[str, Any]  # of the GGUF file
    n_parameters: int


class Backend(Protocol):
    description: str  # for people: backend, model, where
    n_ctx: int  # tokens of prompt and answer together
    chat: ChatFacts | None  # None: a base model, which continues text

    async def count(self, text: str) -> int:
        """Tokens of a prompt, [BOS] included."""
        ...

    def stream(self, prompt: str, generation: Generation) -> AsyncGenerator[str | Finish, None]:
        """The pieces of the continuation of `prompt`, and at last how it ended.

        Closing the iterator, or cancelling the task that reads it, ends the generation.

        Raises:
            BackendError: it refused the prompt, or ended the answer early.
        """
        ...

    async def check(self) -> None:
        """Raises BackendError if it cannot answer."""
        ...

    async def file(self) -> ModelFile:
        """Raises BackendError if it is not there any more."""
        ...

    def close(self) -> None: ...
