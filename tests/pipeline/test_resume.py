"""Unfinished work is kept, found again, and never forgotten in silence."""

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


def test_the_same_work_is_found_again_and_goes_when_it_is_done(root: Path) -> None:
    work = interrupted(shards={"seed": 1})
    assert work == resume.path_of("shards", shards={"seed": 1})
    with resume.directory("shards", [], shards={"seed": 1}) as again:
        assert (again / "half").read_text() == "done"
    assert list(root.iterdir()) == []


def test_work_that_begins_anew_names_what_sets_it_apart_from_what_is_unfinished(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = interrupted(shards={"seed": 1, "size": 5}, input={"a.npy": "0" * 64})
    assert capsys.readouterr().err == ""
    interrupted(shards={"seed": 2, "size": 5}, input={"a.npy": "1" * 64})
    said = capsys.readouterr().err
    assert said == (
        f"note: shards starts afresh; unfinished work lies in {old}, set apart by input.a.npy, shards.seed 1 -> 2: "
        "undo that to resume it, or delete the folder\n"
    )
    interrupted(shards={"seed": 2, "size": 5}, input={"a.npy": "1" * 64})
    assert capsys.readouterr().err == ""  # it goes on with its own


def test_what_another_process_is_at_is_neither_touched_nor_called_unfinished(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = "import sys, time; from antimatter.pipeline import resume\nwith resume.directory('shards', [], seed=1): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "in\n"
        with pytest.raises(
            files.Locked,
            match=f"the stage shards with these parameters is already running as process {other.pid}",
        ):
            interrupted(seed=1)
        interrupted(seed=2)
        other.kill()
    assert "starts afresh" not in capsys.readouterr().err


def test_differences_are_named_by_their_place() -> None:
    old = {"code": {"a.py": "1" * 64, "b.py": "2" * 64}, "model": {"n_layer": 2, "tied": True}}
    new = {
        "code": {"a.py": "1" * 64, "b.py": "3" * 64, "c.py": "4" * 64},
        "model": {"n_layer": 4, "tied": True},
    }
    assert resume.differences(old, new) == ["b.py", "c.py", "model.n_layer 2 -> 4"]


# ---- a finished stage, until DVC has recorded what it left


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stage has left, in the folder in which DVC runs it."""
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


def test_a_finished_stage_is_kept_until_the_lock_names_its_output_and_the_cache_holds_it(
    root: Path, output: Path
) -> None:
    work, digest, other = finished(output), recorded.md5(output), "0" * 32 + ".dir"
    for named, held in (
        (None, other),
        (other, other),
        (digest, other),
        (other, digest),
    ):  # the third: a fresh clone
        (output.parent / "dvc.lock").unlink(missing_ok=True)
        files.remove(root.parent / ".dvc")
        if named:
            record(named, output.parent)
        cache(held, root.parent)
        resume.delete_recorded()
        assert (work / "done").exists(), (named, held)
    record(digest, output.parent)
    resume.delete_recorded()
    assert not work.exists()


def test_work_that_finished_and_was_not_recorded_is_resumed_and_says_so(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = finished(output)
    with resume.directory("shards", [output], seed=1) as again:
        assert again == work and (again / "done").exists()
    assert (
        f"shards had finished, but DVC did not record it: its results come from {work}"
        in capsys.readouterr().err
    )


def test_of_an_experiment_whose_folder_is_gone_the_cache_tells(
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


def test_without_dvc_nothing_is_kept_of_a_stage_that_has_finished(
    root: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE")
    assert not finished(output).exists()


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("config", "[core]\n    analytics = false\n", ".dvc/cache"),
        (
            "config",
            '[core]\n    analytics = false\n[cache]\n    type = "reflink,copy"\n    dir = ../../shared\n',
            ".dvc/../../shared",
        ),
        (
            "config.local",
            "[cache]\n    dir = /somewhere/else\n['remote \"x\"']\n    url = /r\n",
            "/somewhere/else",
        ),
    ],
)
def test_the_cache_is_where_dvc_has_it(tmp_path: Path, name: str, text: str, place: str) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / name).write_text(text)
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=tmp_path, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    found = recorded.cache(tmp_path, {"XDG_CONFIG_HOME": str(tmp_path / "none")})
    assert found.resolve() == Path(asked.stdout.strip()).resolve() == (tmp_path / place).resolve()
