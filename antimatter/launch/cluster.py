"""What a training needs of a cluster. Slurm and Ray implement it with their own launchers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from antimatter.launch import inside

# Set for each process, besides the environment of the submitting one: what torch.distributed reads
DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Job:
    """One attempt at a training: `command` once for each of nodes x processes."""

    command: Sequence[str]
    # Of the checkout, in which the command runs on each machine
    workspace: Path
    # Of this attempt, which all machines see
    folder: Path
    # Of the resume directory
    training: str
    nodes: int
    # On each machine
    processes: int
    # Cores of a process
    cpus: int

    @property
    def log(self) -> Path:
        """The output of all processes."""
        return self.folder / "log"

    @property
    def environment(self) -> dict[str, str]:
        """Further variables of each process, besides DISTRIBUTED."""
        return {inside.ATTEMPT: str(self.folder), inside.TRAINING: self.training}


class Cluster(ABC):
    """Runs one job at a time."""

    def find(self, job: Job, is_stopped: Callable[[], bool]) -> bool:
        """Whether a job of this training still runs, which a call that was killed has submitted.

        Then the other methods are about that job. Ends other jobs of this checkout and stage.

        Args:
            job: the last attempt.
            is_stopped: whether the user wants to wait no longer.

        Raises:
            InterruptedError: the user did not want to wait for the end of other jobs.
        """
        return False

    @abstractmethod
    def start(self, job: Job) -> None:
        """Submits the job and returns. Raises UserError if the cluster refuses it."""

    @abstractmethod
    def is_running(self) -> bool:
        """Whether the job waits or a process of it may still run."""

    def waiting_for(self) -> str:
        """Why the job does not run yet; empty if it runs."""
        return ""

    @abstractmethod
    def pause(self) -> None:
        """Sends SIGTERM to the processes once, so that they save their state and end; removes a job
        that waits.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Ends the job at once."""

    @abstractmethod
    def reason(self) -> str:
        """Why a job ended that reported nothing, in a few words.

        Raises UserError if another attempt would end in the same way.
        """

    def close(self) -> None:  # noqa: B027
        """Disconnects from the cluster."""
