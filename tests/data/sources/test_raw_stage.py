"""The stage raw with `source: hub`, as DVC calls it: the same files whether or not it is killed,
with any number of readers.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
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
    # SIGABRT prints the stacks
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    # The folder of unfinished work is named after the code, as seen from the folder of the call
    for name in ("antimatter", "prompts", "stages"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    # Files, as a pipe that nobody reads would stop the stage
    with (folder / "output").open("w") as output, (folder / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "stages.raw", "corpus", "data/raw", "metrics", "plots"],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=errors,
            text=True,
        )


def until(condition: Callable[[], bool], call: "subprocess.Popen[str]", folder: Path) -> None:
    """Waits, or ends the stage and shows where its processes are."""
    deadline = time.monotonic() + 100
    while not condition():
        if time.monotonic() > deadline:
            for process in (*psutil.Process(call.pid).children(recursive=True), call):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGABRT)
            call.wait(10)
            written = [str(path) for path in folder.glob(".state/**/*") if path.is_file()]
            pytest.fail("\n".join(["the stage hangs", (folder / "errors").read_text(), *written]))
        time.sleep(0.005)


def finish(call: "subprocess.Popen[str]", folder: Path) -> tuple[str, str]:
    """What a stage has printed that must succeed."""
    until(lambda: call.poll() is not None, call, folder)
    output, errors = ((folder / name).read_text() for name in ("output", "errors"))
    assert call.returncode == 0, errors
    return output, errors


def begun(folder: Path) -> int:
    """How many of the six lanes have text."""
    return len(list(folder.glob(".state/*/raw/*.json")))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data/raw").iterdir())}


@pytest.mark.slow
def test_the_stage_leaves_the_same_files_killed_or_not(server: Hub, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    output, errors = finish(start(server, one, workers=1), one)
    documents, size = len(C4_TEXTS) + len(WEB_TEXTS), sum(map(len, C4_TEXTS + WEB_TEXTS))
    assert output == f"raw: {documents:,} documents, {size / 1e6:.1f} MB from 2 sources\n"
    assert "raw: allenai/c4 gave 0.2 MB of the 0.5 asked for: some lanes hold no more" in errors
    expected = contents(one)
    assert expected and all(name.endswith(".parquet") for name in expected)

    # The same values need no second check
    (two / ".state").mkdir(parents=True)
    shutil.copy(one / ".state/checked", two / ".state")

    def kill(workers: int, lanes: int) -> int:
        """Kills the stage when so many lanes have text. Returns its exit status."""
        with start(server, two, workers) as call:
            until(lambda: call.poll() is not None or begun(two) >= lanes, call, two)
            call.send_signal(signal.SIGKILL)
        return call.returncode

    assert kill(workers=2, lanes=2) == -signal.SIGKILL, "it ended before it was killed"
    kill(workers=1, lanes=6)
    finish(start(server, two, workers=1), two)
    assert contents(two) == expected
    assert (two / "plots/sources.csv").read_bytes() == (one / "plots/sources.csv").read_bytes()
