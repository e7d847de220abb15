"""Decides whether a training runs here or on a cluster, and starts it there."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from antimatter.launch import attempts, inside
from antimatter.launch.cluster import Cluster, Job
from antimatter.launch.config import LaunchRuntime
from antimatter.launch.ray import RayCluster
from antimatter.launch.slurm import SlurmCluster


def is_elsewhere(runtime: LaunchRuntime) -> bool:
    """Whether this process has to start the training on a cluster, and not to train itself.

    A process that a cluster, torchrun or another process has started trains.
    """
    return not (runtime.trains_here or inside.is_launched() or "RANK" in os.environ)


def train(
    stage: str, states: Path, runtime: LaunchRuntime, cpus: int, outputs: Sequence[Path]
) -> None:
    """Runs the command of this process on a cluster, once for each device, until it has written the
    outputs.

    Args:
        states: the resume directory of the training.
        cpus: cores of each process.

    Raises:
        As attempts.run().
    """
    job = Job(
        command=(sys.executable, *sys.orig_argv[1:]),
        workspace=Path.cwd(),
        folder=states.parent / "launch" / states.name,
        training=states.name,
        nodes=runtime.nodes,
        processes=runtime.processes,
        cpus=cpus,
    )
    cluster: Cluster
    cluster = SlurmCluster(stage, runtime) if runtime.executor == "slurm" else RayCluster(runtime)
    try:
        attempts.run(stage, states, job, outputs, cluster)
    finally:
        cluster.close()
