"""Unfinished work of other code is resumed on request, and its results say so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from antimatter import files
from antimatter.errors import UserError
from antimatter.pipeline import adoption, closure, resume


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one stage of two files."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("DVC_STAGE", raising=False)
    for name, text in {
        "stages/shards.py": "from antimatter import one\n",
        "antimatter/one.py": "x = 1\n",
    }.items():
        files.write_text(tmp_path / name, text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def interrupted(**identity: object) -> Path:
    with pytest.raises(KeyboardInterrupt), resume.directory("shards", [], **identity) as work:
        (work / "step-00000120.pt").touch()
        raise KeyboardInterrupt
    return work


def test_work_of_other_code_is_listed_shown_and_adopted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = interrupted(seed=1)
    assert "same code" in adoption.works()[0].line()
    (project / "antimatter/one.py").write_text("x = 2\n")
    (listed,) = adoption.works()
    assert listed.changed == ["antimatter/one.py"] and listed.step == 120
    assert list(adoption.diff(listed))[-2:] == ["-x = 1\n", "+x = 2\n"]

    moved = adoption.adopt(work)
    assert not work.exists() and (moved / "step-00000120.pt").exists()
    capsys.readouterr()
    with resume.directory("shards", [], seed=1) as again:
        assert again == moved
        (entry,) = resume.adopted(again)["adopted"]
    assert entry["changed"] == ["antimatter/one.py"] and entry["until_step"] == 120
    assert len(entry["code"]) == 64
    assert capsys.readouterr().err == ""


def test_a_second_fix_is_recorded_beside_the_first(project: Path) -> None:
    work = interrupted(seed=1)
    for number in (2, 3):
        (project / "antimatter/one.py").write_text(f"x = {number}\n")
        work = adoption.adopt(work)
    assert len({entry["code"] for entry in resume.adopted(work)["adopted"]}) == 2


def test_a_new_start_names_the_command_if_only_code_differs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = interrupted(seed=1)
    (project / "antimatter/one.py").write_text("x = 2\n")
    interrupted(seed=1)
    output = capsys.readouterr().err
    assert "antimatter/one.py" in output and f"`antimatter resume {work}`" in output
    with pytest.raises(UserError, match="present code: delete it"):
        adoption.adopt(work)


def test_work_that_cannot_be_adopted_is_named_and_left_alone(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no unfinished work: `antimatter resume`"):
        adoption.adopt(tmp_path / "stages")
    work = interrupted(seed=1)
    with pytest.raises(UserError, match="present code: `dvc repro`"):
        adoption.adopt(work)
    (project / "antimatter/one.py").write_text("x = 2\n")
    with files.lock(work / resume.LOCK, "a run"), pytest.raises(files.Locked):
        adoption.adopt(work)
    assert (work / "step-00000120.pt").exists()

    # A copy elsewhere, and a stage that there is not
    copies = [tmp_path / "shards-copy", work.with_name("other-1")]
    for copy in copies:
        shutil.copytree(work, copy)
        with pytest.raises(UserError, match=f"{copy.name} is not the unfinished work of a stage"):
            adoption.adopt(copy)
        assert (copy / "step-00000120.pt").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "{}", '{"code": 1}', '{"code": null}'])
def test_a_damaged_directory_is_named_and_the_others_are_listed(
    damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, whole = interrupted(seed=1), interrupted(seed=2)
    (damaged / resume.IDENTITY).write_text(damage)
    capsys.readouterr()
    (listed,) = adoption.works()
    assert listed.folder == whole
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {damaged / resume.IDENTITY} ") and error.count("\n") == 1
    with pytest.raises(UserError, match=str(damaged / resume.IDENTITY)):
        adoption.work(damaged)


@pytest.mark.parametrize("name", ["abc", "", "-5", "\u00b2", "00000500 (copy)"])
def test_a_file_that_is_no_state_is_ignored(name: str) -> None:
    work = interrupted(seed=1)
    (work / f"step-{name}.pt").touch()
    assert adoption.work(work).step == 120


def test_the_command(project: Path) -> None:
    """In a process, because it reads the checkout of its working directory."""

    def command(*arguments: str) -> str:
        environment = {
            "PYTHONPATH": str(Path(adoption.__file__).parents[2]),
            "DVC_ROOT": str(project),
            "PATH": "",
        }
        done = subprocess.run(
            [sys.executable, "-P", "-m", "antimatter.cli", *arguments],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert command("resume") == "there is no unfinished work in .state\n"
    work = interrupted(seed=1)
    (project / "antimatter/one.py").write_text("x = 2\n")
    line = command("resume")
    assert all(word in line for word in ("shards", "step 120", "antimatter/one.py"))
    assert "+x = 2" in command("resume", str(work)) and work.exists()
    assert "`dvc repro`" in command("resume", str(work), "--accept") and not work.exists()
    (identity,) = project.glob(".state/*/identity.json")
    assert files.read_json(identity)["code"] == closure.digests("stages.shards")
