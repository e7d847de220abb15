"""What runs on each machine of a Ray cluster: an actor that starts the processes of a training.

The training runs in child processes, as it sets signal handlers, which only a main thread may, and
the main thread of a worker is Ray's.
"""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping

from antimatter.launch import inside
from antimatter.launch.cluster import Job

# For the folder of an attempt to appear on a machine, in seconds
VISIBLE_SECONDS = 60.0
# Ray chooses the devices of an actor
VISIBLE_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Machine:
    """The processes of a training on one machine; lives there, as an actor."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        # What they print; a file, as a pipe that nobody reads would stop them
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.position = 0

    def meeting_point(self) -> tuple[str, int]:
        """The address of this machine, and a free port."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def start(self, job: Job, environment: Mapping[str, str], first_rank: int) -> None:
        """Starts the processes.

        Args:
            environment: of the submitting process, with what the processes have in common.
            first_rank: of the first process.

        Raises:
            OSError: this machine does not see the workspace, the folder or the command.
        """
        deadline = time.monotonic() + VISIBLE_SECONDS
        while not job.folder.exists() and time.monotonic() < deadline:
            time.sleep(1)
        os.stat(job.folder)
        own = {name: os.environ[name] for name in VISIBLE_DEVICES if name in os.environ}
        for local_rank in range(job.processes):
            rank = {"RANK": str(first_rank + local_rank), "LOCAL_RANK": str(local_rank)}
            self.processes.append(
                subprocess.Popen(
                    job.command,
                    cwd=job.workspace,
                    env={**environment, **own, **rank, inside.PARENT: str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=self.output,
                    stderr=self.output,
                )
            )

    def poll(self) -> tuple[bytes, list[int | None]]:
        """What the processes have printed since the last call, and the exit status of each."""
        statuses = [process.poll() for process in self.processes]
        # At the given position, as the processes write where the file's own position is
        size = os.fstat(self.output.fileno()).st_size
        new = os.pread(self.output.fileno(), size - self.position, self.position)
        if None in statuses:
            new = new[: new.rfind(b"\n") + 1]
        self.position += len(new)
        return new, statuses

    def send(self, number: int) -> None:
        """Sends a signal to the processes, and waits for their end if it is SIGKILL."""
        for process in self.processes:
            process.send_signal(number)
        if number == signal.SIGKILL:
            for process in self.processes:
                process.wait()
