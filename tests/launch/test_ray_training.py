"""A training on a real Ray cluster of two machines, both on this host."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import small_checkout

from antimatter.errors import UserError
from antimatter.launch import attempts, inside
from antimatter.launch import ray as launch_ray
from antimatter.launch.cluster import Job
from antimatter.launch.config import LaunchRuntime
from antimatter.launch.ray import RayCluster

DEFAULT: dict[str, Any] = {
    **dict.fromkeys(("partition", "time_limit"), ""),
    **{"executor": "ray", "nodes": 2, "device": "cpu", "devices": 0, "sbatch": ()},
}


def runtime(address: str, **values: Any) -> LaunchRuntime:
    return LaunchRuntime(**{**DEFAULT, "address": address, **values})


def job(folder: Path, **values: int) -> Job:
    shape = {"nodes": 2, "processes": 1, "cpus": 1, **values}
    launch = folder / ".state/launch/training"
    return Job(small_checkout.COMMAND, folder, launch, "training", **shape)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two machines with one core each."""
    # Slow, so it is imported only here
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    cluster.add_node(**machine)
    yield cluster.address
    cluster.shutdown()


def processes(folder: Path) -> dict[int, psutil.Process]:
    """The processes of a job, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            variables = process.environ()
        except psutil.Error:
            continue
        if variables.get(inside.ATTEMPT, "").startswith(str(folder)):
            found[int(variables["RANK"])] = process
    return found


@pytest.mark.slow
def test_two_machines_one_of_them_lost_leave_the_bytes_of_two_processes(
    address: str,
    tmp_path: Path,
    token_file: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = token_file(3000)
    parameters = {"checkpoints.steps": 400}
    here = small_checkout.make(tmp_path / "here", tokens, parameters)
    there = small_checkout.make(tmp_path / "there", tokens, parameters)
    small_checkout.train_with_two_processes(here)
    monkeypatch.setattr(attempts, "POLL_SECONDS", 0.2)
    # On a machine that is too slow for Ray, it takes one of its machines for lost
    monkeypatch.setattr(launch_ray, "JOIN_SECONDS", 30.0)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    # Without the name of the training, which only its processes can compute
    environment = property(lambda job: {inside.ATTEMPT: str(job.folder)})
    monkeypatch.setattr(Job, "environment", environment)
    killed = []

    def lose_the_second() -> None:
        deadline = time.monotonic() + 120
        while not list(there.glob(".state/checkpoints-*/step-00000010.pt")):
            assert time.monotonic() < deadline, "the training saved no state"
            time.sleep(0.01)
        killed.append(processes(there)[1])
        os.kill(killed[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=lose_the_second, daemon=True)
    thread.start()
    cluster = RayCluster(runtime(address))
    try:
        states = there / ".state"
        attempts.run("checkpoints", states, job(there), [there / "models/checkpoints"], cluster)
    finally:
        cluster.close()
    assert killed and not processes(there)
    assert small_checkout.outputs(there) == small_checkout.outputs(here)
    output = capsys.readouterr().err
    assert "ended with signal 9): starting again" in output and "resuming from step" in output


def test_a_cluster_that_is_too_small_is_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_ray, "JOIN_SECONDS", 0.0)
    monkeypatch.setattr(launch_ray, "PLACE_SECONDS", 0.1)
    cluster = RayCluster(runtime(address))
    try:
        cluster.start(job(tmp_path, cpus=3))
        with pytest.raises(
            UserError, match=r"of 2 with 3 CPUs each, the Ray cluster has 0 \(.*1 CPU"
        ):
            cluster.is_running()
    finally:
        cluster.close()


def test_a_machine_that_does_not_start_its_processes_is_lost(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_ray, "START_SECONDS", 0.0)
    cluster = RayCluster(runtime(address))
    try:
        cluster.start(job(tmp_path))
        while cluster.is_running():
            time.sleep(0.1)
        fault = "did not start its processes in 0 s"
        assert cluster.reason() == f"machine 0 {fault}; machine 1 {fault}"
    finally:
        cluster.close()


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"runtime\.address: .* 127\.0\.0\.1:9 .*`ray start --head`"
    ):
        RayCluster(runtime("127.0.0.1:9"))


def test_a_ray_that_does_not_start_here_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**options: Any) -> None:
        raise RuntimeError("no space left\non /dev/shm")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError) as error:
        launch_ray.connect("", num_cpus=2)
    assert str(error.value) == (
        "Ray does not start on this machine (no space left): set runtime.executor to local"
    )


def test_without_the_package_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the package ray: `pip install .*\.\[ray\]'`"):
        RayCluster(runtime("head:6379"))
