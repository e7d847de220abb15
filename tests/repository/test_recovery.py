"""What a kill leaves between two of DVC's own steps costs minutes, not the run. Real DVC, on tiny pipelines."""

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

from antimatter import cli
from antimatter.repository import recovery

DVC = [sys.executable, "-m", "dvc"]
# Runs the stage, and kills DVC with all that it has started as soon as the stage has ended well
KILLER = """#!/bin/sh
"{python}" "$@" || exit
case "$*" in *stages.{stage}\\ *) kill -KILL 0;; esac
"""


def repro_that_dies_after(stage: str, folder: Path, tmp_path: Path) -> None:
    """`dvc repro`, killed between the end of a stage and the moment in which DVC would have cached and recorded it."""
    program = tmp_path / stage / "python"
    program.parent.mkdir()
    program.write_text(KILLER.format(python=sys.executable, stage=stage))
    program.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{program.parent}{os.pathsep}{ENVIRONMENT['PATH']}"}
    command = [*DVC, "repro", stage]
    done = subprocess.run(
        command,
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
    "checkpoints": "going on from step 200 of 200",
    "conversations": "note: conversations had finished, but DVC did not record it",
    "tuned": "going on from step 15 of 17",
}


def test_a_kill_after_any_stage_and_before_dvc_has_recorded_it_loses_no_work(
    a_copy: Path, made: Path, tmp_path: Path
) -> None:
    shutil.rmtree(a_copy / ".dvc/cache/runs")
    lock = YAML().load(a_copy / "dvc.lock")
    for stage in STAGES:
        del lock["stages"][stage]
    YAML().dump(lock, a_copy / "dvc.lock")
    for stage, resumed in STAGES.items():
        repro_that_dies_after(stage, a_copy, tmp_path)
        said = dvc(a_copy, "repro", stage)
        assert re.findall(r"Running stage '(\w+)'", said) == [stage]
        assert re.search(resumed, said), said
    assert YAML().load(a_copy / "dvc.lock") == YAML().load(made / "dvc.lock")
    assert {path.name.partition("-")[0] for path in (a_copy / ".state").iterdir()} == {
        "checked",
        "tuned",
    }

    # What is kept of a finished stage until DVC has recorded it must not stand for a run that was
    # asked for
    said = dvc(a_copy, "repro", "--single-item", "--force", "checkpoints")
    assert "step    200/200" in said and "going on" not in said and "had finished" not in said
    assert len(list(a_copy.glob(".state/checkpoints-*"))) == 1
    dvc(
        a_copy, "repro", "--force", "--single-item", "ollama"
    )  # any stage clears up what the ones before it have left
    assert [path.name for path in (a_copy / ".state").iterdir()] == ["checked"]


Check = Callable[[Path], tuple[int, str]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """`antimatter check` in a folder: its exit status, and what it says on stderr. It runs in this
    process, which has imported what it needs.
    """

    def call(folder: Path) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        status = cli.main(["check"])
        return status, capsys.readouterr().err

    return call


def test_a_dvc_lock_that_is_cut_short_is_mended_and_nothing_is_computed_again(
    a_copy: Path, made: Path, check: Check
) -> None:
    """The test after this one has all lengths."""
    lock = a_copy / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:1000])
    assert run(a_copy, *DVC, "repro", "--dry").returncode != 0
    status, said = check(a_copy)
    assert status == 0 and "dvc.lock was incomplete" in said
    assert "Running stage" not in dvc(a_copy, "repro", "ollama")
    assert lock.read_bytes() == (made / "dvc.lock").read_bytes()


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


def test_a_dvc_lock_of_any_length_is_judged_as_dvc_judges_it(tmp_path: Path) -> None:
    """It writes the file in place. Of some lengths that is still what it takes."""
    whole, cut = LOCK.encode(), tmp_path / "dvc.lock"
    judged = set()
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        try:
            COMPILED_LOCKFILE_SCHEMA(load_yaml(cut))
            taken = True
        except (YAMLFileCorruptedError, Invalid):
            taken = False
        assert recovery._is_lock(cut) == taken, cut.read_text()
        judged.add(taken)
    assert judged == {True, False}


def test_a_merge_conflict_is_left_to_people(a_copy: Path, check: Check) -> None:
    lock = a_copy / "dvc.lock"
    conflict = f"<<<<<<< HEAD\n{lock.read_text()}=======\n>>>>>>> other\n"
    lock.write_text(conflict)
    status, said = check(a_copy)
    assert status == 1 and "dvc.lock holds a merge conflict: `git checkout --ours dvc.lock" in said
    assert lock.read_text() == conflict


def test_an_incomplete_rwlock_is_removed(a_copy: Path, check: Check) -> None:
    rwlock = a_copy / ".dvc/tmp/rwlock"
    rwlock.write_text('{"models/chec')
    shutil.rmtree(a_copy / "models/ollama")
    (a_copy / "params.yaml").write_text(
        (a_copy / "params.yaml").read_text().replace("num_predict: 96", "num_predict: 95")
    )
    assert run(a_copy, *DVC, "repro").returncode != 0
    status, said = check(a_copy)
    assert status == 0 and ".dvc/tmp/rwlock was incomplete" in said
    assert re.findall(r"Running stage '(\w+)'", dvc(a_copy, "repro")) == ["checked", "ollama"]
    assert json.loads(rwlock.read_text()) == {}


def test_a_whole_lock_is_left_alone(a_copy: Path, check: Check) -> None:
    before = (a_copy / "dvc.lock").stat().st_mtime_ns
    assert check(a_copy) == (0, "")
    assert (a_copy / "dvc.lock").stat().st_mtime_ns == before
