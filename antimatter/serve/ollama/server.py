"""An Ollama of our own: started without root and without a HOME, ready when the model has answered, gone with everything it started when we are.

It serves from a runtime folder and never from DVC's output. Ollama writes manifests in place, and may delete blobs that it does not know, so the
manifest and all small blobs are copies. The weights are a symbolic link, for they may be gigabytes: Ollama (0.32.9: manifest/layer.go,
server/images.go, server/download.go) opens blobs for reading only, replaces them by renames and removes them by name, and both end at the link. The
most it can do through the link is to set the time of the last change (`create` with the same weights). A hard link would be DVC's own inode.
"""

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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from antimatter import files
from antimatter.errors import UserError
from antimatter.export import ollama
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.client import Client
from antimatter.serve.backend import STORE, OllamaEngine, running_ollama
from antimatter.serve.ollama import install, keeper

FOLDER = Path(".state/serve")
START = 120.0  # seconds until /api/version: Ollama looks for GPUs first
_LOOK = 5.0  # seconds for a small answer
# OLLAMA_*: they choose hardware, no answer
_KEPT = (
    "DEBUG",
    "GPU_OVERHEAD",
    "IGPU_ENABLE",
    "LLM_LIBRARY",
    "LOAD_TIMEOUT",
    "SCHED_SPREAD",
    "VULKAN",
)


class OllamaServer:
    """A context manager. `engine` talks to it; `url` is where it is, `log` what it says.

    Args:
        binary: an Ollama, as install.find or install.install give it.
        store: the model store that stage ollama made. It is only read.
        folder: for the runtime store, HOME and the log. One server at a time uses it.
        port: 0 takes a free one.
        parallel: answers that are computed at the same time; each costs the memory of a context.
        start: seconds to wait for the first sign of life.

    Raises:
        BlockingIOError: another process serves from this folder.
        ConnectionError: Ollama ended, or does not answer, or shows another model than ours; with its last words and where its log is.
        OSError, ValueError: no or a damaged store, a port that is taken, a folder that cannot be written.
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
        with ExitStack() as held:
            with _written(folder):
                held.enter_context(
                    files.lock(folder / "lock", f"an Ollama that serves from {folder}")
                )
                digest = _runtime_store(store, folder / "models", config.name, manifest)
                (folder / "home").mkdir(exist_ok=True)
                if self.log.exists():
                    os.replace(self.log, self.log.with_name("ollama.log.1"))
                out = held.enter_context(self.log.open("wb"))
            host = f"127.0.0.1:{_free(port)}"
            self.url = f"http://{host}"
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    keeper.__file__,
                    str(keeper.GRACE),
                    str(binary.absolute()),
                    "serve",
                ],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=environment(environ, folder.absolute(), host, config.num_ctx, parallel),
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for us; we stop it
            )
            held.callback(self._stop)
            self.engine = self._ready(config, digest, start)
            self._held = held.pop_all()

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
        """Returns when Ollama and all that it started are gone. A second call does nothing."""
        self._held.close()

    def _stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()  # the sign that the keeper waits for
        try:
            self._process.wait(3 * keeper.GRACE)
        except subprocess.TimeoutExpired:  # it cannot be: the keeper itself hangs
            self._process.kill()
            self._process.wait()

    def _ready(self, config: OllamaConfig, digest: str, start: float) -> OllamaEngine:
        model = f"{config.name}:{ollama.TAG}"
        try:
            self._first_sign(Client(f"Ollama at {self.url}", self.url), start)
            engine = OllamaEngine(self.url, config)
            if engine.digest != digest:
                shown = f"{model} with digest {engine.digest or 'none'}, ours is {digest}"
                raise ConnectionError(f"Ollama at {self.url} shows {shown}: is it another one?")
            # Loads the model, with the options that every answer will have
            for _ in engine.stream("The", config, 1):
                pass
        except (OSError, LookupError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # What looks like a broken connection may be the end of the process
                self._process.wait(1.0)
            ended = self._process.poll()
            reason = (
                f"{error}"
                if ended is None
                else f"Ollama ended before it was ready (exit status {ended})"
            )
            raise ConnectionError(
                f"{reason}{_last_words(self.log, ended is not None)}; its log is {self.log}"
            ) from None
        return engine

    def _first_sign(self, client: Client, start: float) -> None:
        deadline = time.monotonic() + start
        while True:
            try:
                client.get("/api/version", _LOOK)
                return
            except ConnectionError:
                if self._process.poll() is not None:
                    raise
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"Ollama at {self.url} gave no answer in {start:.0f} s"
                    ) from None
                time.sleep(0.05)


@contextmanager
def open_ollama(
    config: OllamaConfig,
    say: Callable[[str], None],
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
) -> Iterator[OllamaEngine]:
    """An engine that is Ollama: one that runs, if engine.running_ollama accepts it; else one from
    PATH or `prefix`, started here and stopped with the block; else, with `install_it`, one that is
    installed into `prefix` first.

    Args:
        named: as in engine.running_ollama.
        archive: as in install.install.
        port: where to start one; then a running one is not looked for. None is a free port.

    Raises:
        FileNotFoundError: there is none, and it is not to be installed.
        ConnectionError, OSError, ValueError: as install.install and OllamaServer raise them, each of one line.
    """
    running = None
    if port is None:
        try:
            running = running_ollama(config, say, store, environ, named=named)
        except ConnectionError:
            pass  # what follows says enough
        except LookupError as error:
            say(f"{error}: it is not used")
    if running:
        yield running
        return
    binary = install.find(prefix, environ)
    if not binary:
        if not install_it:
            raise FileNotFoundError(
                f"there is no `ollama` on the PATH or in {prefix}: `--install` downloads one there (1.4 GB), without root"
            )
        binary = install.install(prefix, archive, cpu_only, say, environ)
    elif archive:
        say(
            f"{binary} is there already: {archive} is not installed (choose another --prefix, and take it off the PATH, if it should be)"
        )
    say(f"starting {binary}, its log is {folder / 'ollama.log'}")
    with OllamaServer(binary, store, config, folder, port or 0, parallel, environ) as server:
        yield server.engine


def environment(
    environ: Mapping[str, str], folder: Path, host: str, num_ctx: int, parallel: int
) -> dict[str, str]:
    """For Ollama: ours, without what would change its answers or its place behind our back, and with a HOME where it can write its key."""
    kept = {f"OLLAMA_{name}" for name in _KEPT}
    inherited = {
        name: value
        for name, value in environ.items()
        if name in kept or not name.startswith(("OLLAMA_", "LLAMA_ARG_"))
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
        "OLLAMA_KEEP_ALIVE": "-1",  # the model stays loaded as long as the server lives
    }


def _runtime_store(store: Path, folder: Path, name: str, manifest: dict[str, Any]) -> str:
    """Makes `folder` anew, and gives the sha256 of the manifest in it, which is what Ollama calls the model's digest."""
    source = ollama.manifest_path(store, name)
    with files.replacing(folder) as partial:
        copy = ollama.manifest_path(partial, name)
        copy.parent.mkdir(parents=True)
        shutil.copyfile(source, copy)
        (partial / "blobs").mkdir()
        for layer in [manifest["config"], *manifest["layers"]]:
            blob, target = (
                ollama.blob_path(store, layer["digest"]),
                ollama.blob_path(partial, layer["digest"]),
            )
            if layer["mediaType"].endswith(".image.model"):
                with contextlib.suppress(OSError):  # a file system without links gets a copy
                    target.symlink_to(blob.resolve())
                    continue
            shutil.copyfile(blob, target)
    return files.sha256(source)


def _free(port: int) -> int:
    """The port itself if nobody listens there, or a free one for 0. Raises OSError or ValueError if it cannot be had."""
    if not 0 <= port <= 65535:
        raise UserError(f"--ollama-port must lie in 0 to 65535, got {port}")
    with socket.socket() as probe:
        # As Ollama does: connections that are just ending do not take a port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(
                f"port {port} on 127.0.0.1 cannot be had ({error.strerror}): give another --ollama-port, or none for a free one"
            ) from None
        return int(probe.getsockname()[1])


def _last_words(log: Path, ended: bool) -> str:
    """`: …`, the line of the log that says most; empty if there is none. Of one that has ended, its last line is taken for want of an error."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        lines = [
            line.strip()
            for line in file.read().decode("utf-8", errors="replace").splitlines()
            if line.strip()
        ]
    telling = [
        line
        for line in lines
        if re.search(r"level=(ERROR|FATAL)|^Error|^panic|^fatal|[a-zA-Z]Error: ", line)
    ]
    plain = (
        [line for line in lines if not re.search(r"level=(INFO|DEBUG|WARN)|^\[GIN\]", line)]
        if ended
        else []
    )
    found = next((group[-1] for group in (telling, plain) if group), "")
    words = re.sub(r"^time=\S+ |level=\S+ |source=\S+ |^msg=", "", found)
    return f": {words[:300]}" if words else ""


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, BlockingIOError):
            raise
        why = "no room is left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise OSError(
            f"{error.filename or folder} cannot be written ({why}): Ollama's log and HOME belong into {folder}"
        ) from None
