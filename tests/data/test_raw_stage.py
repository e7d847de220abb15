"""The stage raw with `source: hub`, as DVC calls it: killed in the middle, with any number of readers, the same files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import hub_server
from test_hub import C4, C4_TEXTS, WEB, WEB_TEXTS, c4, refinedweb

from antimatter import params

ROOT = Path.cwd()


@pytest.fixture(scope="module")
def server():
    with hub_server.running({C4.name: c4(4), WEB.name: refinedweb(5)}) as server:
        yield server


def start(server: hub_server.Hub, folder: Path, workers: int) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    values = params.load(ROOT / "params.yaml")
    keys = ("name", "config", "split", "revision", "text_column", "licence", "weight")
    data_sets = [{key: getattr(data_set, key) for key in keys} for data_set in (C4, WEB)]
    values["raw"] |= {
        "source": "hub",
        "file_mb": 0.02,
        "hub": {"total_mb": 1.0, "lanes": 3, "data_sets": data_sets},
    }
    values["runtime"]["workers"] = workers
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    environment |= {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "stages.raw", "data/raw", "raw.json", "sources.csv"]
    for name in (
        "antimatter",
        "stages",
    ):  # what the state is named for: the code, seen from the folder of the call
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data/raw").iterdir())}


def test_the_stage_leaves_the_same_files_killed_or_not(server, tmp_path):
    first = start(server, tmp_path / "one", workers=1)
    said, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    size = sum(len(text) for text in C4_TEXTS + WEB_TEXTS)
    assert (
        said
        == f"raw: {len(C4_TEXTS) + len(WEB_TEXTS):,} documents, {size / 1e6:.1f} MB from 2 sources\n"
    )
    assert "raw: allenai/c4 gave 0.2 MB of the 0.5 asked for: some lanes hold no more" in errors
    expected = contents(tmp_path / "one")
    assert expected and all(name.endswith(".parquet") for name in expected)

    (tmp_path / "two/.state").mkdir(parents=True)
    shutil.copy(
        tmp_path / "one/.state/checked", tmp_path / "two/.state"
    )  # the same values need no second look
    for lanes, workers in ((2, 2), (6, 1)):  # finished when it is killed, of 6
        with start(server, tmp_path / "two", workers) as call:
            while (
                len(list((tmp_path / "two/.state").glob("*/raw/*.json"))) < lanes
                and call.poll() is None
            ):
                time.sleep(0.005)
            call.send_signal(signal.SIGKILL)
        assert call.returncode == -signal.SIGKILL or lanes == 6, "it has ended before it was killed"
    last = start(server, tmp_path / "two", workers=1)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert contents(tmp_path / "two") == expected
    assert (tmp_path / "two/sources.csv").read_bytes() == (
        tmp_path / "one/sources.csv"
    ).read_bytes()
