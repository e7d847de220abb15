"""A kill between two of DVC's own steps costs minutes, not the run. With the real DVC, on tiny
pipelines.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml
from helpers.tiny_pipeline import ENVIRONMENT, dvc, run
from ruamel.yaml import YAML
from voluptuous import Invalid

from antimatter.cli import main as cli
from antimatter.repository import recovery

DVC = [sys.executable, "-m", "dvc"]
# A `python` that runs the stage, and kills DVC with all its processes when the stage has succeeded
KILLER = """#!/bin/sh
"{python}" "$@" || exit
case "$*" in *stages.{stage}\\ *) kill -KILL 0;; esac
"""


def repro_that_dies_after(stage: str, folder: Path, tmp_path: Path) -> None:
    """`dvc repro`, killed after the end of a stage and before DVC has cached and recorded it."""
    program = tmp_path / stage / "python"
    program.parent.mkdir()
    program.write_text(KILLER.format(python=sys.executable, stage=stage))
    program.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{program.parent}{os.pathsep}{ENVIRONMENT['PATH']}"}
    done = subprocess.run(
        [*DVC, "repro", stage],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=400,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


STAGES = {
    "raw": "note: raw had finished, but DVC did not record it",
    "cleaned": r"cleaned: resuming, (\d+) of \1 MB were done",
    "shards": r"shards: resuming, (\d+) of \1 MB were done",
    "checkpoints": "resuming from step 200 of 200",
    "conversations": "note: conversations had finished, but DVC did not record it",
    "tuned": "resuming from step 17 of 17",
}


@pytest.mark.slow
def test_a_kill_after_any_stage_and_before_dvc_has_recorded_it_loses_no_work(
    a_copy: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    shutil.rmtree(a_copy / ".dvc/cache/runs")
    lock = YAML().load(a_copy / "dvc.lock")
    for stage in STAGES:
        del lock["stages"][stage]
    YAML().dump(lock, a_copy / "dvc.lock")
    for stage, resumed in STAGES.items():
        repro_that_dies_after(stage, a_copy, tmp_path)
        output = dvc(a_copy, "repro", stage)
        assert re.findall(r"Running stage '(\w+)'", output) == [stage]
        assert re.search(resumed, output), output
    assert YAML().load(a_copy / "dvc.lock") == YAML().load(tiny_pipeline / "dvc.lock")
    states = {path.name.partition("-")[0] for path in (a_copy / ".state").iterdir()}
    assert states == {"checked", "tuned"}

    # A finished stage that DVC has recorded does not replace a run that was forced
    output = dvc(a_copy, "repro", "--single-item", "--force", "checkpoints")
    assert "step    200/200" in output and "had finished" not in output
    assert not re.search(STAGES["checkpoints"], output)
    assert len(list(a_copy.glob(".state/checkpoints-*"))) == 1
    # Any stage deletes the states of those that are recorded
    dvc(a_copy, "repro", "--force", "--single-item", "ollama")
    assert [path.name for path in (a_copy / ".state").iterdir()] == ["checked"]


Check = Callable[[Path], tuple[int, str]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """`antimatter check` in a folder, in this process. Returns its exit status and its stderr."""

    def call(folder: Path) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        status = cli.main(["check"])
        return status, capsys.readouterr().err

    return call


def test_a_dvc_lock_that_is_cut_short_is_repaired_and_nothing_is_computed_again(
    a_copy: Path, tiny_pipeline: Path, check: Check
) -> None:
    """The test after this one has all lengths."""
    lock = a_copy / "dvc.lock"
    # In the middle of a hash
    text = lock.read_text()
    lock.write_text(text[: text.index("\n      md5: ") + 14])
    assert run(a_copy, *DVC, "repro", "--dry").returncode != 0
    status, messages = check(a_copy)
    assert status == 0 and "dvc.lock was incomplete" in messages
    assert "Running stage" not in dvc(a_copy, "repro", "ollama")
    assert lock.read_bytes() == (tiny_pipeline / "dvc.lock").read_bytes()


LOCK = """schema: '2.0'
stages:
  one:
    cmd: python -m one
    deps:
    - path: one.py
      hash: md5
      md5: 12e5408555a52b295b4314a82500e0d0
      size: 2000
    params:
      params.yaml:
        one:
          rate: 0.5
          texts: []
    outs:
    - path: data/one
      hash: md5
      md5: 4168e5d3f5a52b295b4314a82500e0d0.dir
      size: 31
      nfiles: 2
  two:
    cmd: python -m two
"""


def test_a_dvc_lock_of_any_length_is_valid_if_dvc_accepts_it(tmp_path: Path) -> None:
    """DVC writes the file in place. It accepts some of the lengths."""
    whole, cut = LOCK.encode(), tmp_path / "dvc.lock"
    verdicts = set()
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        try:
            COMPILED_LOCKFILE_SCHEMA(load_yaml(cut))
            is_accepted = True
        except (YAMLFileCorruptedError, Invalid):
            is_accepted = False
        assert recovery.is_valid_lock(cut) == is_accepted, cut.read_text()
        verdicts.add(is_accepted)
    assert verdicts == {True, False}


def test_a_merge_conflict_is_reported_and_not_changed(a_copy: Path, check: Check) -> None:
    lock = a_copy / "dvc.lock"
    conflict = f"<<<<<<< HEAD\n{lock.read_text()}=======\n>>>>>>> other\n"
    lock.write_text(conflict)
    status, messages = check(a_copy)
    assert status == 1 and "merge conflict" in messages
    assert "`git checkout --ours dvc.lock" in messages
    assert lock.read_text() == conflict


def test_an_incomplete_rwlock_is_removed(a_copy: Path, check: Check) -> None:
    rwlock = a_copy / ".dvc/tmp/rwlock"
    rwlock.write_text('{"models/chec')
    shutil.rmtree(a_copy / "models/ollama")
    parameters = a_copy / "params.yaml"
    parameters.write_text(parameters.read_text().replace("num_predict: 96", "num_predict: 95"))
    assert run(a_copy, *DVC, "repro").returncode != 0
    status, messages = check(a_copy)
    assert status == 0 and ".dvc/tmp/rwlock was incomplete" in messages
    assert re.findall(r"Running stage '(\w+)'", dvc(a_copy, "repro")) == [
        "checked",
        "ollama",
        "report",
    ]
    assert json.loads(rwlock.read_text()) == {}


def test_a_complete_lock_is_not_changed(a_copy: Path, check: Check) -> None:
    before = (a_copy / "dvc.lock").stat().st_mtime_ns
    assert check(a_copy) == (0, "")
    assert (a_copy / "dvc.lock").stat().st_mtime_ns == before
