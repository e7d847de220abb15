"""Whatever runs the tasks, and whatever happens to them, the same bytes come out. Most of these
tasks are those of `cleaned`.
"""

import dataclasses
import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.task_steps import Fail, HalfDone

from antimatter import params
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import clean
from antimatter.errors import UserError
from antimatter.progress import StatusLine
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.executor import run

ROOT = Path(__file__).parents[2]
FILES = 6
ADJECTIVES = (
    "old green quiet narrow bright heavy broken wooden early distant gentle crooked polite hungry"
).split()
NOUNS = (
    "harbour window teacher river kettle orchard letter bridge garden sailor market village ladder "
    "museum"
).split()
VERBS = (
    "watched followed repaired forgot painted crossed described measured carried reached praised "
    "opened"
).split()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with good text, each with a document to drop and a copy of another file's document."""
    folder = tmp_path_factory.mktemp("executor") / "raw"
    folder.mkdir()
    random, first = Random(0), ""
    for number in range(FILES):
        texts = [" ".join(sentence(random) for _ in range(12)) for _ in range(12)]
        first = first or texts[0]
        texts += ["This is too short. It is.", first]
        common = {"source": "tests", "licence": "MIT", "kind": "text"}
        rows = [{"id": f"{number}/{i}", "text": text, **common} for i, text in enumerate(texts)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{number:05d}.parquet")
    return folder


def sentence(random: Random) -> str:
    place, subject, thing = random.choices(NOUNS, k=3)
    first, second = random.choices(ADJECTIVES, k=2)
    verb, year = random.choice(VERBS), random.randrange(1000)
    return f"In the {place} the {first} {subject} {verb} the {second} {thing} of {year}."


@pytest.fixture(scope="module")
def config() -> CleanConfig:
    return params.read(CleanConfig, "cleaned")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(
    raw: Path, config: CleanConfig, runtime: TasksRuntime, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    work = tmp_path_factory.mktemp("expected")
    report = clean(raw, work, config, runtime)
    assert report.dropped == {"exact_duplicate": FILES, "too_few_sentences": FILES}
    return contents(work / "cleaned")


@pytest.mark.slow
def test_ray_leaves_the_same_bytes(raw, config, runtime, expected, tmp_path, monkeypatch):
    # Slow, so it is imported only here
    import ray

    machines: list[dict[str, Any]] = []
    nodes = ray.nodes

    def recorded_nodes() -> list[dict[str, Any]]:
        machines.extend(nodes())
        return machines

    monkeypatch.setattr(ray, "nodes", recorded_nodes)
    clean(raw, tmp_path, config, dataclasses.replace(runtime, executor="ray", workers=2))
    assert contents(tmp_path / "cleaned") == expected
    # The keys that the test of a task that is too large relies on
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    assert any(resources["memory"] > 2**30 for resources in alive)


def test_a_ray_cluster_that_does_not_answer_is_one_line(raw, config, runtime, tmp_path):
    elsewhere = dataclasses.replace(runtime, executor="ray", address="127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"runtime\.address: .* 127\.0\.0\.1:9 .*`ray start --head`"
    ):
        clean(raw, tmp_path, config, elsewhere)


def test_a_task_too_large_for_the_ray_cluster_is_one_line(
    raw, config, runtime, tmp_path, monkeypatch
):
    """A cluster of invented machines, since a real one takes long to start."""
    machines = [
        {"Alive": alive, "Resources": {"memory": gb * 2**30}}
        for alive, gb in ((True, 4), (True, 8), (False, 200_000))
    ]
    options: dict[str, Any] = {}
    monkeypatch.setattr("ray.init", lambda **given: options.update(given))
    monkeypatch.setattr("ray.nodes", lambda: machines)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    large = dataclasses.replace(runtime, executor="ray", memory_gb=100_000)
    with pytest.raises(UserError, match=r"runtime\.memory_gb is 100000, .* offers 8\.0: lower it"):
        clean(raw, tmp_path, config, large)
    # Another cluster on this machine, such as that of a test beside this one, is not joined
    assert options["address"] == "local"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm of one machine: sbatch runs the job scripts as a cluster would, one task of the array
    after the other, and squeue lists the jobs that run, by name.
    """
    folder = tmp_path / "slurm"
    folder.mkdir()
    commands = {
        "sbatch": """
            script="${@: -1}"; cp "$script" "$SLURM/job.sh"; echo "Submitted batch job 7"
            last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
            name=$(sed -n 's/^#SBATCH --job-name=\\([^ ]*\\).*/\\1/p' "$script")
            job=$(mktemp -d "$SLURM/running-$name.XXXX"); cp "$script" "$job/job.sh"
            export SLURM_NODELIST=here
            (for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i bash "$job/job.sh"; done
             rm -r "$job") > "$SLURM/log" 2>&1 &""",
        "srun": """
            while [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done
            exec "$@" """,
        "squeue": """ls "$SLURM" | grep "running-${@: -1}"; true""",
        "scontrol": "echo here",
        "scancel": "true",
    }
    for name, script in commands.items():
        variable = f"SLURM={shlex.quote(str(folder))}"
        (folder / name).write_text(f"#!/usr/bin/env bash\n{variable}\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("antimatter.tasks.slurm.POLL_SECONDS", 0.2)
    return folder


@pytest.mark.slow
def test_slurm_jobs_leave_the_same_bytes(
    raw, config, runtime, expected, tmp_path, slurm, monkeypatch
):
    """From a folder, and in one, whose names the job script must quote."""
    here = tmp_path / "it's here"
    here.mkdir()
    monkeypatch.chdir(here)
    runtime = dataclasses.replace(
        runtime, executor="slurm", workers=2, partition="cpu", memory_gb=3, time_limit="01:00:00"
    )
    clean(raw, here / "work", config, runtime)
    assert contents(here / "work" / "cleaned") == expected
    lines = (slurm / "job.sh").read_text().splitlines()
    assert {
        "#SBATCH --partition=cpu",
        "#SBATCH --mem-per-cpu=3G",
        "#SBATCH --time=01:00:00",
        f"#SBATCH --array=0-{FILES - 1}%2",
        "#SBATCH --cpus-per-task=1",
        f"#SBATCH --job-name=antimatter-cleaned-{os.getpid()}",
    } <= {*lines}


def test_a_failed_slurm_job_reports_its_reason(raw, config, runtime, tmp_path, slurm):
    broken = tmp_path / "raw"
    broken.mkdir()
    (broken / "00000.parquet").write_bytes((raw / "00000.parquet").read_bytes()[:-50])
    with pytest.raises(UserError, match=r"00000\.parquet"):
        clean(broken, tmp_path / "work", config, dataclasses.replace(runtime, executor="slurm"))


def test_without_slurm_there_is_one_line(raw, config, runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"runtime\.executor slurm needs sbatch on the PATH"):
        clean(raw, tmp_path / "work", config, dataclasses.replace(runtime, executor="slurm"))


ERRORS = {
    "a user's mistake": UserError("a.jsonl is empty: delete it"),
    "the system's": OSError(errno.ENOSPC, "No space left on device", "data/raw"),
    "a bug": KeyError("a name that does not exist"),
}


@pytest.mark.parametrize("executor", ["local", "slurm"])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_a_task_comes_back_as_it_was_raised(
    runtime, tmp_path, slurm, monkeypatch, kind, executor
):
    """Slurm itself carries no exception back. That of a bug comes as text, with its traceback."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    error = ERRORS[kind]
    runtime = dataclasses.replace(runtime, executor=executor)
    with pytest.raises(Exception, match=re.escape(str(error))) as caught:
        run([Fail(error)], [1], tmp_path / "work", runtime, "test")
    if kind == "a bug" and executor == "slurm":
        assert caught.type is RuntimeError and "raise self.error" in str(caught.value)
    else:
        assert caught.type is type(error) and str(caught.value) == str(error)


def test_progress_counts_finished_tasks_and_parts_of_others(runtime, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("antimatter.tasks.executor.PROGRESS_SECONDS", 0.05)
    show = StatusLine.show

    def spy(line: StatusLine, text: str) -> None:
        show(line, text)
        for task, amount in enumerate(("test: 1 of 4 MB", "test: 3 of 4 MB")):
            if amount in text:
                (tmp_path / str(task)).touch()

    monkeypatch.setattr(StatusLine, "show", spy)
    step = HalfDone(1_000_000, tmp_path)
    run([step], [2_000_000, 2_000_000], tmp_path / "work", runtime, "test")
    assert "test: 3 of 4 MB, " in capsys.readouterr().err


CALL = """
import dataclasses
import sys
from pathlib import Path
from antimatter import params
from antimatter.data.cleaning.pipeline import clean
from antimatter.data.cleaning.config import CleanConfig
from antimatter.tasks.config import TasksRuntime
if __name__ == "__main__":
    runtime = dataclasses.replace(params.read(TasksRuntime, "runtime", part=True), workers=2)
    clean(Path(sys.argv[1]), Path(sys.argv[2]), params.read(CleanConfig, "cleaned"), runtime)
"""


def children(process: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{process}/task").glob("*/children")
        for child in task.read_text().split()
    ]


def is_running(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


@pytest.fixture
def start_call(raw: Path, tmp_path: Path) -> Callable[[], "subprocess.Popen[str]"]:
    """Starts a process that cleans with two workers."""
    script = tmp_path / "call.py"
    script.write_text(CALL)
    command = [sys.executable, str(script), str(raw), str(tmp_path / "work")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers in /proc")
def test_a_killed_call_leaves_no_worker_and_loses_no_task(start_call, expected, tmp_path):
    completions = tmp_path / "work/filter/completions"
    for tasks in (1, 3):
        with start_call() as call:
            while len(list(completions.glob("*"))) < tasks:
                assert call.poll() is None
                time.sleep(0.002)
            servers = children(call.pid)
            workers = [*servers, *(worker for server in servers for worker in children(server))]
            # A server that forks, and what it has forked
            assert len(workers) >= 3
            call.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(map(is_running, workers)):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.05)
    with start_call() as call:
        assert call.wait(300) == 0
    assert contents(tmp_path / "work" / "cleaned") == expected


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers in /proc")
def test_a_killed_worker_is_an_error_and_no_endless_wait(start_call, expected, tmp_path):
    with start_call() as call:
        workers: list[int] = []
        # A worker that dies before the other has started makes the server of both write to stderr
        while len(workers) < 2:
            assert call.poll() is None
            workers = [worker for server in children(call.pid) for worker in children(server)]
        os.kill(workers[0], signal.SIGKILL)
        _, errors = call.communicate(timeout=300)
    assert call.returncode == 1
    assert "UserError: a worker was killed" in errors and "lower runtime.workers" in errors
    with start_call() as call:
        assert call.wait(300) == 0
    assert contents(tmp_path / "work" / "cleaned") == expected
