"""`antimatter verify` from end to end, on a tiny pipeline that has really run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.tiny_pipeline import ENVIRONMENT, commit, keep_stages, run

from antimatter import params
from antimatter.verify.environment import PROVENANCE

STAGES = list(params.load(Path("dvc.yaml"))["stages"])
COMMAND = [sys.executable, "-m", "antimatter.cli", "verify"]


def verify(
    folder: Path, place: Path, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**ENVIRONMENT, "TMPDIR": str(place), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def clones(place: Path) -> list[Path]:
    return list(place.glob("antimatter-verify-*"))


@pytest.mark.slow
def test_a_run_on_the_same_machine_is_identical_and_leaves_nothing(
    tiny_pipeline: Path, place: Path
) -> None:
    """Whatever `runtime:` says."""
    before = (tiny_pipeline / "dvc.lock").read_bytes()
    done = verify(tiny_pipeline, place, "--exact", "-S", "runtime.workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(STAGES)]] == STAGES
    verdict, *reasons = lines[1 + len(STAGES) :]
    # The record of the machine does not count
    outputs = sum(
        len(stage["outs"]) for stage in params.load(tiny_pipeline / "dvc.lock")["stages"].values()
    )
    assert verdict == f"identical: all {outputs - 1} outputs of {len(STAGES)} stages"
    assert reasons[0] == "although this differs in the environment:"
    assert reasons[1] == "  parameter runtime.workers 1 -> 2, by -S"
    # None was restored
    assert re.findall(r"Running stage '(\w+)'", done.stderr) == STAGES
    assert clones(place) == []
    assert (tiny_pipeline / "dvc.lock").read_bytes() == before
    assert run(tiny_pipeline, "git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_another_machine_differs_first_in_checkpoints_within_the_tolerance(
    tiny_pipeline: Path, clone: Path, place: Path, tmp_path: Path
) -> None:
    """One whose processor has no vector instructions: torch then uses other kernels, whose sums end
    in other bits.
    """
    file = tmp_path / "report.json"
    keep_stages(clone, *STAGES[: STAGES.index("evaluation") + 1])
    other = {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": ""}
    done = verify(clone, place, "--from", "checkpoints", "--json", str(file), **other)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert (report["first"], report["status"]) == ("checkpoints", 0)
    assert list(report["stages"]) == ["checkpoints", "evaluation"]
    verdict = (
        r"differs first in checkpoints; within the tolerance of another machine:"
        r" at most \d\.\d+% apart, 1% is allowed"
    )
    assert re.search(verdict, report["verdict"])
    kind = json.loads((tiny_pipeline / PROVENANCE).read_text())["machine"]["kind"]
    assert f"machine.kind {kind} -> DEFAULT, " in done.stdout
    outputs = {output["path"]: output for output in report["stages"]["checkpoints"]}
    weights = r"final\.safetensors \(weights at most [0-9.e-]+ apart, \d+\.\d\d% of their norm\)"
    assert any(re.fullmatch(weights, note) for note in outputs["models/checkpoints"]["notes"])
    summary = "metrics/checkpoints/summary.json"
    (loss,) = (n for n in outputs[summary]["numbers"] if n["name"] == "validation_loss")
    assert loss["old"] == json.loads((tiny_pipeline / summary).read_text())["validation_loss"]
    assert loss["new"] != loss["old"] and loss["bound"] == 0.01
    assert loss["apart"] == pytest.approx(abs(loss["new"] / loss["old"] - 1))
    # The learning rate is the same
    names = {number["name"] for number in outputs["plots/checkpoints/training.csv"]["numbers"]}
    assert names == {"loss", "gradient_norm"}


# A stage that writes its process id and does not end. DVC starts it, without torch
ENDLESS = (
    "import os, pathlib, time; pathlib.Path('started').write_text(f'{os.getpid()}\\n');"
    " time.sleep(600)"
)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_if_it_is_stopped_no_clone_and_no_process_remains(
    clone: Path, place: Path, number: signal.Signals, status: int
) -> None:
    keep_stages(clone, "raw")
    text = (clone / "dvc.yaml").read_text()
    endless = re.sub(r"cmd: .*", lambda _: f'cmd: python -c "{ENDLESS}"', text)
    (clone / "dvc.yaml").write_text(endless)
    commit(clone, "an endless stage")
    environment = {**ENVIRONMENT, "TMPDIR": str(place)}
    null = subprocess.DEVNULL
    with subprocess.Popen(COMMAND, cwd=clone, env=environment, stdout=null, stderr=null) as running:
        deadline = time.monotonic() + 300
        while not any("\n" in path.read_text() for path in place.glob("*/clone/started")):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        (started,) = place.glob("*/clone/started")
        group = os.getpgid(int(started.read_text()))
        assert group != os.getpgid(running.pid)
        running.send_signal(number)
        assert running.wait(120) == status
    assert clones(place) == []
    # Not even a zombie: its parents have waited for it, or init has
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(group, 0)
            time.sleep(0.1)
