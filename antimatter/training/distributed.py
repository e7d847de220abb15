"""One process per device. On one machine the main process starts the others; on several machines
the cluster of `runtime` or torchrun starts all of them.
"""

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

from antimatter.errors import UserError
from antimatter.launch import inside
from antimatter.launch.inside import PARENT

# Seconds for the main process to find out by itself why another one ended
GRACE = 10.0


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share a batch, seen from one of them."""

    rank: int = 0
    size: int = 1
    # Rank on this machine, which is the number of its GPU
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, the same bits in each."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def broadcast(self, compute: Callable[[], int | None]) -> int | None:
        """The value that `compute` returns in the main process; the others do not call it."""
        box = [compute() if self.is_main else None]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = ProcessGroup()


def is_main() -> bool:
    """Whether this process prints and writes for all; known before the processes have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group(size: int, device_type: str) -> Iterator[ProcessGroup]:
    """Joins the processes that share a batch, for the block.

    If no cluster and no torchrun has started them, this process becomes rank 0 and starts the
    others. So the process that a user or DVC has started, and can end, is the trainer itself; the
    others end with it.

    Raises:
        UserError: another process has failed.
    """
    if PARENT in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[PARENT]),), daemon=True).start()
    if size == 1:
        yield SINGLE_PROCESS
        return
    others: list[subprocess.Popen[bytes]] = []
    if "RANK" not in os.environ:
        others = _start_others(size, [sys.executable, *sys.orig_argv[1:]])
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    group = ProcessGroup(rank, size, local_rank)
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    ended = threading.Event()
    if others:
        threading.Thread(target=_watch, args=(others, ended), daemon=True).start()
    try:
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
        yield group
        # No process leaves while another still needs it
        group.barrier()
    except RuntimeError as error:
        # It may be an exchange that fails because another process is gone. Then the main process
        # says what happened.
        is_lost = re.search(r"peer|remote|socket|NCCL", str(error)) is not None
        if inside.is_launched() and is_lost:
            # The submitting process starts the job again, and so needs no traceback
            reason = str(error).splitlines()[0]
            print(f"process {rank} lost another one ({reason})", file=sys.stderr, flush=True)
            inside.report(inside.LOST)
            os._exit(1)
        if PARENT in os.environ and is_lost:
            os._exit(1)
        time.sleep(1)
        if (failure := _failure(others)) is None:
            raise
        raise UserError(failure) from error
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


def _start_others(size: int, command: list[str]) -> list["subprocess.Popen[bytes]"]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
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
        for rank in range(1, size)
    ]


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone, even by SIGKILL.

    Otherwise it would wait for it forever.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _watch(others: list["subprocess.Popen[bytes]"], ended: threading.Event) -> None:
    """Ends this process when another one has failed.

    It may be waiting for that one in a library, where no exception reaches it.
    """
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
            return (
                f"the process of device {rank} ended with {reason}: run again to resume from the "
                "last saved state"
            )
    return None
