"""Where a training runs: the section `runtime` of params.yaml.

Kept apart from the launchers, so that values are checked without them.
"""

import re
from dataclasses import dataclass
from typing import Literal

from antimatter.errors import UserError
from antimatter.params import Count, PositiveInt, Section

# The formats of sbatch's --time
TIME_LIMIT = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
# Options of sbatch that a training sets itself; another value would lose the job or its log
OWN_OPTIONS = {
    *("--array", "--chdir", "--dependency", "--error", "--job-name", "--nodes", "--ntasks"),
    *("--ntasks-per-node", "--output", "--parsable", "--partition", "--requeue", "--signal"),
    *("--time", "--wait", "--wrap"),
}


@dataclass(frozen=True, kw_only=True)
class LaunchRuntime(Section):
    executor: Literal["local", "ray", "slurm"]
    nodes: PositiveInt  # machines that share a training
    device: Literal["auto", "cpu", "cuda"]
    devices: Count  # processes of a training on each machine, one per device
    address: str  # Ray: of the cluster, host:port or auto; empty is this machine
    partition: str  # Slurm
    time_limit: str  # Slurm: of a job, hours:minutes:seconds
    sbatch: tuple[str, ...]  # Slurm: further options of a training's job

    def validate(self) -> None:
        super().validate()
        if self.trains_here:
            if self.nodes > 1:
                where = "ray without an address" if self.executor == "ray" else "local"
                raise UserError(
                    f"nodes is {self.nodes}, but executor {where} trains on this machine: set it "
                    "to 1, or executor to slurm or ray"
                )
            return
        if self.device != "cpu" and self.devices == 0:
            raise UserError(
                f"devices must be the number of GPUs of a machine, as executor {self.executor} "
                "starts a training on machines that this one does not see; got 0. For machines "
                "without GPUs set device to cpu"
            )
        if self.executor == "slurm":
            self._check_slurm()

    @property
    def trains_here(self) -> bool:
        """Whether this machine trains. Ray without an address would start on this machine too."""
        return self.executor == "local" or (self.executor == "ray" and not self.address)

    @property
    def processes(self) -> int:
        """Of a training on each machine of a cluster."""
        return self.devices or 1

    @property
    def world_size(self) -> int:
        """Processes that share the batch on a cluster."""
        return self.nodes * self.processes

    def limit_seconds(self) -> int | None:
        """The time limit of a Slurm job; None if there is none."""
        if not self.time_limit or self.time_limit.upper() in ("UNLIMITED", "INFINITE"):
            return None
        match = TIME_LIMIT.fullmatch(self.time_limit)
        if match is None:
            raise UserError(
                "time_limit must be as of sbatch --time, for example 12:00:00 or 2-00:00:00, "
                f"got {self.time_limit!r}"
            )
        days, *rest = match.groups()
        first, second, third = (int(part or 0) for part in rest)
        if days is not None:
            return ((int(days) * 24 + first) * 60 + second) * 60 + third
        if match[4] is not None:
            return (first * 60 + second) * 60 + third
        return first * 60 + second

    def _check_slurm(self) -> None:
        self.limit_seconds()
        for option in self.sbatch:
            name = option.split("=")[0]
            if not re.fullmatch(r"--[a-z][a-z0-9-]*(=.*)?", option):
                raise UserError(
                    f"sbatch must be a list of options such as --account=name, got {option!r}"
                )
            if name in OWN_OPTIONS:
                raise UserError(
                    f"sbatch: {option} cannot be given there: the training sets {name} itself, "
                    "from nodes, devices, partition and time_limit"
                )
