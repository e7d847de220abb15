"""Unfinished work is kept, found again, and never forgotten in silence."""

import subprocess
import sys
from pathlib import Path

import pytest

from antimatter import state


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".state"


def interrupted(**identity: object) -> Path:
    with pytest.raises(KeyboardInterrupt), state.kept("shards", **identity) as work:
        (work / "half").write_text("done")
        raise KeyboardInterrupt
    return work


def test_the_same_work_is_found_again_and_goes_when_it_is_done(root: Path) -> None:
    work = interrupted(shards={"seed": 1})
    assert work == state.folder("shards", shards={"seed": 1})
    with state.kept("shards", shards={"seed": 1}) as again:
        assert (again / "half").read_text() == "done"
    assert list(root.iterdir()) == []


def test_work_that_begins_anew_names_what_sets_it_apart_from_what_is_unfinished(capsys: pytest.CaptureFixture[str]) -> None:
    old = interrupted(shards={"seed": 1, "size": 5}, input={"a.npy": "0" * 64})
    assert capsys.readouterr().err == ""
    interrupted(shards={"seed": 2, "size": 5}, input={"a.npy": "1" * 64})
    said = capsys.readouterr().err
    assert said == (
        f"note: shards begins anew; unfinished work lies in {old}, set apart by input.a.npy, shards.seed 1 -> 2. "
        "Undo that to go on with it, or delete the folder\n"
    )
    interrupted(shards={"seed": 2, "size": 5}, input={"a.npy": "1" * 64})
    assert capsys.readouterr().err == ""  # it goes on with its own


def test_what_another_process_is_at_is_neither_touched_nor_called_unfinished(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, time; from antimatter import state\nwith state.kept('shards', seed=1): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "in\n"
        with pytest.raises(BlockingIOError, match=f"the stage shards with these parameters is already running as process {other.pid}"):
            interrupted(seed=1)
        interrupted(seed=2)
        other.kill()
    assert "begins anew" not in capsys.readouterr().err


def test_differences_are_named_by_their_place() -> None:
    old = {"code": {"a.py": "1" * 64, "b.py": "2" * 64}, "model": {"n_layer": 2, "tied": True}}
    new = {"code": {"a.py": "1" * 64, "b.py": "3" * 64, "c.py": "4" * 64}, "model": {"n_layer": 4, "tied": True}}
    assert state.differences(old, new) == ["b.py", "c.py", "model.n_layer 2 -> 4"]
