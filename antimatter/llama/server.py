"""llama.cpp, from a wheel: its own HTTP server in a child process, on a loopback port that nobody else can use. No compiler, no torch.

The check of an exported file and the chat without Ollama both speak to it.
"""

import contextlib
import copy
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from antimatter.errors import UserError
from antimatter.llama import process
from antimatter.llama.client import Client, Hangup

# Seconds without a byte; a window of 1,024 tokens at 300M parameters takes 9 on two cores
TIMEOUT = 600.0


class Llama:
    """A context manager; the server ends with the block, and with this process at the latest.

    Args:
        path: a GGUF file that `header.read_header` accepted.
        n_ctx: tokens of context, for each answer.
        embeddings: serve `/embeddings` with the final state of every token, and no `/completion`.
        threads: None leaves it to llama.cpp.
        parallel: answers that are computed at a time, in one batch.

    Raises:
        ValueError: llama.cpp refuses the file.
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
        # Another user, or a web page, on this machine finds a port but not this
        key = secrets.token_hex(16)
        self._process = subprocess.Popen(
            # -P: its neighbours here, gguf.py and client.py, are not for import by bare name
            [sys.executable, "-P", process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # its log would run through the answers
            text=True,
            start_new_session=True,  # Ctrl-C is for the chat
            env={
                "GOMP_SPINCOUNT": "200",
                **os.environ,
                # Its threads meet after every layer; spinning longer, they stood still beside a busy
                # process
            },
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
            with contextlib.suppress(BrokenPipeError):  # it died at once; the empty answer tells
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "it crashed"}')
            if "error" in answer:
                raise UserError(
                    f"{path} is refused by llama.cpp ({answer['error']}): run `dvc repro gguf` to make it anew"
                )
        except BaseException:
            self.close()
            raise
        self._client = Client("llama.cpp", answer["url"], {"Authorization": f"Bearer {key}"})

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
        self._process.kill()  # it holds nothing that could be lost
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def until(self, hangup: Hangup) -> Self:
        """The same server; these calls end as soon as somebody hangs up."""
        copied = copy.copy(self)
        copied._client = self._client.until(hangup)
        return copied

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """The JSON answer. Raises ConnectionError with llama.cpp's words if it is an error."""
        return self._client.post(route, body, TIMEOUT)

    def stream(self, route: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer. Closing the iterator ends the generation."""
        for line in self._client.lines(route, body | {"stream": True}, TIMEOUT):
            if line.startswith(b"error:"):
                raise ConnectionError(
                    f"llama.cpp stopped: {line[6:].decode('utf-8', errors='replace').strip()}"
                )
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids without [BOS]. `special`: a literal [EOS] becomes the token, as in a prompt; otherwise it is plain text."""
        ids = self.post(
            "/tokenize", {"content": text, "add_special": False, "parse_special": special}
        )["tokens"]
        return [int(i) for i in ids]
