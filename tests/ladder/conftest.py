from pathlib import Path

import pytest
from helpers import ladder as helper
from helpers.ladder import Ladder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository for the fake DVC."""
    folder = tmp_path / "a folder with spaces" / "antimatter"
    helper.make_repository(folder)
    return folder


@pytest.fixture
def ladder(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ladder:
    """Six rungs, with the fake DVC."""
    return Ladder(project, monkeypatch, capsys)
