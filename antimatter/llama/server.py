"""llama.cpp's HTTP server in a child process, on a loopback port with a random key.

llama.cpp comes in a wheel, so this needs neither a compiler nor torch. The check of exported files
and the chat without Ollama use it.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from antimatter.errors import UserError
from antimatter.llama import process
from antimatter.llama.client import BackendError, Client

# Seconds without a byte; a window of 1,024 tokens at 300M parameters takes 9 on two cores
TIMEOUT = 600.0


class Llama:
    """A running llama.cpp; a context manager that stops it. It never outlives this process.

    Args:
        path: a GGUF file that `header.read_header` accepted.
        n_ctx: tokens of context for each answer.
        embeddings: serve `/embeddings`, the final state of every token, instead of `/completion`.
        threads: None leaves the number to llama.cpp.
        parallel: answers that are computed at a time, in one batch.

    Raises:
        UserError: llama.cpp refuses the file.
    """

    def __init__(
        self,
        path: Path,
        n_ctx: int,
        *,
        embeddings: bool = False,
        threads: int | None = None,
        parallel: int = 1,
    ) -> None:
        # Other users and web pages on this machine can find the port, but not the key
        key = secrets.token_hex(16)
        self._process = subprocess.Popen(
            # -P: the modules beside the script must not be importable by their bare names
            [sys.executable, "-P", process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Its log would be mixed with the answers
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C must stop the answer, not the server
            start_new_session=True,
            # The threads meet after every layer. If they spin longer, they hardly progress while
            # another process is busy. The variable may be there already, with the value of a stage
            env={**os.environ, "GOMP_SPINCOUNT": "200"},
        )
        assert self._process.stdin and self._process.stdout
        request = {
            "path": str(path.absolute()),
            "n_ctx": n_ctx,
            "embeddings": embeddings,
            "threads": threads,
            "parallel": parallel,
            "key": key,
        }
        try:
            # If it ended at once, the empty answer below is the error
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            try:
                answer = json.loads(self._process.stdout.readline())
            # Nothing, or what a debugger prints when ggml aborts
            except ValueError:
                answer = {"error": "it crashed"}
            if "error" in answer:
                fix = "name another file, or run `dvc repro gguf` if it is of the pipeline"
                raise UserError(f"{path} is refused by llama.cpp ({answer['error']}): {fix}")
        except BaseException:
            self.close()
            raise
        # For what the methods below do not cover; its calls are asynchronous
        self.client = Client("llama.cpp", answer["url"], {"Authorization": f"Bearer {key}"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """The JSON answer. Raises BackendError with llama.cpp's message if it is an error."""
        return self.client.call(route, body, timeout=TIMEOUT)

    async def stream(
        self, route: str, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer. Closing the iterator ends the generation.

        Raises:
            BackendError: llama.cpp refused the request, or ended the answer with an error.
        """
        lines = self.client.lines(route, body | {"stream": True}, TIMEOUT)
        async with contextlib.aclosing(lines):
            async for line in lines:
                if line.startswith(b"error:"):
                    message = line[6:].decode("utf-8", errors="replace").strip()
                    raise BackendError(f"llama.cpp stopped: {message}")
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids without [BOS].

        Args:
            special: a literal [EOS] becomes the token, as in a prompt; otherwise it is plain text.
        """
        body = {"content": text, "add_special": False, "parse_special": special}
        return [int(i) for i in self.post("/tokenize", body)["tokens"]]
