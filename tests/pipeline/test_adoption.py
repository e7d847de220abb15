"""Work that was begun under other code goes on when somebody says so, and its results tell."""

import subprocess
import sys
from pathlib import Path

import pytest

from antimatter import files
from antimatter.pipeline import adoption, closure
from antimatter.pipeline import resume as state


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
    with pytest.raises(KeyboardInterrupt), state.kept("shards", [], **identity) as work:
        (work / "step-00000120.pt").touch()
        raise KeyboardInterrupt
    return work


def test_work_of_other_code_is_listed_shown_and_adopted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = interrupted(seed=1)
    assert "same code" in adoption.works()[0].line()
    (project / "antimatter/one.py").write_text("x = 2\n")
    (found,) = adoption.works()
    assert found.changed == ["antimatter/one.py"] and found.step == 120
    assert list(adoption.diff(found))[-2:] == ["-x = 1\n", "+x = 2\n"]

    place = adoption.adopt(work)
    assert not work.exists() and (place / "step-00000120.pt").exists()
    capsys.readouterr()
    with state.kept("shards", [], seed=1) as again:
        assert again == place
        (note,) = state.record(again)["adopted"]
    assert (
        note["changed"] == ["antimatter/one.py"]
        and note["until_step"] == 120
        and len(note["code"]) == 64
    )
    assert capsys.readouterr().err == ""


def test_a_second_fix_is_noted_beside_the_first(project: Path) -> None:
    work = interrupted(seed=1)
    for number in (2, 3):
        (project / "antimatter/one.py").write_text(f"x = {number}\n")
        work = adoption.adopt(work)
    assert len({note["code"] for note in state.record(work)["adopted"]}) == 2


def test_what_starts_afresh_names_the_command_if_only_code_differs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = interrupted(seed=1)
    (project / "antimatter/one.py").write_text("x = 2\n")
    interrupted(seed=1)
    assert (
        f"set apart by antimatter/one.py: `antimatter resume {work}` lets it go on under this code"
        in capsys.readouterr().err
    )
    with pytest.raises(
        FileExistsError, match="holds a run that was begun under the present code: delete it"
    ):
        adoption.adopt(work)


def test_what_cannot_be_adopted_is_told_and_left_alone(project: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no unfinished work"):
        adoption.adopt(tmp_path / "stages")
    work = interrupted(seed=1)
    with pytest.raises(ValueError, match="needs no consent, its code is as it was"):
        adoption.adopt(work)
    (project / "antimatter/one.py").write_text("x = 2\n")
    with (
        files.lock(work / state.LOCK, "a run"),
        pytest.raises(files.Locked, match="is already running"),
    ):
        adoption.adopt(work)
    assert (work / "step-00000120.pt").exists()


def test_the_command(project: Path) -> None:
    """As a process, as the checkout of the test is not the one whose `antimatter` is on the path."""
    code = "import sys; from antimatter import cli; sys.exit(cli.main(sys.argv[1:]))"

    def command(*arguments: str) -> str:
        environment = {
            "PYTHONPATH": str(Path(adoption.__file__).parents[2]),
            "DVC_ROOT": str(project),
            "PATH": "",
        }
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
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
    assert "shards, unfinished, at step 120; other code now: antimatter/one.py" in command("resume")
    assert "+x = 2" in command("resume", str(work)) and work.exists()
    assert (
        "`dvc repro` resumes it" in command("resume", str(work), "--accept") and not work.exists()
    )
    assert (
        closure.digests("stages.shards")
        == files.read_json(next(project.glob(".state/*/identity.json")))["code"]
    )
