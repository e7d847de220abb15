"""Runs an Ollama for our model: no root, no HOME; ready when the model has answered, and stopped
with everything that it started when this process ends.

It serves from a runtime folder and never from DVC's output. Ollama writes manifests in place and
may delete blobs that it does not know, so the manifest and all small blobs are copies. The weights
may have gigabytes and are a symbolic link: Ollama (0.32.9: manifest/layer.go, server/images.go,
server/download.go) opens blobs for reading only, replaces them by renames and removes them by name,
and both affect only the link. The most it can change through the link is the modification time
(`create` with the same weights). A hard link would be DVC's own inode.
"""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from antimatter import files
from antimatter.errors import UserError
from antimatter.export import ollama
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.client import BackendError, Client
from antimatter.serve.backend import Generation
from antimatter.serve.ollama import install, keeper
from antimatter.serve.ollama.backend import STORE, OllamaBackend, WrongModelError, running_ollama

FOLDER = Path(".state/serve")
START = 120.0  # seconds until /api/version answers: Ollama looks for GPUs first
_PROBE = 5.0  # seconds for one try
# OLLAMA_*: they select hardware, so they do not change an answer
_HARDWARE = {
    f"OLLAMA_{name}"
    for name in (
        *("DEBUG", "GPU_OVERHEAD", "IGPU_ENABLE", "LLM_LIBRARY"),
        *("LOAD_TIMEOUT", "SCHED_SPREAD", "VULKAN"),
    )
}
_ERROR = re.compile(r"level=(ERROR|FATAL)|^Error|^panic|^fatal|[a-zA-Z]Error: ")
_ROUTINE = re.compile(r"level=(INFO|DEBUG|WARN)|^\[GIN\]")


class OllamaServer:
    """A context manager: `backend` talks to the server, `url` is its address, `log` its log file.

    Args:
        binary: an Ollama, as install.find or install.install return it.
        store: the model store of stage ollama. It is only read.
        folder: for the runtime store, HOME and the log. One server at a time can use it.
        port: 0 takes a free one.
        parallel: answers that are computed at the same time; each needs the memory of a context.
        start: seconds to wait for the first answer.

    Raises:
        Locked: another process serves from this folder.
        UserError: a missing or damaged store; a port in use; a folder that cannot be written.
            Ollama ended, does not answer, or has another model: the message has the last error of
            its log.
    """

    def __init__(
        self,
        binary: Path,
        store: Path,
        config: OllamaConfig,
        folder: Path = FOLDER,
        port: int = 0,
        parallel: int = 1,
        environ: Mapping[str, str] = os.environ,
        start: float = START,
    ) -> None:
        manifest = ollama.verify(store, config.name)
        self.log = folder / "ollama.log"
        with ExitStack() as resources:
            with _naming(folder):
                lock = files.lock(folder / "lock", f"an Ollama that serves from {folder}")
                resources.enter_context(lock)
                digest = _runtime_store(store, folder / "models", config.name, manifest)
                (folder / "home").mkdir(exist_ok=True)
                if self.log.exists():
                    os.replace(self.log, self.log.with_name("ollama.log.1"))
                out = resources.enter_context(self.log.open("wb"))
            host = f"127.0.0.1:{_free_port(port)}"
            self.url = f"http://{host}"
            supervised = [str(keeper.GRACE), str(binary.absolute()), "serve"]
            self._process = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, *supervised],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=environment(environ, folder.absolute(), host, config.num_ctx, parallel),
                cwd=folder,
                # Ctrl-C is for this process, which stops Ollama itself
                start_new_session=True,
            )
            resources.callback(self._stop)
            self.backend = self._ready(config, digest, start)
            self._resources = resources.pop_all()

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
        """Returns when Ollama and all that it started have ended. A second call does nothing."""
        self._resources.close()

    def _stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()  # tells the keeper to stop
        try:
            self._process.wait(3 * keeper.GRACE)
        except subprocess.TimeoutExpired:  # the keeper itself hangs
            self._process.kill()
            self._process.wait()

    def _ready(self, config: OllamaConfig, digest: str, start: float) -> OllamaBackend:
        try:
            self._wait_for_answer(start)
            backend = OllamaBackend(self.url, config)
            if backend.digest != digest:
                raise WrongModelError(
                    f"Ollama at {self.url} has {config.name}:{ollama.TAG} with digest "
                    f"{backend.digest or 'none'}, expected {digest}: is it another Ollama?"
                )
            asyncio.run(_load(backend, config))
            return backend
        except UserError as error:
            # What looks like a broken connection may be the end of the process
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            status, reason = self._process.poll(), str(error)
            if status is not None:
                reason = f"Ollama ended before it was ready (exit status {status})"
            message = _last_message(self.log, is_ended=status is not None)
            raise BackendError(f"{reason}{message}; its log is {self.log}") from None

    def _wait_for_answer(self, start: float) -> None:
        client, deadline = Client(f"Ollama at {self.url}", self.url), time.monotonic() + start
        while True:
            remaining = max(deadline - time.monotonic(), 0.1)
            try:
                client.call("/api/version", timeout=min(_PROBE, remaining))
                return
            except BackendError:
                if self._process.poll() is not None:
                    raise
                if time.monotonic() > deadline:
                    raise BackendError(
                        f"Ollama at {self.url} did not answer in {start:.0f} s"
                    ) from None
                time.sleep(0.05)


@contextmanager
def open_ollama(
    config: OllamaConfig,
    log: Callable[[str], None],
    *,
    named: bool = False,
    prefix: Path = install.PREFIX,
    install_it: bool = False,
    cpu_only: bool = False,
    archive: str = "",
    port: int | None = None,
    parallel: int = 1,
    store: Path = STORE,
    folder: Path = FOLDER,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[OllamaBackend]:
    """An Ollama as the backend: one that runs, if running_ollama accepts it; otherwise one from
    PATH or `prefix`, started here and stopped after the block; otherwise, with `install_it`, one
    that is installed into `prefix` first.

    Args:
        named: as in running_ollama.
        archive: as in install.install.
        port: where to start one; then no running one is used. None is a free port.

    Raises:
        UserError: there is none, and it is not to be installed; or as install.install and
            OllamaServer raise it.
    """
    running = None
    if port is None:
        try:
            running = running_ollama(config, log, store, environ, named=named)
        except WrongModelError as error:
            log(f"{error}: it is not used")
        except BackendError:
            pass  # none is running, and the messages below say what happens
    if running:
        yield running
        return
    binary = install.find(prefix, environ)
    if not binary:
        if not install_it:
            raise UserError(
                f"there is no `ollama` on the PATH or in {prefix}: `--install` downloads one there "
                "(1.4 GB), without root"
            )
        binary = install.install(prefix, archive, cpu_only, log, environ)
    elif archive:
        log(
            f"{binary} exists: {archive} is not installed (to install it, choose another --prefix, "
            "and remove any `ollama` from the PATH)"
        )
    log(f"starting {binary}, its log is {folder / 'ollama.log'}")
    with OllamaServer(binary, store, config, folder, port or 0, parallel, environ) as server:
        yield server.backend


def environment(
    environ: Mapping[str, str], folder: Path, host: str, num_ctx: int, parallel: int
) -> dict[str, str]:
    """The environment of Ollama: ours, without what would change its answers or its address, and
    with a HOME where it can write its key.
    """
    inherited = {
        name: value
        for name, value in environ.items()
        if name in _HARDWARE or not name.startswith(("OLLAMA_", "LLAMA_ARG_"))
    }
    return inherited | {
        "HOME": str(folder / "home"),
        "OLLAMA_HOST": host,  # without a scheme: `http://` alone would mean port 80
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_CONTEXT_LENGTH": str(num_ctx),
        "OLLAMA_NUM_PARALLEL": str(parallel),
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",  # the model stays loaded until the server ends
    }


async def _load(backend: OllamaBackend, config: OllamaConfig) -> None:
    """Makes Ollama load the model, with the options of every answer."""
    async for _ in backend.stream("The", replace(Generation.of(config), max_tokens=1)):
        pass


def _runtime_store(store: Path, folder: Path, name: str, manifest: dict[str, Any]) -> str:
    """Recreates `folder`. Returns the sha256 of its manifest, which is what Ollama calls the digest
    of the model.
    """
    source = ollama.manifest_path(store, name)
    with files.replacing(folder) as partial:
        copy = ollama.manifest_path(partial, name)
        copy.parent.mkdir(parents=True)
        shutil.copyfile(source, copy)
        (partial / "blobs").mkdir()
        for layer in [manifest["config"], *manifest["layers"]]:
            blob = ollama.blob_path(store, layer["digest"])
            target = ollama.blob_path(partial, layer["digest"])
            if layer["mediaType"].endswith(".image.model"):
                # On a file system without links it is copied
                with contextlib.suppress(OSError):
                    target.symlink_to(blob.resolve())
                    continue
            shutil.copyfile(blob, target)
    return files.sha256(source)


def _free_port(port: int) -> int:
    """The port if nothing listens there, or a free one for 0."""
    if not 0 <= port <= 65535:
        raise UserError(f"--ollama-port must lie in [0, 65535], got {port}")
    with socket.socket() as probe:
        # As Ollama does: connections that are just closing do not block a port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} on 127.0.0.1 is not available ({error.strerror}): give another "
                "--ollama-port, or none for a free one"
            ) from None
        return int(probe.getsockname()[1])


def _last_message(log: Path, *, is_ended: bool) -> str:
    """`: ` and the last error in the log. If there is none, and Ollama has ended, the last line
    that is not routine. Otherwise nothing.
    """
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    relevant = [line for line in lines if _ERROR.search(line)]
    if not relevant and is_ended:
        relevant = [line for line in lines if not _ROUTINE.search(line)]
    if not relevant:
        return ""
    message = re.sub(r"^time=\S+ |level=\S+ |source=\S+ |^msg=", "", relevant[-1])
    return f": {message[:300]}"


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Explains the errors of the operating system about the runtime folder."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left" if is_full else error.strerror
        raise UserError(
            f"{error.filename or folder} cannot be written ({reason}): Ollama's log and HOME are "
            f"in {folder}"
        ) from None
