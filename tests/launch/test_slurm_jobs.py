"""A training as a Slurm job, seen from `dvc repro`: what it submits, shows, repeats and ends.

The processes of these trainings are shell scripts; the jobs run in a substitute for Slurm.
"""

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from antimatter.errors import UserError
from antimatter.launch import attempts
from antimatter.launch.cluster import Job
from antimatter.launch.config import LaunchRuntime
from antimatter.launch.slurm import SlurmCluster

RUNTIME = LaunchRuntime(
    executor="slurm", nodes=2, device="cpu", devices=1, address="", partition="", sbatch=(),
    time_limit="",
)  # fmt: skip
# What each process does first: the number of its attempt, and ways to end. One that pauses ends
# with 0, as srun would kill the others
BEGIN = """
attempt=${ANTIMATTER_ATTEMPT##*/}
report() { echo $1 > "$ANTIMATTER_ATTEMPT/status-$RANK"; [ $1 = 130 ] && exit; exit $1; }
finish() { touch model; report 0; }
ready() { touch ready-$RANK; while true; do sleep 0.02; done; }
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(attempts, "LOG_SECONDS", 0.02)
    monkeypatch.setattr(attempts, "VISIBLE_SECONDS", 0.2)
    monkeypatch.setattr("antimatter.launch.slurm.POLL_SECONDS", 0.05)


class Training:
    """A training whose processes run a script in its checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states = folder / ".state/checkpoints-0123456789abcdef"
        self.states.mkdir(parents=True)

    def job(self, script: str, runtime: LaunchRuntime = RUNTIME) -> Job:
        return Job(
            command=("bash", "-c", BEGIN + script),
            workspace=self.folder,
            folder=self.states.parent / "launch" / self.states.name,
            training=self.states.name,
            nodes=runtime.nodes,
            processes=runtime.processes,
            cpus=3,
        )

    def is_ready(self) -> bool:
        """Whether each process has said so. Before its trap is set, a signal would kill it."""
        return all((self.folder / f"ready-{rank}").exists() for rank in range(RUNTIME.nodes))

    def submit(self, script: str) -> None:
        """Starts a job as a call that is killed then."""
        job = self.job(script)
        (job.folder / "1").mkdir(parents=True)
        SlurmCluster("checkpoints", RUNTIME).start(replace(job, folder=job.folder / "1"))

    def run(self, script: str, runtime: LaunchRuntime = RUNTIME) -> None:
        job, cluster = self.job(script, runtime), SlurmCluster("checkpoints", runtime)
        attempts.run("checkpoints", self.states, job, [self.folder / "model"], cluster)


@pytest.fixture
def training(tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """In a folder whose name the job script must quote."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Training(folder)


@pytest.fixture
def submitted(slurm: Path) -> Callable[[], list[dict[str, Any]]]:
    """The options of the jobs that were submitted, by name."""

    def read() -> list[dict[str, Any]]:
        paths = sorted(slurm.glob("jobs/*/options"), key=lambda path: int(path.parent.name))
        return [json.loads(path.read_text()) for path in paths]

    return read


def left() -> str:
    """The jobs that are still in the queue."""
    command = ["squeue", "--noheader", "--format=%i|%T|%r|%j"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def until(condition: Callable[[], bool]) -> None:
    """Waits, as long as conftest.py lets a test run."""
    while not condition():
        time.sleep(0.02)


@pytest.fixture
def signal_when() -> Iterator[Callable[..., None]]:
    """Sends SIGTERM to this process when a condition holds and a training runs, and again after
    some seconds.
    """

    def astray(*_: object) -> None:
        raise AssertionError("a signal came when no training was running to get it")

    before, threads = signal.signal(signal.SIGTERM, astray), list[threading.Thread]()

    def wait(condition: Callable[[], bool], times: tuple[float, ...]) -> None:
        deadline = time.monotonic() + 60
        while signal.getsignal(signal.SIGTERM) == astray or not condition():
            # The test itself then ends with its own bound
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        for seconds in times:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGTERM)

    def start(condition: Callable[[], bool], *times: float) -> None:
        threads.append(threading.Thread(target=wait, args=(condition, times), daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGTERM, before)


def test_each_process_has_its_place_and_the_first_prints(training, capfd):
    runtime = replace(RUNTIME, devices=2)
    training.run(
        "echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT > place-$RANK; "
        "[ $RANK = 0 ] && echo step 1/1 && finish; exit 0",
        runtime,
    )
    places = [(training.folder / f"place-{rank}").read_text().split() for rank in range(4)]
    assert [place[:3] for place in places] == [[str(rank), str(rank % 2), "4"] for rank in range(4)]
    # One address for all, where the system gives no port to clients
    assert len({tuple(place[3:]) for place in places}) == 1
    assert places[0][3] == "127.0.0.1" and 1024 < int(places[0][4]) < 32768
    assert "step 1/1\n" in capfd.readouterr().err
    assert left() == "" and not list((training.folder / ".state/launch").iterdir())


def test_options_follow_from_runtime_and_those_of_the_user_are_last(training, submitted):
    runtime = replace(
        RUNTIME, device="auto", devices=1, partition="gpu", time_limit="02:00:00",
        sbatch=("--account=physics", "--mem=0", "--cpus-per-task=9"),
    )  # fmt: skip
    training.run("[ $RANK = 1 ] || finish", runtime)
    (options,) = submitted()
    expected = {
        "--nodes": "2",
        "--ntasks-per-node": "1",
        "--gpus-per-node": "1",
        "--partition": "gpu",
        "--time": "02:00:00",
        "--signal": "TERM@300",
        "--dependency": "singleton",
        "--no-requeue": "",
        "--account": "physics",
        "--cpus-per-task": "9",
    }
    assert expected.items() <= options.items()


def test_a_user_who_names_gpus_replaces_those_of_devices(training, submitted):
    runtime = replace(RUNTIME, device="cuda", devices=1, sbatch=("--gres=gpu:a100:1",))
    training.run("[ $RANK = 1 ] || finish", runtime)
    (options,) = submitted()
    assert options["--gres"] == "gpu:a100:1" and "--gpus-per-node" not in options


def test_after_a_killed_process_the_training_starts_again_from_its_last_state(
    training, submitted, capfd
):
    states = training.states.relative_to(training.folder)
    training.run(
        f"[ $attempt = 1 ] && touch {states}/step-00000010.pt && [ $RANK = 1 ] && kill -9 $$; "
        "[ $attempt = 1 ] && exec sleep 60; [ $RANK = 1 ] || finish"
    )
    assert len(submitted()) == 2
    assert "(FAILED): starting again from step 10" in capfd.readouterr().err
    assert left() == ""


def test_attempts_that_save_nothing_end_with_an_error(training, submitted):
    with pytest.raises(UserError, match=r"3 jobs .* no further state, .*: FAILED\. .*/3/log"):
        training.run("kill -9 $$")
    assert len(submitted()) == attempts.LIMIT


def test_attempts_that_get_further_have_no_limit(training, submitted):
    states = training.states.relative_to(training.folder)
    training.run(f"touch {states}/step-0000000$attempt.pt; [ $attempt = 4 ] && finish; kill -9 $$")
    assert len(submitted()) == attempts.LIMIT + 1


def test_a_job_that_does_not_end_after_a_loss_is_ended(training, submitted, monkeypatch, capfd):
    """Slurm's srun waits forever for a process whose slurmd is killed and back within seconds."""
    monkeypatch.setattr(attempts, "LINGER", 0.3)
    training.run(
        '[ $RANK = 1 ] && [ $attempt = 1 ] && echo 75 > "$ANTIMATTER_ATTEMPT/status-1"; '
        "[ $attempt = 1 ] && exec sleep 600; [ $RANK = 1 ] || finish"
    )
    assert len(submitted()) == 2 and left() == ""
    assert "(a process was lost): starting again" in capfd.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_the_training_is_shown_and_not_repeated(training, submitted, capfd, rank):
    with pytest.raises(SystemExit) as ended:
        training.run(
            f"[ $RANK = {rank} ] && echo error: the disk is full >&2 && report 1; exec sleep 60"
        )
    assert ended.value.code == 1 and len(submitted()) == 1
    assert "error: the disk is full\n" in capfd.readouterr().err


def test_a_job_that_paused_or_lacks_its_outputs_starts_again(training, submitted, capfd):
    """Slurm sends SIGTERM before the time limit, and when another job takes the machines. DVC has
    deleted the outputs if the job ended while another `dvc repro` began.
    """
    training.run(
        "[ $attempt = 1 ] && report 130; [ $attempt = 2 ] && report 0; [ $RANK = 1 ] || finish"
    )
    assert len(submitted()) == 3
    error = capfd.readouterr().err
    assert "(paused): starting again" in error and "(without its outputs): starting" in error


def test_a_signal_pauses_the_training_and_leaves_no_job(training, submitted, signal_when):
    signal_when(training.is_ready, 0)
    with pytest.raises(InterruptedError, match=r"no job is left, .* resume from the beginning"):
        training.run("trap 'report 130' TERM; ready")
    assert len(submitted()) == 1 and left() == ""


def test_a_second_signal_ends_the_job_at_once(training, signal_when):
    signal_when(training.is_ready, 0, 0.5)
    with pytest.raises(InterruptedError):
        training.run("trap '' TERM; ready")
    assert left() == ""


def test_a_cluster_that_does_not_get_the_request_to_cancel_is_asked_again(
    training, slurm, signal_when
):
    # Twice for the first signal, then twice for the second one
    (slurm / "deaf").write_text("4")
    signal_when(training.is_ready, 0, 0.5)
    with pytest.raises(InterruptedError):
        training.run("ready")
    assert left() == ""


def test_a_job_that_a_cluster_never_ends_is_an_error(training, slurm, signal_when, monkeypatch):
    monkeypatch.setattr(attempts, "LEAVE", 0.3)
    (slurm / "deaf").write_text("1000000")
    signal_when(training.is_ready, 0, 0.5)
    with pytest.raises(UserError, match=r"the cluster still has it after 0\.3 s: run again"):
        training.run("ready")


def test_a_finished_training_whose_job_never_ends_is_finished(training, slurm, monkeypatch):
    for limit in ("LINGER", "LEAVE"):
        monkeypatch.setattr(attempts, limit, 0.3)
    (slurm / "deaf").write_text("1000000")
    training.run("[ $RANK = 0 ] && (finish); exec sleep 600")
    assert left()


def test_a_process_that_starts_after_the_request_to_pause_ends(
    training, slurm, signal_when, monkeypatch
):
    """It does not get the signal."""
    monkeypatch.setattr(attempts, "GRACE", 5.0)
    (slurm / "deaf").write_text("2")
    # The job script looks for the request before this command, and the processes after it
    starting, srun = slurm / "starting", (slurm / "srun").read_text()
    pause = shlex.quote(str(training.job("").folder / "1/pause"))
    wait = f"touch {starting}; while [ ! -e {pause} ]; do sleep 0.02; done"
    script = f'case "$*" in *MASTER_PORT*) {wait};; esac'
    (slurm / "srun").write_text(srun.replace("\n", f"\n{script}\n", 1))
    signal_when(starting.exists, 0)
    with pytest.raises(InterruptedError):
        training.run("ready")
    assert not training.is_ready() and left() == ""


def test_a_signal_removes_a_job_that_waits(training, slurm, capfd, monkeypatch, signal_when):
    (slurm / "pending").write_text("Resources")
    shown = threading.Event()
    monkeypatch.setattr("antimatter.progress.StatusLine.is_due", lambda line: shown.set() or True)
    signal_when(shown.is_set, 0)
    with pytest.raises(InterruptedError):
        training.run("finish")
    assert "checkpoints: job 1 waits in the queue (Resources)" in capfd.readouterr().err
    assert left() == ""


def test_a_job_that_can_never_run_is_an_error(training, slurm):
    (slurm / "pending").write_text("PartitionNodeLimit")
    with pytest.raises(UserError, match=r"job 1 \(PartitionNodeLimit\): correct nodes"):
        training.run("finish")
    assert left() == ""


def test_a_job_that_somebody_cancels_is_an_error(training):
    with pytest.raises(UserError, match=r"job 1 was cancelled: run again to resume"):
        training.run("scancel 1; exec sleep 60")


def test_a_job_that_slurm_refuses_is_an_error_with_its_reason(training, slurm):
    (slurm / "refuse").write_text("Requested node configuration is not available")
    with pytest.raises(
        UserError, match=r"refused the job \(Requested node configuration .* runtime\.nodes"
    ):
        training.run("finish")


def test_a_machine_that_does_not_see_the_checkout_is_an_error(training, slurm, submitted, capfd):
    (slurm / "blind").touch()
    with pytest.raises(SystemExit) as ended:
        training.run("finish")
    assert ended.value.code == 1 and len(submitted()) == 1
    assert "does not see /not/shared: all machines must" in capfd.readouterr().err


def test_a_controller_that_does_not_answer_has_not_lost_the_job(training, slurm, submitted):
    training.run(
        f"[ $RANK = 1 ] || {{ touch {slurm}/silent; sleep 0.5; rm {slurm}/silent; finish; }}"
    )
    assert len(submitted()) == 1


@pytest.fixture
def followed(training: Training, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there as soon as a job is followed, in the folder where its processes run."""
    path, wait = training.folder / "followed", attempts._wait

    def touch_and_wait(*arguments: Any, **options: Any) -> bool:
        path.touch()
        return wait(*arguments, **options)

    monkeypatch.setattr(attempts, "_wait", touch_and_wait)
    return path


def test_the_job_of_a_killed_call_is_found_and_followed(training, followed, submitted, capfd):
    script = "while [ ! -e followed ]; do sleep 0.02; done; echo step 2/2; [ $RANK = 1 ] || finish"
    training.submit(script)
    training.run(script)
    assert len(submitted()) == 1
    error = capfd.readouterr().err
    assert "a job of this training still runs, following it" in error and "step 2/2" in error


def test_the_job_of_a_killed_call_that_fails_starts_again(training, followed, submitted, capfd):
    script = (
        "while [ ! -e followed ]; do sleep 0.02; done; [ $attempt = 2 ] || kill -9 $$; "
        "[ $RANK = 1 ] || finish"
    )
    training.submit(script)
    training.run(script)
    assert len(submitted()) == 2
    assert "following it" in capfd.readouterr().err


def test_a_job_with_other_values_ends_first(training, submitted, capfd):
    """Two trainings would write the same outputs."""
    other = training.job("trap 'touch paused; exit' TERM; ready")
    other = replace(other, folder=training.states.parent / "other", training="checkpoints-other")
    other.folder.mkdir()
    SlurmCluster("checkpoints", RUNTIME).start(other)
    until(training.is_ready)
    training.run("[ -e paused ] || exit 3; [ $RANK = 1 ] || finish")
    assert len(submitted()) == 2 and left() == ""
    assert "ending job 1, which trains with other values" in capfd.readouterr().err


def test_a_signal_ends_the_wait_for_a_job_with_other_values(training, submitted, signal_when):
    other = training.job("trap '' TERM; ready")
    other = replace(other, folder=training.states.parent / "other", training="checkpoints-other")
    other.folder.mkdir()
    cluster = SlurmCluster("checkpoints", RUNTIME)
    cluster.start(other)
    until(training.is_ready)
    signal_when(lambda: True, 0)
    with pytest.raises(InterruptedError, match=r"stopped before a job was submitted"):
        training.run("finish")
    cluster.cancel()
    assert len(submitted()) == 1


def test_without_slurm_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"runtime\.executor slurm needs sbatch on the PATH"):
        SlurmCluster("checkpoints", RUNTIME)
