"""How the data stages run their tasks: the section `runtime` of params.yaml.

Kept apart from the executors, so that values are checked without importing datatrove.
"""

from dataclasses import dataclass
from typing import Literal

from antimatter.params import PositiveInt, Section


@dataclass(frozen=True, kw_only=True)
class TasksRuntime(Section):
    executor: Literal["local", "ray", "slurm"]
    workers: PositiveInt  # tasks at a time
    address: str  # Ray: of the cluster, host:port or auto; empty starts one on this machine
    partition: str  # Slurm
    time_limit: str  # Slurm: of one task, hours:minutes:seconds
    memory_gb: PositiveInt  # Ray and Slurm: of one task
