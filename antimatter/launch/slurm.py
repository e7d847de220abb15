"""A training as a job of a Slurm cluster: srun starts one process per device."""

import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which

from antimatter import files
from antimatter.errors import UserError
from antimatter.launch.cluster import Cluster, Job
from antimatter.launch.config import LaunchRuntime

# The port at which the processes meet, below those that systems give to clients (32768 on Linux)
FIRST_PORT, PORTS = 20_000, 10_000
# Before the time limit Slurm sends SIGTERM, so that the training saves its state: this many
# seconds, or for a short limit this share of it
LEAD_SECONDS, LEAD_SHARE = 300, 0.1
# Why a job that waits will never run
HOPELESS = {
    *("AccountNotAllowed", "BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionNodeLimit"),
    *("PartitionTimeLimit", "QOSNotAllowed"),
}
POLL_SECONDS = 2.0  # while jobs of another training end
PATIENCE = 60.0  # seconds for a controller that does not answer
# The exit status of a machine that does not see the folder of the attempt, and of a process that
# starts after the request to pause
UNSEEN, PAUSED = 66, 130


class SlurmCluster(Cluster):
    """The job's name is that of the training and the checkout. Slurm itself runs one job of a name
    at a time (`--dependency=singleton`), whichever login node submitted it.
    """

    def __init__(self, stage: str, runtime: LaunchRuntime) -> None:
        workspace = hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:8]
        self.prefix = f"antimatter-{stage}-{workspace}-"
        self.runtime, self.stage = runtime, stage
        self.number = self.state = self.why = self.fault = ""
        self.job: Job | None = None
        if which("sbatch") is None:
            fix = "run on a login node of the cluster, or set runtime.executor to local"
            raise UserError(f"runtime.executor slurm needs sbatch on the PATH: {fix}")

    def find(self, job: Job, is_stopped: Callable[[], bool]) -> bool:
        name, others, self.number = self._name(job), [], ""
        for number, _, _, other in self._answered_queue():
            if other == name:
                self.number, self.job = number, job
            elif other.startswith(self.prefix):
                others.append(number)
        for number in others:
            _log(f"{self.stage}: ending job {number}, which trains with other values")
        while others:
            for number in others:
                # Again and again, as a signal before the processes have started is lost
                _ask(number)
            time.sleep(POLL_SECONDS)
            if is_stopped():
                raise InterruptedError(f"{self.stage}: stopped before a job was submitted")
            queued = {number for number, *_ in self._answered_queue()}
            others = [number for number in others if number in queued]
        return bool(self.number)

    def start(self, job: Job) -> None:
        script = job.folder / "job.sh"
        files.write_text(script, _script(job))
        command = ["sbatch", *self._options(job), str(script)]
        # An sbatch inside of another job would take over its shape
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SLURM_") or name == "SLURM_CONF"
        }
        done = subprocess.run(
            command, env=environment | job.environment, capture_output=True, text=True
        )
        if done.returncode:
            reason = " ".join(done.stderr.split()).removeprefix("sbatch: error: ")
            raise UserError(
                f"sbatch refused the job ({reason}): compare runtime.nodes, devices, partition, "
                "time_limit and sbatch in params.yaml with what `sinfo` and the cluster allow; the "
                f"command was {shlex.join(command)}"
            )
        # --parsable: the number, and the name of the cluster where there are several
        self.number, self.job = done.stdout.strip().split(";")[0], job
        self.state = self.why = ""
        gpus = "" if self.runtime.device == "cpu" else " with a GPU each"
        each = f"{job.nodes} x {job.processes} processes{gpus}"
        _log(f"{self.stage}: job {self.number}, {each}; its log is {job.log}")

    def is_running(self) -> bool:
        queue = self._queue()
        if queue is None:
            # It has not lost the job
            return True
        for number, state, why, _ in queue:
            if number == self.number:
                self.state, self.why = state, why
                if self.state == "PENDING" and self.why in HOPELESS:
                    self.cancel()
                    raise UserError(
                        f"Slurm will not run job {self.number} ({self.why}): correct nodes, "
                        "partition, time_limit or sbatch under runtime in params.yaml"
                    )
                return True
        return False

    def waiting_for(self) -> str:
        if self.state != "PENDING":
            return ""
        why = f" ({self.why})" if self.why != "None" else ""
        return f"{self.stage}: job {self.number} waits in the queue{why}"

    def pause(self) -> None:
        if self.job is not None:
            # The job reads it before it starts the training, and so does each process, as a signal
            # before the processes have started is lost
            (self.job.folder / "pause").touch()
        _ask(self.number)

    def cancel(self) -> None:
        _scancel(self.number)

    def reason(self) -> str:
        assert self.job is not None
        # Slurm keeps an ended job for some minutes
        show = ["scontrol", "show", "job", "--oneliner", self.number]
        text = subprocess.run(show, capture_output=True, text=True).stdout
        fields = dict(part.split("=", 1) for part in text.split() if "=" in part)
        state = fields.get("JobState", "unknown state")
        if state == "CANCELLED":
            raise UserError(f"job {self.number} was cancelled: run again to resume")
        if state == "FAILED" and not (self.job.folder / "started").exists():
            raise UserError(
                f"job {self.number} ended and has written nothing to {self.job.folder}: all "
                "machines must see the checkout and its .state under the same path"
            )
        return state

    def _name(self, job: Job) -> str:
        return self.prefix + job.training.rpartition("-")[2]

    def _options(self, job: Job) -> list[str]:
        runtime = self.runtime
        options = [
            *("--parsable", "--export=ALL", "--no-requeue", "--dependency=singleton"),
            f"--job-name={self._name(job)}",
            f"--chdir={job.workspace}",
            # Slurm replaces %j and the like
            f"--output={str(job.log).replace('%', '%%')}",
            f"--nodes={job.nodes}",
            f"--ntasks-per-node={job.processes}",
            f"--cpus-per-task={job.cpus}",
        ]
        asks_for_gpus = any(option.startswith(("--gres", "--gpus")) for option in runtime.sbatch)
        if runtime.device != "cpu" and not asks_for_gpus:
            options.append(f"--gpus-per-node={job.processes}")
        if runtime.partition:
            options.append(f"--partition={runtime.partition}")
        if runtime.time_limit:
            options.append(f"--time={runtime.time_limit}")
        if limit := runtime.limit_seconds():
            lead = max(1, min(LEAD_SECONDS, int(limit * LEAD_SHARE)))
            options.append(f"--signal=TERM@{lead}")
        # Last, as the last value of an option counts
        return [*options, *runtime.sbatch]

    def _queue(self) -> list[list[str]] | None:
        """Number, state, reason and name of each job of this user.

        None if the controller does not answer.
        """
        fields = "%i|%T|%r|%j"
        command = ["squeue", "--noheader", f"--user={os.getuid()}", f"--format={fields}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            self.fault = " ".join(done.stderr.split())
            return None
        return [line.split("|", 3) for line in done.stdout.splitlines()]

    def _answered_queue(self) -> list[list[str]]:
        """As _queue(). A controller may be restarting just when a machine was lost."""
        deadline = time.monotonic() + PATIENCE
        while (queue := self._queue()) is None:
            if time.monotonic() > deadline:
                raise UserError(f"squeue does not answer ({self.fault}): is this a login node?")
            time.sleep(POLL_SECONDS)
        return queue


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ask(number: str) -> None:
    """Asks a job to end: SIGTERM for its processes, removal from the queue if it waits."""
    _scancel("--state=PENDING", number)
    _scancel("--signal=TERM", number)


def _scancel(*arguments: str) -> None:
    subprocess.run(["scancel", *arguments], capture_output=True, check=False)


def _script(job: Job) -> str:
    folder, workspace = shlex.quote(str(job.folder)), shlex.quote(str(job.workspace))
    unseen = (
        "error: $(hostname) does not see $0: all machines must see the checkout and its .state "
        "under the same path"
    )
    variables = (
        "export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS "
        "MASTER_ADDR=$SLURM_LAUNCH_NODE_IPADDR; "
        f"export MASTER_PORT=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))"
    )
    return f"""#!/bin/bash
# Written by the stage that trains: one process per device, on each machine of this job.
cd {workspace} || exit
touch {folder}/started
srun --nodes={job.nodes} --ntasks={job.nodes} --ntasks-per-node=1 bash -c '
    [ -e "$0/started" ] && exit
    echo "{unseen}" >&2
    exit {UNSEEN}' {folder}
[ $? = {UNSEEN} ] && echo 1 > {folder}/status-{job.nodes * job.processes} && exit 1
[ -e {folder}/pause ] && exit
# The first process is on the first machine, where this srun runs
srun --kill-on-bad-exit=1 --distribution=block --cpus-per-task={job.cpus} bash -c '
    {variables}
    [ -e "$0/pause" ] && exit {PAUSED}
    exec "$@"' {folder} {shlex.join(job.command)}
"""
