"""Whatever runs the tasks, and whatever happens to them, the same bytes come out. The tasks are those of `cleaned`."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antimatter import params
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import clean
from antimatter.tasks.config import EngineRuntime

FILES = 6
ADJECTIVES = (
    "old",
    "green",
    "quiet",
    "narrow",
    "bright",
    "heavy",
    "broken",
    "wooden",
    "early",
    "distant",
    "gentle",
    "crooked",
    "polite",
    "hungry",
)
NOUNS = (
    "harbour",
    "window",
    "teacher",
    "river",
    "kettle",
    "orchard",
    "letter",
    "bridge",
    "garden",
    "sailor",
    "market",
    "village",
    "ladder",
    "museum",
)
VERBS = (
    "watched",
    "followed",
    "repaired",
    "forgot",
    "painted",
    "crossed",
    "described",
    "measured",
    "carried",
    "reached",
    "praised",
    "opened",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with good text, a document to drop in each, and a copy of a document in another file."""
    folder = tmp_path_factory.mktemp("engine") / "raw"
    folder.mkdir()
    random, first = Random(0), ""
    for number in range(FILES):
        texts = [" ".join(sentence(random) for _ in range(12)) for _ in range(12)]
        first = first or texts[0]
        texts += ["This is too short. It is.", first]
        rows = [
            {
                "id": f"{number}/{i}",
                "text": text,
                "source": "tests",
                "licence": "MIT",
                "kind": "text",
            }
            for i, text in enumerate(texts)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{number:05d}.parquet")
    return folder


def sentence(random: Random) -> str:
    (place, noun, other), (one, two), verb = (
        random.choices(NOUNS, k=3),
        random.choices(ADJECTIVES, k=2),
        random.choice(VERBS),
    )
    return f"In the {place} the {one} {noun} {verb} the {two} {other} of {random.randrange(1000)}."


@pytest.fixture(scope="module")
def config() -> CleanConfig:
    return params.read(CleanConfig, "cleaned")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(
    raw: Path, config: CleanConfig, runtime: EngineRuntime, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    work = tmp_path_factory.mktemp("expected")
    report = clean(raw, work, config, runtime)
    assert report.dropped == {"exact_duplicate": FILES, "too_few_sentences": FILES}
    return contents(work / "cleaned")


def test_ray_leaves_the_same_bytes(raw, config, runtime, expected, tmp_path, monkeypatch):
    import ray  # here, as it takes long

    machines: list[dict[str, Any]] = []
    nodes = ray.nodes
    monkeypatch.setattr(ray, "nodes", lambda: machines.extend(found := nodes()) or found)
    clean(raw, tmp_path, config, dataclasses.replace(runtime, executor="ray", workers=2))
    assert contents(tmp_path / "cleaned") == expected
    assert any(
        machine["Alive"] and machine["Resources"]["memory"] > 2**30 for machine in machines
    )  # as the test below has it


def test_a_ray_cluster_that_is_not_there_is_one_line(raw, config, runtime, tmp_path):
    with pytest.raises(
        OSError, match=r"runtime\.address: no Ray cluster answers at 127\.0\.0\.1:9"
    ):
        clean(
            raw,
            tmp_path,
            config,
            dataclasses.replace(runtime, executor="ray", address="127.0.0.1:9"),
        )


def test_a_task_too_large_for_the_ray_cluster_is_one_line(
    raw, config, runtime, tmp_path, monkeypatch
):
    """A cluster of machines that are not there, since a real one takes long to start."""
    machines = [
        {"Alive": alive, "Resources": {"memory": gb * 2**30}}
        for alive, gb in ((True, 4), (True, 8), (False, 200_000))
    ]
    for name, function in (
        ("init", lambda **_: None),
        ("nodes", lambda: machines),
        ("shutdown", lambda: None),
    ):
        monkeypatch.setattr(f"ray.{name}", function)
    with pytest.raises(
        ValueError,
        match=r"runtime\.memory_gb is 100000, but the largest machine of the Ray cluster offers 8\.0",
    ):
        clean(
            raw, tmp_path, config, dataclasses.replace(runtime, executor="ray", memory_gb=100_000)
        )


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm of one machine: sbatch runs the job scripts as a cluster would, one task of the array after the other."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    commands = {
        "sbatch": """
            job=$(mktemp -d "$SLURM/running.XXXX"); cp "${@: -1}" "$job/job.sh"; cp "${@: -1}" "$SLURM/job.sh"; echo "Submitted batch job 7"
            last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$job/job.sh")
            export SLURM_NODELIST=here
            (for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i bash "$job/job.sh"; done; rm -r "$job") > "$SLURM/log" 2>&1 &""",
        "srun": """while [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done; exec "$@" """,
        "squeue": """ls "$SLURM" | grep running; true""",
        "scontrol": "echo here",
        "scancel": "true",
    }
    for name, script in commands.items():
        (folder / name).write_text(
            f"#!/usr/bin/env bash\nSLURM={shlex.quote(str(folder))}\n{script}\n"
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("antimatter.tasks.executor.POLL_SECONDS", 0.2)
    return folder


def test_slurm_jobs_leave_the_same_bytes(raw, config, runtime, expected, tmp_path, slurm):
    runtime = dataclasses.replace(
        runtime, executor="slurm", workers=2, partition="cpu", memory_gb=3, time_limit="01:00:00"
    )
    clean(raw, tmp_path / "work", config, runtime)
    assert contents(tmp_path / "work" / "cleaned") == expected
    job = (slurm / "job.sh").read_text()
    for line in (
        "--partition=cpu",
        "--mem-per-cpu=3G",
        "--time=01:00:00",
        f"--array=0-{FILES - 1}%2",
        "--cpus-per-task=1",
    ):
        assert f"#SBATCH {line}\n" in job


def test_a_failed_slurm_job_tells_its_reason(raw, config, runtime, tmp_path, slurm):
    broken = tmp_path / "raw"
    broken.mkdir()
    (broken / "00000.parquet").write_bytes((raw / "00000.parquet").read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"00000\.parquet is not readable"):
        clean(broken, tmp_path / "work", config, dataclasses.replace(runtime, executor="slurm"))


def test_without_slurm_there_is_one_line(raw, config, runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"runtime\.executor slurm needs sbatch on the PATH"):
        clean(raw, tmp_path / "work", config, dataclasses.replace(runtime, executor="slurm"))


CALL = """
import dataclasses
import sys
from pathlib import Path
from antimatter import params
from antimatter.data.cleaning.pipeline import clean
from antimatter.data.cleaning.config import CleanConfig
from antimatter.tasks.config import EngineRuntime
if __name__ == "__main__":
    runtime = dataclasses.replace(params.read(EngineRuntime, "runtime", part=True), workers=2)
    clean(Path(sys.argv[1]), Path(sys.argv[2]), params.read(CleanConfig, "cleaned"), runtime)
"""


def children(process: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{process}/task").glob("*/children")
        for child in task.read_text().split()
    ]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers in /proc")
def test_a_killed_call_leaves_no_worker_and_loses_no_task(raw, expected, tmp_path):
    script = tmp_path / "call.py"
    script.write_text(CALL)
    command = [sys.executable, str(script), str(raw), str(tmp_path / "work")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = tmp_path / "work/judge/completions"
    for tasks in (1, 3):
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as call:
            while len(list(done.glob("*"))) < tasks:
                assert call.poll() is None
                time.sleep(0.002)
            workers = [
                grandchild
                for child in children(call.pid)
                for grandchild in [child, *children(child)]
            ]
            assert len(workers) >= 3  # a server that forks, and what it has forked
            call.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(
            Path(f"/proc/{worker}").exists()
            and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]
            for worker in workers
        ):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.05)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert contents(tmp_path / "work" / "cleaned") == expected


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers in /proc")
def test_a_killed_worker_is_an_error_and_no_endless_wait(raw, expected, tmp_path):
    script = tmp_path / "call.py"
    script.write_text(CALL)
    command = [sys.executable, str(script), str(raw), str(tmp_path / "work")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as call:
        found: list[int] = []
        while not found:
            assert call.poll() is None
            found = [worker for child in children(call.pid) for worker in children(child)]
        os.kill(found[0], signal.SIGKILL)
        _, said = call.communicate(timeout=300)
    assert (
        call.returncode == 1
        and "OSError: a worker was killed, perhaps for want of memory: lower runtime.workers"
        in said
    )
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert contents(tmp_path / "work" / "cleaned") == expected
