"""Runs stages for sitecustomize.py in forks of itself.

It ends with the tests that started it: its address ends with the number of their process.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import sys
from multiprocessing import connection

# The third-party imports of the stages. They import our own modules from the folder they run in
LIBRARIES = (
    "datasets",
    "datatrove.executor",
    "datatrove.pipeline.filters.c4_filters",
    "datatrove.pipeline.filters.gopher_quality_filter",
    "datatrove.pipeline.filters.gopher_repetition_filter",
    "ftfy",
    "gguf",
    "huggingface_hub",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pyarrow.parquet",
    "rensa",
    "safetensors.torch",
    "tiktoken",
    "tokenizers",
    "torch._dynamo",
    "torch.distributed",
    "yaml",
)


def serve(listening: socket.socket, tests: int) -> None:
    # sitecustomize.py had blocked signals when it started this process
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if select.select([listening], [], [], 1)[0]:
            link, _ = listening.accept()
            with link:
                if os.fork() == 0:
                    listening.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    attend(link)
                    os._exit(0)
            continue
        try:
            os.kill(tests, 0)
        except ProcessLookupError:
            return


def attend(link: socket.socket) -> None:
    """Starts a stage and reports its exit code. Kills it if the client is gone."""
    os.setsid()
    text, files = b"", []
    while not text.endswith(b"\n"):
        received, passed, *_ = socket.recv_fds(link, 1 << 16, 3)
        text, files = text + received, files + passed
    stage = multiprocessing.get_context("fork").Process(
        target=run, args=(files,), kwargs=json.loads(text)
    )
    stage.start()
    for file in files:
        os.close(file)
    link.sendall(f"{stage.pid}\n".encode())
    if stage.sentinel not in connection.wait([stage.sentinel, link]):
        stage.kill()
    stage.join()
    with contextlib.suppress(BrokenPipeError):
        link.sendall(f"{stage.exitcode}\n".encode())


def run(
    files: list[int], module: str, arguments: list[str], folder: str, environment: dict[str, str]
) -> None:
    """Like `python -m module` in this folder."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [module, *arguments]
    # A training on a cluster starts its own command there
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    is_unbuffered = bool(environment.get("PYTHONUNBUFFERED")) or os.isatty(1)
    sys.stdout.reconfigure(line_buffering=is_unbuffered)  # type: ignore[union-attr]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind("\0" + address)
        # Another server has the address
        except OSError:
            return
        listening.listen(64)
        # Like antimatter/threads.py, before torch
        os.environ.setdefault("GOMP_SPINCOUNT", "4000")
        for name in LIBRARIES:
            importlib.import_module(name)
        gc.freeze()
        serve(listening, int(address.rpartition("-")[2]))


if __name__ == "__main__":
    main(sys.argv[1])
