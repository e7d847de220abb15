"""The stage `checkpoints` on a real Slurm of three nodes on this machine, of which one dies.

Each daemon runs in a PID namespace, so that its end is the end of all that it has
started: of a node as when a machine loses its power, and of all of them at the end of the test.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from helpers import small_checkout

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "unshare")
# Debian has the daemons where only root looks
PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd starts jobs as root"),
]
# The first process of a namespace must collect the others when they end, which bash does and slurmd
# does not
ALONE = (
    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("bash", "-c", '"$@" & wait', "init"),
)
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
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=4
PartitionName=all Nodes=n1,n2,n3 Default=YES MaxTime=INFINITE
"""


class Slurm:
    """The daemons, which end with the test."""

    def __init__(self, folder: Path, daemons: ExitStack) -> None:
        self.folder, self.daemons = folder, daemons
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        log = self.daemons.enter_context((self.folder / "log").open("ab"))
        process = subprocess.Popen([*ALONE, *command], stdout=log, stderr=log)
        self.daemons.callback(self.end, process)
        return process

    def start_node(self, name: str) -> None:
        (self.folder / f"spool-{name}").mkdir()
        self.nodes[name] = self.start("slurmd", "-D", "-N", name)
        idle = ["sinfo", "--noheader", "--states=idle", f"--nodes={name}", "--format=%D"]
        until(lambda: subprocess.run(idle, capture_output=True, text=True).stdout.strip() == "1")

    @staticmethod
    def end(process: "subprocess.Popen[bytes]") -> None:
        """SIGKILL for a daemon and for all that it has started."""
        process.kill()
        process.wait(10)


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
    """Has two nodes."""
    monkeypatch.setenv("PATH", PATH)
    # The path of a socket is short
    with tempfile.TemporaryDirectory(dir="/tmp") as name, ExitStack() as daemons:
        folder = Path(name)
        text = CONFIG.format(host=socket.gethostname(), folder=folder, ports=free_ports(4))
        (folder / "slurm.conf").write_text(text)
        (folder / "key").write_bytes(os.urandom(32))
        (folder / "key").chmod(0o400)
        (folder / "state").mkdir()
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        slurm = Slurm(folder, daemons)
        paths = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid"}
        paths |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        options = [f"--{option}={folder / file}" for option, file in paths.items()]
        slurm.start("munged", "--foreground", "--force", *options)
        until((folder / "munge.socket").exists)
        slurm.start("slurmctld", "-D", "-i")
        slurm.start_node("n1")
        slurm.start_node("n2")
        yield slurm


def test_another_machine_takes_over_from_one_that_dies_and_changes_no_byte(
    tmp_path: Path, real_slurm: Slurm, token_file: Callable[..., np.ndarray]
) -> None:
    tokens, parameters = token_file(3000), {"checkpoints.steps": 500}
    here = small_checkout.make(tmp_path / "here", tokens, parameters)
    small_checkout.train_with_two_processes(here)
    nodes = {"runtime.executor": "slurm", "runtime.nodes": 2}
    there = small_checkout.make(tmp_path / "there", tokens, parameters | nodes)

    # Without warm processes, which would not be in the namespace of a node
    stage = small_checkout.start(there, **dict.fromkeys(small_checkout.warm(), ""))
    try:
        states = ".state/checkpoints-*/step-00000010.pt"
        until(lambda: stage.poll() is not None or list(there.glob(states)))
        real_slurm.end(real_slurm.nodes["n2"])
        real_slurm.start_node("n3")
        output = small_checkout.finish(stage)
    finally:
        stage.kill()
    assert small_checkout.outputs(there) == small_checkout.outputs(here)
    assert re.search(r"the job ended \(NODE_FAIL\): starting again from step [1-9]", output)
    queue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert queue.stdout == ""
