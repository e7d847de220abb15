"""The backend that needs nothing but the GGUF file: llama.cpp in a child process."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

from antimatter import files
from antimatter.errors import UserError
from antimatter.llama.client import BackendError
from antimatter.llama.header import Header, read_header
from antimatter.llama.server import TIMEOUT, Llama
from antimatter.serve.backend import Finish, Generation, ModelFile
from antimatter.serve.stop_texts import StopTexts

_RESTART_SECONDS = 5.0  # between two failed starts of llama.cpp


class EmbeddedBackend:
    """llama.cpp with a GGUF file. If its process dies, the next request starts another one.

    Args:
        parallel: answers at a time, each with its own context.

    Raises:
        UserError: the file is not one that llama.cpp can load, or `parallel` exceeds the context.
    """

    def __init__(self, path: Path, num_ctx: int, parallel: int = 1) -> None:
        header = read_header(path)
        self.chat = header.chat
        self.n_ctx = min(num_ctx, header.context_length)
        # llama.cpp decodes one token of every answer in one batch, which is no larger than this
        if parallel > self.n_ctx:
            limit = f"at most {self.n_ctx}, the tokens of the context"
            raise UserError(f"--parallel must be {limit}, got {parallel}")
        self.description = f"embedded llama.cpp, {path}"
        # Characters of the longest text that could fit
        longest_token = max(map(len, header.keys.get("tokenizer.ggml.tokens", ())), default=128)
        self._longest = max(20_000, self.n_ctx * longest_token)
        self._file = functools.cache(lambda: _model_file(path, header))
        self._start = functools.partial(Llama, path, self.n_ctx, parallel=parallel)
        self._llama = self._start()
        self._lock = threading.Lock()
        self._is_closed = False
        self._failure, self._failed_at = "", 0.0

    async def count(self, text: str) -> int:
        """Exact for all texts that could fit. Longer ones are counted in parts, because each thread
        of llama.cpp keeps the memory of its longest text: 60 MB for 1 MB.
        """
        llama, count = await self._running(), 1
        for i in range(0, max(len(text), 1), self._longest):
            body = {"content": text[i : i + self._longest], "parse_special": True}
            answer = await llama.client.request("/tokenize", body, timeout=TIMEOUT)
            count += len(answer["tokens"])
        return count

    async def stream(
        self, prompt: str, generation: Generation
    ) -> AsyncGenerator[str | Finish, None]:
        body = generation.sampling() | {"prompt": prompt, "n_predict": generation.max_tokens}
        # Each event has the speed so far, for an answer that a stop text ends there
        body["timings_per_token"] = True
        stops, finish = StopTexts(generation.stop), None
        events = (await self._running()).stream("/completion", body)
        async with aclosing(events):
            async for event in events:
                if shown := stops.take(event["content"], last=event["stop"]):
                    yield shown
                if stops.is_found or event["stop"]:
                    is_cut = not stops.is_found and event["stop_type"] == "limit"
                    timings = event["timings"]
                    finish = Finish(
                        "length" if is_cut else "stop",
                        event["tokens_evaluated"],
                        event["tokens_predicted"],
                        timings["predicted_per_second"],
                        timings["prompt_ms"] / 1e3,
                    )
                    break
        if finish:
            yield finish
            return
        if rest := stops.take("", last=True):
            yield rest
        raise BackendError("llama.cpp broke off the answer: ask again")

    async def check(self) -> None:
        await self._running()

    async def file(self) -> ModelFile:
        try:
            return await asyncio.to_thread(self._file)
        except OSError as error:
            raise BackendError(f"the model's file cannot be read any more: {error}") from None

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._llama.close()

    async def _running(self) -> Llama:
        """llama.cpp, started again if it died: an assertion in ggml costs the answers in progress
        and no more.
        """
        if not self._llama.alive:
            await asyncio.to_thread(self._restart)
        return self._llama

    def _restart(self) -> None:
        with self._lock:
            if self._is_closed or self._llama.alive:
                return
            if not self._failure or time.monotonic() - self._failed_at > _RESTART_SECONDS:
                self._llama.close()
                try:
                    self._llama, self._failure = self._start(), ""
                except (OSError, UserError) as error:
                    self._failure = f"llama.cpp died and does not start again: {error}"
                    self._failed_at = time.monotonic()
            if self._failure:
                raise BackendError(self._failure)


def _model_file(path: Path, header: Header) -> ModelFile:
    """Reads the whole file for its digest, which takes a second for 600 MB."""
    status = path.stat()
    modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat()
    digest = files.sha256(path)
    return ModelFile(status.st_size, digest, modified, header.keys, header.n_parameters)
