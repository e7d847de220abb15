"""The stage raw with `source: hub`, as DVC calls it: the same files whether or not it is killed,
with any number of readers.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.hub_data import C4, C4_TEXTS, WEB, WEB_TEXTS
from helpers.hub_server import Hub

from antimatter import params

ROOT = Path(__file__).parents[3]


def start(server: Hub, folder: Path, workers: int) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    values = params.load(ROOT / "params.yaml")
    keys = ("name", "config", "split", "revision", "text_column", "licence", "weight")
    data_sets = [{key: getattr(data_set, key) for key in keys} for data_set in (C4, WEB)]
    hub = {"total_mb": 1.0, "lanes": 3, "data_sets": data_sets}
    values["raw"] |= {"source": "hub", "file_mb": 0.02, "hub": hub}
    values["runtime"]["workers"] = workers
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    names = [name for name in os.environ if not name.lower().endswith("_proxy")]
    environment = {name: os.environ[name] for name in names}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "home")}
    # The folder of unfinished work is named after the code, as seen from the folder of the call
    for name in ("antimatter", "prompts", "stages"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return subprocess.Popen(
        [sys.executable, "-m", "stages.raw", "corpus", "data/raw", "metrics", "plots"],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data/raw").iterdir())}


@pytest.mark.slow
def test_the_stage_leaves_the_same_files_killed_or_not(server: Hub, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    whole = start(server, one, workers=1)
    output, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    documents, size = len(C4_TEXTS) + len(WEB_TEXTS), sum(map(len, C4_TEXTS + WEB_TEXTS))
    assert output == f"raw: {documents:,} documents, {size / 1e6:.1f} MB from 2 sources\n"
    assert "raw: allenai/c4 gave 0.2 MB of the 0.5 asked for: some lanes hold no more" in errors
    expected = contents(one)
    assert expected and all(name.endswith(".parquet") for name in expected)

    # The same values need no second check
    (two / ".state").mkdir(parents=True)
    shutil.copy(one / ".state/checked", two / ".state")
    # Killed when 2 of 6 lanes are finished, and at the last one
    for lanes, workers in ((2, 2), (6, 1)):
        with start(server, two, workers) as call:
            while len(list((two / ".state").glob("*/raw/*.json"))) < lanes and call.poll() is None:
                time.sleep(0.005)
            call.send_signal(signal.SIGKILL)
        assert call.returncode == -signal.SIGKILL or lanes == 6, "it ended before it was killed"
    last = start(server, two, workers=1)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert contents(two) == expected
    assert (two / "plots/sources.csv").read_bytes() == (one / "plots/sources.csv").read_bytes()
