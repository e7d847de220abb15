"""Which files a pattern names: the same, in the same order, on every machine."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import own_texts

from antimatter.data.sources import paths
from antimatter.data.sources.paths import FilesConfig
from antimatter.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(*patterns: str) -> list[str]:
    configs = [FilesConfig(pattern=one, text_column="", licence="") for one in patterns]
    return [path for _, path in paths.listing(configs, "raw.files").files]


FILES = ["corpus/b.txt", "corpus/a.txt", "corpus/sub/c.md", "corpus/sub/deep/d.txt", "corpus/e.csv"]


@pytest.fixture
def corpus(here: Path) -> None:
    own_texts.write(here, dict.fromkeys(FILES, b"text"))
    hidden = ["corpus/.git/x.txt", "corpus/.x.txt", "corpus/sub/.venv/y.txt"]
    own_texts.write(here, dict.fromkeys(hidden, b"hidden"))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("corpus", ["a.txt", "b.txt", "e.csv", "sub/c.md", "sub/deep/d.txt"]),
        ("corpus/", ["a.txt", "b.txt", "e.csv", "sub/c.md", "sub/deep/d.txt"]),
        ("./corpus/sub", ["sub/c.md", "sub/deep/d.txt"]),
        ("corpus/a.txt", ["a.txt"]),
        ("corpus/*.txt", ["a.txt", "b.txt"]),
        ("corpus/[ab].txt", ["a.txt", "b.txt"]),
        ("corpus/**/*.txt", ["a.txt", "b.txt", "sub/deep/d.txt"]),
        ("corpus/**", ["a.txt", "b.txt", "e.csv", "sub/c.md", "sub/deep/d.txt"]),
        ("**/deep/*", ["sub/deep/d.txt"]),
        ("*/sub/**/?.*", ["sub/c.md", "sub/deep/d.txt"]),
    ],
)
@pytest.mark.usefixtures("corpus")
def test_files_folders_and_globs(pattern: str, expected: list[str]) -> None:
    assert listed(pattern) == [f"corpus/{name}" for name in expected]


@pytest.mark.usefixtures("corpus")
def test_a_glob_matches_what_glob_matches(here: Path) -> None:
    import glob

    for pattern in ("corpus/**/*", "**/*.txt", "corpus/**/deep/**", "c*/*/*.md", "**/sub/*"):
        found = [name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)]
        assert paths.matches(pattern) == sorted(found), pattern


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize("pattern", ["corpus", "corpus/*", "corpus/**"])
def test_what_dvc_writes_beside_the_texts_is_passed_over(here: Path, pattern: str) -> None:
    own_texts.write(here, {"corpus/sub.dvc": b"outs:", "corpus/code.py": b"x"})
    config = FilesConfig(pattern=pattern, text_column="", licence="")
    assert paths.listing([config], "raw.files").others == {".py": 1}
    with pytest.raises(UserError, match=r"corpus/sub\.dvc is of an unknown kind"):
        listed("corpus/sub.dvc")


def test_a_name_that_exists_has_precedence_over_its_reading_as_a_pattern(here: Path) -> None:
    names = ["my [draft] texts/a [1].txt", "my [draft] texts/a 1.txt", "my d texts/b.txt", "*.txt"]
    own_texts.write(here, dict.fromkeys(names, b"text"))
    assert listed("my [draft] texts") == [names[1], names[0]]
    assert listed("my [draft] texts/a [1].txt") == [names[0]]
    assert listed("my [draft] texts/*.txt") == [names[1], names[0]]
    assert listed("my [draft] texts/a ?.txt") == [names[1]]
    # There is a file of this name
    assert listed("*.txt") == ["*.txt"]
    assert listed("my [abcd] texts/*") == [names[2]]


def test_the_home_folder_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    own_texts.write(here, {"mine/a.txt": b"text"})
    assert listed("~/mine") == [f"{here}/mine/a.txt"] == listed("~/mine/a.txt")


@pytest.mark.usefixtures("corpus")
def test_links_are_followed_and_a_file_is_read_once(here: Path) -> None:
    (here / "corpus/loop").symlink_to(here)
    (here / "corpus/sub/up").symlink_to("..")
    (here / "corpus/again.txt").symlink_to("b.txt")
    own_texts.write(here, {"elsewhere/f.txt": b"text"})
    (here / "corpus/linked").symlink_to(here / "elsewhere")
    expected = {"a", "again", "e", "c", "d", "f"}
    for pattern in ("corpus", "corpus/**/*"):
        assert {Path(name).stem for name in listed(pattern, "corpus/b.txt")} == expected


@pytest.mark.usefixtures("corpus")
def test_a_file_of_two_patterns_belongs_to_the_first() -> None:
    configs = [
        FilesConfig(pattern=pattern, text_column="", licence=pattern)
        for pattern in ("corpus/sub", "corpus")
    ]
    licences = {path: config.licence for config, path in paths.listing(configs, "k").files}
    assert len(licences) == 5
    assert licences["corpus/sub/c.md"] == "corpus/sub" and licences["corpus/a.txt"] == "corpus"


def test_a_name_of_any_bytes_is_read(here: Path) -> None:
    name = os.fsdecode(b"line\nbreak caf\xe9.txt")
    own_texts.write(here, {f"corpus/{name}": b"text"})
    assert listed("corpus") == [f"corpus/{name}"]
    with pytest.raises(UserError, match=r"corpus/caf\ufffd\.py is of an unknown kind"):
        own_texts.write(here, {os.fsdecode(b"corpus/caf\xe9.py"): b"text"})
        listed(os.fsdecode(b"corpus/caf\xe9.py"))


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    (folder / "locked").chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_and_a_file_without_permission_are_named(public: Path) -> None:
    own_texts.write(public, dict.fromkeys(("locked/a.txt", "b.txt", "c.txt"), b"text"))
    (public / "locked").chmod(0)
    (public / "c.txt").chmod(0)
    code = """
import os, sys
from antimatter.data.sources import local, paths
from antimatter.data.sources.faults import Report
import pyarrow.parquet
os.setuid(65534)
listed = paths.listing([paths.FilesConfig(pattern=sys.argv[1], text_column="", licence="")], "k")
report = Report()
print(*[one.text for part in paths.cut(listed, 1, "k") for one in local.read(part, report)])
print(*listed.faults, *report.messages, sep="\\n")
"""
    arguments = [sys.executable, "-c", code, str(public)]
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=public, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "text",
        f"{public}/locked cannot be listed (Permission denied): "
        "change its permissions, or take it out",
        f"{public}/c.txt cannot be read (Permission denied): "
        "change its permissions, or take it out of k",
    ]
