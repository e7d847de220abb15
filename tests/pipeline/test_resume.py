"""Unfinished work is kept and resumed, and a stage says so when it starts without it."""

import subprocess
import sys
from pathlib import Path

import pytest

from antimatter import files
from antimatter.pipeline import recorded, resume


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("DVC_STAGE", raising=False)
    return tmp_path / ".state"


def interrupted(**identity: object) -> Path:
    with pytest.raises(KeyboardInterrupt), resume.directory("shards", [], **identity) as work:
        (work / "half").write_text("done")
        raise KeyboardInterrupt
    return work


def test_work_is_resumed_and_deleted_when_it_is_done(root: Path) -> None:
    work = interrupted(shards={"seed": 1})
    assert work == resume.path_of("shards", shards={"seed": 1})
    with resume.directory("shards", [], shards={"seed": 1}) as again:
        assert (again / "half").read_text() == "done"
    assert list(root.iterdir()) == []


def test_a_new_start_names_how_it_differs_from_unfinished_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = interrupted(shards={"seed": 1, "size": 5}, input={"a.npy": "0" * 64})
    assert capsys.readouterr().err == ""
    interrupted(shards={"seed": 2, "size": 5}, input={"a.npy": "1" * 64})
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert f"unfinished work is in {old}" in output
    assert "differs in input.a.npy, shards.seed 1 -> 2" in output
    # It resumes its own work
    interrupted(shards={"seed": 2, "size": 5}, input={"a.npy": "1" * 64})
    assert capsys.readouterr().err == ""


def test_work_of_a_running_process_is_locked_and_not_reported_as_unfinished(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = """
import time
from antimatter.pipeline import resume
with resume.directory("shards", [], seed=1):
    print("in", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "in\n"
        with pytest.raises(
            files.Locked, match=rf"shards .* already running as process {other.pid}"
        ):
            interrupted(seed=1)
        interrupted(seed=2)
        other.kill()
    assert capsys.readouterr().err == ""


def test_differences_have_the_path_of_their_keys() -> None:
    old = {"code": {"a.py": "1" * 64, "b.py": "2" * 64}, "model": {"n_layer": 2, "tied": True}}
    new = {
        "code": {"a.py": "1" * 64, "b.py": "3" * 64, "c.py": "4" * 64},
        "model": {"n_layer": 4, "tied": True},
    }
    assert resume.differences(old, new) == ["b.py", "c.py", "model.n_layer 2 -> 4"]


# ---- a finished stage, until DVC has recorded its outputs


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output of the stage, in the folder in which DVC runs it."""
    monkeypatch.setenv("DVC_STAGE", "shards")
    workspace = tmp_path / "workspace"
    (workspace / "stages").mkdir(parents=True)
    (workspace / "stages/shards.py").touch()
    (workspace / "out").mkdir()
    (workspace / "out/file").write_text("a result")
    monkeypatch.chdir(workspace)
    return Path("out")


def finished(output: Path) -> Path:
    with resume.directory("shards", [output], seed=1) as work:
        (work / "done").touch()
    return work


def record(digest: str, workspace: Path) -> None:
    (workspace / "dvc.lock").write_text(
        f"schema: '2.0'\nstages: {{shards: {{cmd: x, outs: [{{path: out, md5: {digest}}}]}}}}\n"
    )


def cache(digest: str, root: Path) -> None:
    files.write_text(root / ".dvc/cache/files/md5" / digest[:2] / digest[2:], "[]")


def test_the_work_of_a_finished_stage_is_kept_until_its_output_is_in_lock_and_cache(
    root: Path, output: Path
) -> None:
    work, digest, other = finished(output), recorded.md5(output), "0" * 32 + ".dir"
    # The third pair is that of a fresh clone
    for in_lock, in_cache in ((None, other), (other, other), (digest, other), (other, digest)):
        (output.parent / "dvc.lock").unlink(missing_ok=True)
        files.remove(root.parent / ".dvc")
        if in_lock:
            record(in_lock, output.parent)
        cache(in_cache, root.parent)
        resume.delete_recorded()
        assert (work / "done").exists(), (in_lock, in_cache)
    record(digest, output.parent)
    resume.delete_recorded()
    assert not work.exists()


def test_finished_work_that_dvc_did_not_record_is_resumed_with_a_note(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = finished(output)
    with resume.directory("shards", [output], seed=1) as again:
        assert again == work and (again / "done").exists()
    output_lines = capsys.readouterr().err.splitlines()
    assert len(output_lines) == 1 and str(work) in output_lines[0]


def test_the_cache_decides_for_an_experiment_whose_folder_is_gone(
    root: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, digest = finished(output), recorded.md5(output)
    gone = Path.cwd()
    monkeypatch.chdir(root.parent)
    files.remove(gone)
    resume.delete_recorded()
    assert work.exists()
    cache(digest, root.parent)
    resume.delete_recorded()
    assert not work.exists()


def test_without_dvc_the_work_of_a_finished_stage_is_deleted(
    root: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE")
    assert not finished(output).exists()


@pytest.mark.parametrize(
    ("name", "text", "path"),
    [
        ("config", "[core]\n    analytics = false\n", ".dvc/cache"),
        (
            "config",
            "[core]\n    analytics = false\n"
            '[cache]\n    type = "reflink,copy"\n    dir = ../../shared\n',
            ".dvc/../../shared",
        ),
        (
            "config.local",
            "[cache]\n    dir = /somewhere/else\n['remote \"x\"']\n    url = /r\n",
            "/somewhere/else",
        ),
    ],
)
def test_the_cache_is_that_of_dvc(tmp_path: Path, name: str, text: str, path: str) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / name).write_text(text)
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = recorded.cache(tmp_path, {"XDG_CONFIG_HOME": str(tmp_path / "none")})
    assert ours.resolve() == Path(done.stdout.strip()).resolve() == (tmp_path / path).resolve()
