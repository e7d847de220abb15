from pathlib import Path

import pytest
from helpers.tiny_pipeline import run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The TMPDIR for the temporary clones."""
    folder = tmp_path / "a place with spaces"
    folder.mkdir()
    return folder


@pytest.fixture
def clone(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A clone of the repository in which the pipeline has run, with that repository's cache."""
    folder = tmp_path / "a clone"
    done = run(tmp_path, "git", "clone", "--quiet", str(tiny_pipeline), str(folder))
    assert done.returncode == 0
    # As `dvc cache dir --local` writes it
    config = f"[cache]\n    dir = {tiny_pipeline / '.dvc/cache'}\n"
    (folder / ".dvc/config.local").write_text(config)
    return folder
