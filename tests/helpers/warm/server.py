"""Runs stages for sitecustomize.py in forks of itself. Ends with the tests for which it was started:
the address that it listens at ends with the number of their process.
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

# What the stages import that is not ours; of ours they import what their folder has
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
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # who has started this has signals blocked
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
    """Starts the stage and says how it ends; kills it when nobody waits for it any more."""
    os.setsid()
    text, files = b"", []
    while not text.endswith(b"\n"):
        found, passed, *_ = socket.recv_fds(link, 1 << 16, 3)
        text, files = text + found, files + passed
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
    """As `python -m module` does in this folder."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [module, *arguments]
    sys.stdout.reconfigure(line_buffering=bool(environment.get("PYTHONUNBUFFERED")) or os.isatty(1))  # type: ignore[union-attr]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind("\0" + address)
        except OSError:  # another one has it
            return
        listening.listen(64)
        # As antimatter/pipeline/stage.py, before torch
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        for name in LIBRARIES:
            importlib.import_module(name)
        gc.freeze()
        serve(listening, int(address.rpartition("-")[2]))


if __name__ == "__main__":
    main(sys.argv[1])
