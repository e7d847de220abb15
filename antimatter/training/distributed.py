"""One process a device. On one machine the first process starts the others; on several machines torchrun starts all of them."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

PARENT = "ANTIMATTER_PARENT"  # marks a process that launched() has started
GRACE = 10.0  # seconds in which the first process may find out by itself why another one ended


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among those that share a batch."""

    rank: int = 0
    world: int = 1
    local: int = 0  # rank on this machine: the number of its GPU

    @property
    def first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Over the ranks, the same bits on each."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def agree(self, ask: Callable[[], int | None]) -> int | None:
        """What the first rank finds, on all; the others do not look."""
        box = [ask() if self.first else None]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()


ALONE = Ranks()


def is_first() -> bool:
    """Whether this process speaks and writes for all; known before they have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def launched(world: int, device_type: str) -> Iterator[Ranks]:
    """Joins the processes that share a batch, for the block. Without torchrun this process becomes rank 0 and starts the others.

    So what a user or DVC has started, and can end, is the trainer itself; the others end with it, however it ends.

    Raises:
        OSError: another process has failed.
    """
    if world == 1:
        yield ALONE
        return
    others: list[subprocess.Popen[bytes]] = []
    if "RANK" not in os.environ:
        others = _start_others(world, [sys.executable, *sys.orig_argv[1:]])
    elif PARENT in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[PARENT]),), daemon=True).start()
    ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    if device_type == "cuda":
        torch.cuda.set_device(ranks.local)
    ended = threading.Event()
    if others:
        threading.Thread(target=_watch, args=(others, ended), daemon=True).start()
    try:
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
        yield ranks
        ranks.wait()  # none leaves while another still needs it
    except RuntimeError as error:  # maybe an exchange that fails because a partner is gone
        if PARENT in os.environ and re.search(r"peer|remote|socket|NCCL", str(error)):
            os._exit(1)  # the first process says what happened
        time.sleep(1)
        if (failure := _failure(others)) is None:
            raise
        raise OSError(failure) from error
    finally:
        ended.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        if others:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)
        for other in others:
            try:
                other.wait(GRACE)
            except subprocess.TimeoutExpired:
                other.kill()


def _start_others(world: int, command: list[str]) -> list["subprocess.Popen[bytes]"]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    os.environ.update(common, RANK="0", LOCAL_RANK="0")
    return [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                **common,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                PARENT: str(os.getpid()),
            },
        )
        for rank in range(1, world)
    ]


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone, even by SIGKILL: it would wait for it for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _watch(others: list["subprocess.Popen[bytes]"], ended: threading.Event) -> None:
    """Ends this process when another one has failed: it may wait for it for ever, in a library that no exception reaches."""
    while not ended.wait(0.5):
        failure = _failure(others)
        if failure is not None and not ended.wait(GRACE):
            print(f"error: {failure}", file=sys.stderr, flush=True)
            for other in others:
                other.kill()
            os._exit(1)


def _failure(others: list["subprocess.Popen[bytes]"]) -> str | None:
    for rank, other in enumerate(others, 1):
        status = other.poll()
        if status not in (None, 0, 130):
            reason = f"signal {-status}" if status < 0 else f"status {status}"
            return f"the process of device {rank} ended with {reason}: run again to go on from the last saved state"
    return None
