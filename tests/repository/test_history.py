"""Hashes as DVC computes them, and the commit that recorded one."""

import subprocess
import sys
from pathlib import Path

import pytest

from antimatter.pipeline import recorded
from antimatter.repository import history

SCRIPT = """
from pathlib import Path

Path("out/é").mkdir(parents=True)
Path("out/é/a b").write_text("1")
Path("out/z").write_text("2")
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three commits. The second records the folder `out` in dvc.lock, and the third changes another
    file.
    """
    tmp_path = tmp_path_factory.mktemp("repository")
    git(tmp_path, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "one.py").write_text(SCRIPT)
    (tmp_path / "dvc.yaml").write_text("stages:\n  one:\n    cmd: python one.py\n    outs: [out]\n")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "start")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    subprocess.run(command, cwd=tmp_path, check=True, env=environment)
    for message in ("results", "later"):
        (tmp_path / message).touch()
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--quiet", "--message", message)
    return tmp_path


def test_the_hash_of_a_folder_is_dvcs(repository: Path) -> None:
    assert recorded.md5(repository / "out") == recorded.hashes(recorded.stages(repository))["out"]
    assert recorded.md5(repository / "out/z") == "c81e728d9d4c2f636f067f89cc14862c"  # md5 of "2"


def test_the_commit_is_the_first_that_records_the_hash(repository: Path) -> None:
    commit = history.commit_of(recorded.md5(repository / "out"), repository)
    assert commit == git(repository, "rev-parse", "HEAD~1")
    assert history.commit_of("0" * 32, repository) is None


def test_without_git_there_is_no_commit(tmp_path: Path) -> None:
    assert history.commit_of("0" * 32, tmp_path) is None
    with pytest.raises(ValueError, match=r"dvc\.lock is missing: run `dvc repro`"):
        recorded.stages(tmp_path)
