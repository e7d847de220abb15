import subprocess
import sys
from pathlib import Path

import pytest

from antimatter import files


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    files.write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["kept.json"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for name in ("first", "second"):
        with files.replacing(folder) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [item.name for item in folder.iterdir()] == ["second"]
    with pytest.raises(RuntimeError), files.replacing(folder) as partial:
        partial.mkdir()
        raise RuntimeError
    assert [item.name for item in folder.iterdir()] == ["second"]


def test_metrics_keep_six_digits(tmp_path: Path) -> None:
    files.write_metrics(tmp_path / "m.json", {"a": {"loss": 3.14159265, "n": 123456789}})
    assert files.read_json(tmp_path / "m.json") == {"a": {"loss": 3.14159, "n": 123456789}}


def test_missing_and_broken_json_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"m\.json is missing"):
        files.read_json(tmp_path / "m.json")
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(ValueError, match=r"m\.json is not JSON"):
        files.read_json(tmp_path / "m.json")


def test_a_lock_has_one_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = f"""
import time
from pathlib import Path
from antimatter import files
with files.lock(Path({str(path)!r}), "it"):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"a training is already running as process {holder.pid}"), files.lock(path, "a training"):
            pass
        holder.kill()
    with files.lock(path, "a training"):
        pass
