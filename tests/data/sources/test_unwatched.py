"""Files that DVC does not watch. What it watches is asked of DVC itself."""

from pathlib import Path

import pytest
from helpers.tiny_pipeline import dvc, run

from antimatter.data.sources.unwatched import unwatched
from antimatter.errors import UserError

CORPUS = Path("corpus")
STAGE = "stages:\n  raw:\n    cmd: touch out\n    deps: [corpus]\n    outs: [out]\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text in each place that a user may think of."""
    folder = tmp_path / "project"
    for path in (folder / "corpus/deep/own.txt", folder / "mine/own.txt", tmp_path / "far/far.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    (folder / "corpus/file.txt").symlink_to(tmp_path / "far/far.txt")
    (folder / "corpus/linked").symlink_to(tmp_path / "far")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return folder


def test_the_first_unwatched_file_of_each_pattern_is_named(project: Path) -> None:
    far = project.parent / "far"
    watched = ["corpus/deep/*.txt", "corpus/*.txt", str(project / "corpus/deep/own.txt")]
    others = ["mine/*", f"{far}/*", "corpus/../mine/*", "corpus/linked/*", "**/*.txt"]
    assert unwatched(watched, CORPUS) == {}
    found = unwatched([*watched, *others, "none/*"], CORPUS)
    assert list(found) == others
    assert found["mine/*"] == Path("mine/own.txt") and found[f"{far}/*"] == far / "far.txt"
    assert found["**/*.txt"] == Path("corpus/linked/far.txt")


@pytest.mark.parametrize(
    ("name", "is_watched"),
    [
        ("corpus/deep/own.txt", True),
        ("corpus/file.txt", True),
        ("corpus/linked/far.txt", False),
        ("mine/own.txt", False),
    ],
)
def test_dvc_notices_an_edit_of_exactly_the_watched_files(
    project: Path, name: str, is_watched: bool
) -> None:
    (project / "dvc.yaml").write_text(STAGE)
    if name != "corpus/file.txt":
        # The same file as behind the link to a folder
        (project / "corpus/file.txt").unlink()
    run(project, "git", "init", "--quiet")
    dvc(project, "init", "--quiet")
    dvc(project, "repro", "--quiet")
    with (project / name).open("a") as file:
        file.write("more")
    assert ("modified" in dvc(project, "status")) == is_watched
    assert (unwatched([name], CORPUS) == {}) == is_watched


def test_an_experiment_refuses_text_of_the_corpus_that_is_in_the_main_repository_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = project / ".dvc/tmp/exps/one"
    (copied / "corpus").mkdir(parents=True)
    monkeypatch.chdir(copied)
    monkeypatch.setenv("DVC_ROOT", str(project))
    with pytest.raises(UserError, match=r"corpus/deep/own\.txt: .*`dvc add corpus/deep`, "):
        unwatched(["corpus/deep/*.txt"], CORPUS)
    # Text elsewhere is read there, as DVC watches it nowhere
    assert unwatched(["mine/*"], CORPUS) == {"mine/*": project / "mine/own.txt"}
