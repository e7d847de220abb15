"""Where and with how many workers the data stages run, of params.yaml.

Apart from the code that it steers, so that values are checked without importing datatrove.
"""

from dataclasses import dataclass
from typing import Literal

from antimatter.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EngineRuntime:
    executor: Literal["local", "ray", "slurm"]
    workers: int  # tasks at a time
    address: str  # Ray: of the cluster, host:port or auto; empty starts one on this machine
    partition: str  # Slurm
    time_limit: str  # Slurm: of one task, hours:minutes:seconds
    memory_gb: int  # Ray and Slurm: what a task asks for

    def __post_init__(self) -> None:
        for name in ("workers", "memory_gb"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
