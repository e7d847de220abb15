"""Text of a user in corpus/, with DVC, in copies of a tiny pipeline that has run."""

import json
import os
from pathlib import Path

import pytest
from helpers.tiny_pipeline import DVC, commit, dvc, edit, keep_stages, run

TEXT = "The keeper of the lighthouse went down to the shore.\n"


def own_text(folder: Path, pattern: str) -> None:
    file = {"pattern": pattern, "text_column": "text", "licence": "MIT"}
    edit(folder, {"raw.source": "files", "raw.files": [file]})


@pytest.fixture
def folder(a_copy: Path) -> Path:
    keep_stages(a_copy, "checked", "raw")
    (a_copy / "corpus/mine").mkdir()
    (a_copy / "corpus/mine/one.txt").write_text(TEXT)
    own_text(a_copy, "corpus/mine/*.txt")
    return a_copy


def documents(folder: Path) -> str:
    summary = json.loads((folder / "metrics/raw/summary.json").read_text())
    return str(summary["documents"])


def test_dvc_notices_an_edit_and_a_new_file_but_not_a_touch(folder: Path) -> None:
    output = dvc(folder, "repro")
    assert "note: " not in output and documents(folder) == "1"
    # Git takes it only with --force
    assert "corpus" not in run(folder, "git", "status", "--porcelain").stdout
    os.utime(folder / "corpus/mine/one.txt", (1, 1))
    assert "up to date" in dvc(folder, "status")
    (folder / "corpus/mine/one.txt").write_text(TEXT * 2)
    assert "corpus" in dvc(folder, "status")
    (folder / "corpus/mine/two.txt").write_text(TEXT)
    assert "Running stage 'raw'" in dvc(folder, "repro") and documents(folder) == "2"
    # A text of before comes from the run-cache
    (folder / "corpus/mine/two.txt").unlink()
    (folder / "corpus/mine/one.txt").write_text(TEXT)
    assert "Stage 'raw' is cached" in dvc(folder, "repro") and documents(folder) == "1"


def test_text_elsewhere_is_named_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/one.txt").write_text(TEXT)
    pattern = f"{tmp_path}/elsewhere/*.txt"
    own_text(folder, pattern)
    (note,) = (line for line in dvc(folder, "repro").splitlines() if line.startswith("note: "))
    assert note.startswith(f"note: raw.files: {pattern} reads {tmp_path}/elsewhere/one.txt, which ")
    assert "is not in corpus/" in note and "`dvc repro --force raw`" in note


def test_an_experiment_in_a_copy_reads_tracked_text_and_refuses_other(folder: Path) -> None:
    dvc(folder, "repro")
    commit(folder, "own text")
    experiment = ("exp", "run", "--temp", "-S", "raw.file_mb=2")
    done = run(folder, *DVC, *experiment)
    assert done.returncode != 0
    assert "`dvc add corpus/mine`, then commit corpus/mine.dvc" in done.stderr + done.stdout
    dvc(folder, "add", "corpus/mine")
    commit(folder, "tracked by DVC")
    assert "Running stage 'raw'" in dvc(folder, *experiment)
