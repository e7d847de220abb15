"""The one wrapper of Git: which repository it asks, and how it fails."""

import subprocess
from pathlib import Path

import pytest

from antimatter.errors import UserError
from antimatter.repository import git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "project/ladder").mkdir(parents=True)
    for name in ("top.txt", "project/é.txt", "project/ladder/ladder.json"):
        (folder / name).write_text("1")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*identity, "commit", "--quiet", "--message", "start"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_the_output_and_the_error_of_a_command(repository: Path) -> None:
    assert git.output("show", "HEAD:top.txt", root=repository) == "1"
    with pytest.raises(UserError, match=r"^`git show` failed \(fatal: .*\): do this$"):
        git.output("show", "HEAD:absent", root=repository, fix="do this")


def test_a_query_that_fails_is_none(repository: Path, tmp_path: Path) -> None:
    assert git.query("show", "HEAD:./é.txt", root=repository / "project") == "1"
    assert git.query("show", "HEAD:absent", root=repository) is None
    assert git.query("rev-parse", "HEAD", root=tmp_path) is None


def test_without_git_it_says_so(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="`git` is not installed"):
        git.output("status", root=repository)
    assert git.query("status", root=repository) is None


def test_changed_files_of_the_repository_and_without_a_folder(repository: Path) -> None:
    project = repository / "project"
    assert git.changed_files(root=repository) == []
    (repository / "top.txt").write_text("2")
    (project / "ladder/ladder.json").write_text("2")
    (project / "untracked.txt").write_text("2")
    both = ["project/ladder/ladder.json", "top.txt"]
    assert git.changed_files(root=repository) == git.changed_files(root=project) == both
    assert git.changed_files(":/", ":!ladder", root=project) == ["top.txt"]


def test_variables_of_a_git_hook_do_not_change_the_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert git.output("show", "HEAD:top.txt", root=repository) == "1"
