"""The stage `checkpoints` on a real Slurm of two slurmd on this machine, of which one is killed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import small_checkout

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
# Debian has the daemons where only root looks
PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd starts jobs as root"),
]
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE
"""


class Slurm:
    """The daemons, which end with the test."""

    second: "subprocess.Popen[bytes]"

    def __init__(self, folder: Path, daemons: ExitStack) -> None:
        self.folder, self.daemons = folder, daemons

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        log = self.daemons.enter_context((self.folder / "log").open("ab"))
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.daemons.callback(process.wait)
        self.daemons.callback(process.kill)
        return process

    def start_node(self, name: str) -> "subprocess.Popen[bytes]":
        return self.start("slurmd", "-D", "-N", name)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def real_slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    monkeypatch.setenv("PATH", PATH)
    # The path of a socket is short
    with tempfile.TemporaryDirectory(dir="/tmp") as name, ExitStack() as daemons:
        folder = Path(name)
        text = CONFIG.format(host=socket.gethostname(), folder=folder, ports=free_ports(3))
        (folder / "slurm.conf").write_text(text)
        (folder / "key").write_bytes(os.urandom(32))
        (folder / "key").chmod(0o400)
        for part in ("state", "spool-n1", "spool-n2"):
            (folder / part).mkdir()
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        slurm = Slurm(folder, daemons)
        paths = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid"}
        paths |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        options = [f"--{option}={folder / file}" for option, file in paths.items()]
        slurm.start("munged", "--foreground", "--force", *options)
        until((folder / "munge.socket").exists)
        slurm.start("slurmctld", "-D", "-i")
        slurm.second = slurm.start_node("n2")
        slurm.start_node("n1")
        idle = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        until(lambda: subprocess.run(idle, capture_output=True, text=True).stdout.strip() == "2")
        yield slurm


def second_process(folder: Path) -> psutil.Process:
    """The process of rank 1 of the training in a checkout."""
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.environ().get("RANK") == "1":
                return process
        except psutil.Error:
            continue
    raise AssertionError("there is no process of rank 1")


def test_a_machine_that_is_lost_and_comes_back_changes_no_byte(
    tmp_path: Path, real_slurm: Slurm, token_file: Callable[..., np.ndarray]
) -> None:
    tokens, parameters = token_file(3000), {"checkpoints.steps": 150}
    here = small_checkout.make(tmp_path / "here", tokens, parameters)
    small_checkout.train_with_two_processes(here)
    nodes = {"runtime.executor": "slurm", "runtime.nodes": 2}
    there = small_checkout.make(tmp_path / "there", tokens, parameters | nodes)

    stage = small_checkout.start(there)
    states = ".state/checkpoints-*/step-00000010.pt"
    until(lambda: stage.poll() is not None or list(there.glob(states)))
    training = second_process(there)
    for process in (real_slurm.second, training.parent(), training):
        process.send_signal(signal.SIGKILL)
    (log,) = there.glob(".state/launch/*/1/log")
    until(lambda: "srun: error" in log.read_text())
    # Before Slurm would notice that it was lost
    real_slurm.start_node("n2")
    output = small_checkout.finish(stage)
    assert small_checkout.outputs(there) == small_checkout.outputs(here)
    assert re.search(r"the job ended \(\w+\): starting again from step [1-9]", output)
    queue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert queue.stdout == ""
