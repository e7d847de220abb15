"""A ladder of two runs with the real DVC and real trainings, in a copy of the tiny pipeline."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.ladder import experiments, git, processes, start
from helpers.tiny_pipeline import COLD, commit, edit

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """The tiny pipeline, with parameters for a ladder committed: its shards are up to date, its
    model is not. The runs take long enough to be stopped half-way.
    """
    folder = shutil.copytree(
        tiny_pipeline, tmp_path / "a folder with spaces" / "antimatter", symlinks=True
    )
    quick = {"evaluation.texts": [], "evaluation.seeds": [1], "evaluation.max_new_tokens": 4}
    edit(folder, {"checkpoints.steps": 500, **quick})
    commit(folder, "parameters of the ladder")
    return folder


def ladder(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Its stages are its own processes, so that a test sees if one outlives it."""
    return start(folder, COLD, (), *arguments)


def test_a_stopped_ladder_saves_its_trainings_and_resumes_them(project: Path) -> None:
    parameters = (project / "params.yaml").read_bytes()
    process = ladder(project, "--jobs", "2")
    deadline = time.monotonic() + 200
    while not any(
        re.search(r"step-0*[1-9]\d*\.pt$", path.name)
        for path in project.glob(".state/checkpoints-*/*.pt")
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "")
    assert "2 of 2 runs to go, 2 at a time" in err.splitlines()[0]
    assert re.search(r"^stopped with \d of 2 runs done", err, re.MULTILINE)
    assert processes(project) == []
    assert git(project, "status", "--porcelain") == ""
    assert (project / "params.yaml").read_bytes() == parameters
    assert list(project.glob(".state/checkpoints-*/*.pt"))

    process = ladder(project)
    _, second = process.communicate(timeout=300)
    assert process.returncode == 1 and "2 rungs have run" in second.splitlines()[-1]
    # The saved states were used up
    assert not list(project.glob(".state/checkpoints-*"))
    assert experiments(project).keys() == {"ladder-16x2-500", "ladder-32x2-500"}
    assert git(project, "status", "--porcelain", "--untracked-files=all") == ""
    assert not list(project.glob(".state/ladder/*.log"))

    # The experiment has the loss of the message, and the stages before the training did not run
    reference = experiments(project)["ladder-16x2-500"]
    text = git(project, "show", f"{reference}:metrics/evaluation/summary.json")
    loss = json.loads(text)["loss"]
    assert re.search(rf"^16x2-500: loss {loss:.4f}, ", err + second, re.MULTILINE)
    earlier = ["metrics/raw/summary.json", "metrics/shards/summary.json"]
    assert git(project, "diff", "--name-only", "HEAD", reference, "--", *earlier) == ""


def test_the_error_of_a_stage_is_found_in_the_output_of_dvc(project: Path) -> None:
    """A micro-batch that does not divide the batch: a stage reports it before it computes."""
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(re.sub(r"micro_batch: \d+", "micro_batch: 3", text))
    git(project, "commit", "--quiet", "--all", "--message", "three")
    process = ladder(project, "--jobs", str(os.cpu_count()))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "0 rungs have run" in err.splitlines()[-1]
    failed = [line for line in err.splitlines() if " failed: " in line]
    assert len(failed) == 2
    for line in failed:
        error = r"\d+x2-500 failed: .*runtime\.micro_batch .* \(\.state/ladder/ladder-.*\.log\)$"
        assert re.match(error, line), line
    assert processes(project) == []
