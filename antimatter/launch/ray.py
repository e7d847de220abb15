"""A training on a Ray cluster."""

from antimatter.errors import UserError
from antimatter.launch.cluster import Cluster, Job
from antimatter.launch.config import LaunchRuntime


class RayCluster(Cluster):
    def __init__(self, runtime: LaunchRuntime) -> None:
        self.runtime = runtime

    def start(self, job: Job) -> None:
        raise UserError("runtime.executor ray does not train yet: set it to local")

    def is_running(self) -> bool:
        return False

    def pause(self) -> None: ...

    def cancel(self) -> None: ...

    def reason(self) -> str:
        return ""
