"""A trained model in a Python program. `antimatter.load` returns one."""

import codecs
import re
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import torch

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.data import tokenizer as tokenizers
from antimatter.data.sources.local import plain
from antimatter.data.special_tokens import BOS, EOS, USER
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation import scoring
from antimatter.evaluation.scoring import Score
from antimatter.export import huggingface
from antimatter.export.source import Source, find_tokenizer, open_checkpoint
from antimatter.llama.header import ChatFacts
from antimatter.model import devices, sampling
from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT
from antimatter.pipeline import provenance
from antimatter.serve import prompt
from antimatter.serve.stop_texts import StopTexts

T = TypeVar("T")
Messages = Sequence[Mapping[str, str]]


class Options(TypedDict, total=False):
    """How text is generated. The defaults are those of the nano preset's chat (`ollama:`)."""

    max_new_tokens: int  # 96
    temperature: float  # 0.3; 0 is greedy: always the most likely token
    top_k: int  # 40: choose among so many of the most likely tokens; 0 is all
    top_p: float  # 0.9: choose among the likeliest tokens with this total probability; 1 is all
    seed: int | None  # None: another answer each time
    stop: Sequence[str]  # texts that end the answer, without being part of it


@dataclass(frozen=True)
class Generation:
    """Options, checked and complete."""

    sampling: Sampling
    seed: int | None
    stop: tuple[str, ...]

    @classmethod
    def of(cls, options: Options) -> "Generation":
        """Raises UserError for an unknown option, or a value of another type or outside of its
        interval.
        """
        unknown = sorted(options.keys() - Options.__annotations__.keys())
        if unknown:
            known = ", ".join(Options.__annotations__)
            raise UserError(f"{unknown[0]} is not an option: remove it; known: {known}")
        given: dict[str, Any] = {
            "max_new_tokens": 96,
            "temperature": 0.3,
            "top_k": 40,
            "top_p": 0.9,
            **options,
        }
        seed, stop = given.pop("seed", None), given.pop("stop", ())
        for name in ("max_new_tokens", "top_k"):
            _require(isinstance(given[name], Integral), name, "a whole number", given[name])
        for name in ("temperature", "top_p"):
            _require(isinstance(given[name], Real), name, "a number", given[name])
        is_seed = seed is None or (isinstance(seed, Integral) and -(2**63) <= int(seed) < 2**64)
        _require(is_seed, "seed", "None or a whole number of 64 bits", seed)
        texts = (stop,) if isinstance(stop, str) else stop
        is_texts = isinstance(texts, list | tuple) and all(isinstance(one, str) for one in texts)
        _require(is_texts, "stop", "a text or a list of texts", stop)
        if "" in texts:
            raise UserError("stop must not have an empty text: every answer begins with it")
        return cls(Sampling(**given), None if seed is None else int(seed), tuple(texts))


def _require(is_valid: bool, name: str, kind: str, value: object) -> None:
    # True is a whole number for Python, but no user means it
    if not is_valid or isinstance(value, bool):
        raise UserError(f"{name} must be {kind}, got {value!r:.60}")


class Model:
    """A network with its tokenizer.

    `network` is the GPT and `tokenizer` the Tokenizer, for what the methods do not cover.
    """

    def __init__(self, source: Source, tokenizer: Path, network: GPT, words: Tokenizer) -> None:
        self.network, self.tokenizer = network, words
        # Of a model that was tuned to chat: its system text, its greeting and examples of a start
        self.chat_facts: ChatFacts | None = None
        if source.chat is not None:
            facts = source.chat
            starters = tuple(facts["starters"])
            self.chat_facts = ChatFacts(facts["system"], facts["greeting"], starters)
        self._source, self._tokenizer_file = source, tokenizer

    def __repr__(self) -> str:
        kind = "base model" if self.chat_facts is None else "chat model"
        size, context = self.network.n_parameters(), self.network.config.block_size
        return f"<{kind} {self._source.origin}: {size:,} parameters, {context:,} tokens of context>"

    def generate(self, text: str, **options: Unpack[Options]) -> str:
        """The continuation of a text, without the text.

        A special token in it, such as [EOS], is plain text. Only the last tokens count of a text
        that is longer than the context.
        """
        return "".join(self.stream_generate(text, **options))

    def stream_generate(self, text: str, **options: Unpack[Options]) -> Iterator[str]:
        """As generate(), piece by piece."""
        generation = Generation.of(options)
        _require(isinstance(text, str), "text", "a text", text)
        if self.chat_facts is not None and not text:
            # Tuning has no answer at the start of a text, where greedy decoding repeats [BOS]
            problem = "the text is empty, and a chat model has no beginning of its own"
            raise UserError(f"{problem}: write the beginning of a text, or call chat()")
        return self._stream([BOS, *self.tokenizer.encode(text)], generation)

    def chat(self, messages: Messages, **options: Unpack[Options]) -> str:
        """The answer to a conversation.

        It begins with the system text of the tuning unless it brings another one (empty for none).
        The oldest turns are dropped if it does not fit into the context, and an answer ends there.
        A last message of the assistant is continued.

        Args:
            messages: as for OpenAI's API: {"role": "user", "content": "Hi"}, ...

        Raises:
            UserError: it is a base model, or a message is not valid, or does not fit by itself.
        """
        return "".join(self.stream_chat(messages, **options))

    def stream_chat(self, messages: Messages, **options: Unpack[Options]) -> Iterator[str]:
        """As chat(), piece by piece."""
        if self.chat_facts is None:
            raise UserError(
                f"{self._source.origin} is a base model, which continues text and knows no roles: "
                "call generate(), or load a model that was tuned to chat"
            )
        generation, context = Generation.of(options), self.network.config.block_size
        prepared = prompt.prepare(_messages(messages), self.chat_facts)

        async def count(some: Sequence[Message]) -> int:
            return len(template.prompt_tokens(some, self.tokenizer))

        wanted = generation.sampling.max_new_tokens
        room = context - min(wanted, context // 2)
        fitting, n_tokens = _result(prompt.fit(prepared, room, count))
        ids = template.prompt_tokens(fitting, self.tokenizer)
        return self._stream(ids, generation, most=context - n_tokens)

    def score(self, text: str, stride: int | None = None) -> Score:
        """The loss of a text: tokens, nats and bytes; figures() has the perplexity and the bits per
        byte. As `antimatter perplexity`, the text being one document.

        Args:
            stride: tokens from one sliding window to the next; None is half of the context.

        Raises:
            UserError: the text is empty, or the stride is not between 1 and the context.
        """
        context = self.network.config.block_size
        stride = context // 2 if stride is None else stride
        _require(isinstance(text, str), "text", "a text", text)
        _require(isinstance(stride, Integral), "stride", "a whole number", stride)
        if not 1 <= stride <= context:
            raise UserError(f"stride must lie in [1, {context}], got {stride}")
        ids = np.array([BOS, *self.tokenizer.encode(plain(text))])
        if len(ids) == 1:
            raise UserError("the text is empty: there is nothing to predict")
        scored = scoring.score(self.network, scoring.sliding([ids], context, stride))
        nats = sum(float(part.losses.sum()) for part in scored)
        return Score(len(ids) - 1, nats, len(plain(text).encode()))

    def perplexity(self, text: str, stride: int | None = None) -> float:
        """See score()."""
        return self.score(text, stride).figures()["perplexity"]

    def to_hf(self, folder: str | Path) -> Path:
        """Writes a folder that Hugging Face's transformers load, and load() too.

        Raises:
            UserError: the folder has something else in it, which would be lost.
        """
        huggingface.check_output(Path(folder), "to_hf():")
        huggingface.write(self._source, self._tokenizer_file, Path(folder))
        return Path(folder)

    def _stream(
        self, ids: list[int], generation: Generation, most: int | None = None
    ) -> Iterator[str]:
        """The text after some tokens.

        Args:
            most: tokens, if there is not room for all that were asked for.
        """
        draws = torch.Generator()
        if generation.seed is None:
            draws.seed()
        else:
            draws.manual_seed(generation.seed)
        # A model that was tuned to chat and begins the user's turn has ended its own
        ends = {EOS} if self.chat_facts is None else {EOS, USER}
        # A character may be several tokens
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        stops = StopTexts(generation.stop)
        tokens = sampling.steps(self.network, ids, 1, generation.sampling, draws)
        for number, drawn in enumerate(tokens, 1):
            token = int(drawn[0])
            if token in ends:
                break
            piece = decoder.decode(self.tokenizer.token_bytes(token))
            if shown := stops.take(piece, last=False):
                yield shown
            if stops.is_found:
                return
            if number == most:
                break
        if rest := stops.take(decoder.decode(b"", final=True), last=True):
            yield rest


def load(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    config: str | Path | None = None,
    device: str = "auto",
) -> Model:
    """See antimatter.load."""
    for name, value in (("path", path), ("tokenizer", tokenizer), ("config", config)):
        is_path = isinstance(value, str | Path) or (value is None and name != "path")
        _require(is_path, name, "a path", value)
    if device not in ("auto", "cpu") and not re.fullmatch(r"cuda(:\d+)?", str(device)):
        raise UserError(f"device must be auto, cpu or cuda, got {device!r:.60}")
    checkpoint = Path(path)
    source = open_checkpoint(checkpoint, Path(config) if config is not None else None)
    file = find_tokenizer(checkpoint) if tokenizer is None else Path(tokenizer)
    file = file / "tokenizer.json" if file.is_dir() else file
    words = Tokenizer.load(file)
    trained_with = provenance.nearest(source.provenance, "data", "tokenizer")
    is_other = trained_with is not None and trained_with != tokenizers.digest(file)
    if is_other or words.vocab_size != source.config.vocab_size:
        sizes = f"{words.vocab_size:,} tokens, the model {source.config.vocab_size:,}"
        fix = "name the one that it was trained with (tokenizer=)"
        raise UserError(f"{file} is not the tokenizer of {path}; it has {sizes}: {fix}")
    if device == "auto":
        device = "cuda" if devices.has_gpu() else "cpu"
    return Model(source, file, source.load().to(device), words)


def _messages(messages: Messages) -> list[Message]:
    """Raises UserError if one of them is not a message, or there is none."""
    if not isinstance(messages, list | tuple) or not messages:
        example = '[{"role": "user", "content": "Hi"}]'
        raise UserError(f"messages must be a list such as {example}, got {messages!r:.60}")
    parsed = []
    for number, message in enumerate(messages):
        try:
            role, content = message["role"], message["content"]
        except (KeyError, TypeError, IndexError):
            role = content = None
        if role not in template.ROLES or not isinstance(content, str):
            roles = ", ".join(template.ROLES)
            raise UserError(
                f"messages[{number}] must have a role ({roles}) and a text as content, "
                f"got {message!r:.80}"
            )
        parsed.append(Message(role, content))
    return parsed


def _result(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing.

    Without an event loop, because a notebook already runs one.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")
