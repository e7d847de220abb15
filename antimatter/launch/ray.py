"""A training on a Ray cluster: an actor on each machine starts the processes of that machine.

Ray places the actors, each on a machine of its own, notices the loss of a machine, and ends them
with the process that submitted the training.
"""

import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from typing import Any

from antimatter.errors import UserError
from antimatter.launch.cluster import Cluster, Job
from antimatter.launch.config import LaunchRuntime
from antimatter.launch.machine import VISIBLE_DEVICES, Machine

# For the machines that a training needs to join the cluster: started by an autoscaler, or again
# after a failure
JOIN_SECONDS = 600.0
# For the other processes to notice by themselves that one is gone; in NCCL they may wait forever
ALONE_SECONDS = 30.0
# For a machine to answer a question
ANSWER_SECONDS = 5.0
# For a machine to start its processes: for Ray to start the actor, and for the folder to appear
START_SECONDS = 180.0
# For Ray to place a training on machines that are free
PLACE_SECONDS = 5.0
# Exit statuses of a process that has finished or paused
GOOD = (0, 130)


class RayCluster(Cluster):
    """Runs a job in a placement group: on each machine a bundle with the devices of its processes,
    which is free again when this process ends, however it ends.
    """

    def __init__(self, runtime: LaunchRuntime) -> None:
        """Connects to the cluster. Raises UserError if none answers."""
        self.runtime = runtime
        self.job: Job | None = None
        self.group: Any = None
        # The actors of an attempt, their addresses, and the answers that they owe
        self.machines: list[Any] = []
        self.addresses: list[str] = []
        self.answers: dict[Any, int] = {}
        # By number of the machine: the statuses of its processes, or why it is lost
        self.statuses: dict[int, list[int | None]] = {}
        self.lost: dict[int, str] = {}
        self.failed = self.asked = float("inf")
        self.why_waiting = ""
        self.ray = connect(runtime.address)
        # Ray prints forty lines of its state for a lost machine, and has no option against it. The
        # processes of the training print to the log
        self.nowhere = open(os.devnull, "w")  # noqa: SIM115
        self.quiet = redirect_stdout(self.nowhere)
        self.quiet.__enter__()

    def start(self, job: Job) -> None:
        self.job = job
        self.lost, self.statuses, self.failed = {}, {}, float("inf")
        self.asked = time.monotonic()
        strategy = "STRICT_SPREAD" if job.nodes > 1 else "PACK"
        self.group = self.ray.util.placement_group([self._bundle(job)] * job.nodes, strategy)

    def is_running(self) -> bool:
        if self.group is None:
            return False
        if not self.machines and not self._place():
            return True
        self._ask_machines()
        if not self._unfinished():
            self.cancel()
            return False
        if self._has_failed():
            self.failed = min(self.failed, time.monotonic())
            if time.monotonic() > self.failed + ALONE_SECONDS:
                self.cancel()
                return False
        return True

    def waiting_for(self) -> str:
        return self.why_waiting

    def pause(self) -> None:
        if not self.machines:
            self.cancel()
        for machine in self.machines:
            machine.send.remote(signal.SIGTERM)

    def cancel(self) -> None:
        ended = [machine.send.remote(signal.SIGKILL) for machine in self.machines]
        if ended:
            self.ray.wait(ended, num_returns=len(ended), timeout=ANSWER_SECONDS)
        for machine in self.machines:
            self.ray.kill(machine)
        if self.group is not None:
            self.ray.util.remove_placement_group(self.group)
        self.machines, self.answers, self.group = [], {}, None

    def reason(self) -> str:
        if self.lost:
            return "; ".join(self.lost.values())
        bad = [
            (status, self.addresses[number])
            for number, statuses in self.statuses.items()
            for status in statuses
            if status not in (None, *GOOD)
        ]
        if bad:
            # A signal is the cause of the other ends
            status, address = min(bad)
            how = f"status {status}" if status > 0 else f"signal {-status}"
            return f"a process on {address} ended with {how}"
        return "its processes ended and reported nothing"

    def close(self) -> None:
        with suppress(Exception):
            self.cancel()
        self.ray.shutdown()
        self.quiet.__exit__(None, None, None)
        self.nowhere.close()

    # What a job asks of a machine, and where it gets it

    def _bundle(self, job: Job) -> dict[str, float]:
        bundle = {"CPU": float(job.cpus * job.processes)}
        if self.runtime.device != "cpu":
            bundle["GPU"] = float(job.processes)
        return bundle

    def _place(self) -> bool:
        """Starts the processes if all machines are there."""
        assert self.job is not None
        if not self.group.wait(PLACE_SECONDS):
            self.why_waiting = self._missing(self.job)
            return False
        self.why_waiting = ""
        strategy = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        actor = self.ray.remote(Machine)
        for number in range(self.job.nodes):
            where = strategy(self.group, placement_group_bundle_index=number)
            bundle = self._bundle(self.job)
            options = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0)}
            self.machines.append(actor.options(**options, scheduling_strategy=where).remote())
        self.statuses = {number: [None] for number in range(self.job.nodes)}
        self._start_processes(self.job)
        return True

    def _start_processes(self, job: Job) -> None:
        points = self._answers([machine.meeting_point.remote() for machine in self.machines])
        self.addresses = [address for address, _ in points]
        if self.lost:
            return
        address, port = points[0]
        common = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        environment = _environment() | job.environment | common
        environment["WORLD_SIZE"] = str(job.nodes * job.processes)
        self._answers(
            [
                machine.start.remote(job, environment, number * job.processes)
                for number, machine in enumerate(self.machines)
            ]
        )
        if not self.lost:
            each = f"{job.processes} processes" if job.processes > 1 else "one process"
            print(f"training on {', '.join(self.addresses)}: {each} on each", file=sys.stderr)

    def _answers(self, references: Sequence[Any]) -> list[Any]:
        """The answer of each machine; of one that is lost or does not answer its number.

        Raises:
            UserError: a machine cannot start the processes.
        """
        found: list[Any] = []
        deadline = time.monotonic() + START_SECONDS
        for number, reference in enumerate(references):
            try:
                left = max(0.0, deadline - time.monotonic())
                found.append(self.ray.get(reference, timeout=left))
            except self.ray.exceptions.RayTaskError as error:
                where = self.addresses[number] if self.addresses else "a machine"
                raise UserError(
                    f"{where} cannot start the training ({error.cause}): every machine of the "
                    "cluster needs this checkout, its .venv and its .state under the same path"
                ) from None
            except self.ray.exceptions.RayError as error:
                self._lose(number, error)
                found.append((f"machine {number}", 0))
        return found

    # While the processes run

    def _ask_machines(self) -> None:
        """Adds to the log what the processes have printed, and notes which have ended."""
        assert self.job is not None
        asked = {*self.answers.values(), *self.lost}
        for number, machine in enumerate(self.machines):
            if number not in asked and None in self.statuses[number]:
                self.answers[machine.poll.remote()] = number
        if not self.answers:
            return
        # One that does not answer in time is asked no second time, and Ray says when it is lost
        waiting = list(self.answers)
        answered, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=ANSWER_SECONDS)
        with self.job.log.open("ab") as log:
            for reference in answered:
                number = self.answers.pop(reference)
                try:
                    output, self.statuses[number] = self.ray.get(reference)
                    log.write(output)
                except self.ray.exceptions.RayError as error:
                    self._lose(number, error)

    def _lose(self, number: int, error: Exception) -> None:
        name = self.addresses[number] if self.addresses else str(number)
        how = f"was lost ({type(error).__name__})"
        if isinstance(error, self.ray.exceptions.GetTimeoutError):
            how = f"did not start its processes in {START_SECONDS:g} s"
        self.lost[number] = f"machine {name} {how}"

    def _unfinished(self) -> bool:
        return any(
            None in statuses
            for number, statuses in self.statuses.items()
            if number not in self.lost
        )

    def _has_failed(self) -> bool:
        statuses = (status for found in self.statuses.values() for status in found)
        return bool(self.lost) or any(status not in (None, *GOOD) for status in statuses)

    def _missing(self, job: Job) -> str:
        """Why the machines are not there yet.

        Raises:
            UserError: the cluster has not got them for JOIN_SECONDS.
        """
        bundle = self._bundle(job)
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        fitting = [
            node
            for node in nodes
            if all(node["Resources"].get(name, 0) >= amount for name, amount in bundle.items())
        ]
        needed = f"{job.nodes} with {_amounts(bundle)} each"
        if len(fitting) >= job.nodes:
            self.asked = time.monotonic()
            return f"waiting for machines: other work uses some of the {needed}"
        has = ", ".join(
            f"{node['NodeManagerAddress']} {_amounts(node['Resources'])}" for node in nodes
        )
        found = f"of {needed}, the Ray cluster has {len(fitting)} ({has})"
        if time.monotonic() > self.asked + JOIN_SECONDS:
            raise UserError(
                f"runtime.nodes and devices ask for more machines than there are: {found}: lower "
                "them, or add machines with `ray start --address`, then run again to resume"
            )
        return f"waiting for machines: {found}"


def _environment() -> dict[str, str]:
    """The environment of this process, without what Ray decides on each machine."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") and name not in VISIBLE_DEVICES
    }


def _amounts(resources: Mapping[str, float]) -> str:
    amounts = [(resources.get("CPU", 0), "CPU"), (resources.get("GPU", 0), "GPU")]
    return " and ".join(f"{n:g} {name}{'s' * (n != 1)}" for n, name in amounts if n)


def connect(address: str, **options: Any) -> Any:
    """Returns the module ray, connected to a cluster.

    Args:
        address: host:port or auto; empty starts a cluster of this machine alone.
        options: of ray.init.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
        import ray.util.placement_group
        import ray.util.scheduling_strategies
    except ModuleNotFoundError:
        fix = "`pip install -c requirements.lock -e '.[ray]'`, or set runtime.executor to local"
        raise UserError(f"runtime.executor ray needs the package ray: {fix}") from None
    # Ray itself would try for minutes
    if match := re.fullmatch(r"(.+):(\d+)", address):
        try:
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        except OSError as error:
            fault = f"no Ray cluster answers at {address} ({error})"
            fix = "start one with `ray start --head`"
            raise UserError(f"runtime.address: {fault}: {fix}") from None
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        # Without "local" Ray would join a cluster that somebody has started on this machine
        ray.init(address=address or "local", **quiet, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        if not address:
            fix = "set runtime.executor to local"
            raise UserError(f"Ray does not start on this machine ({reason}): {fix}") from None
        fault = f"Ray does not connect to {address!r} ({reason})"
        fix = "if the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        raise UserError(f"runtime.address: {fault}; {fix}") from None
    return ray
