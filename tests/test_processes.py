import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import is_alive

from antimatter import processes

# Starts a child, prints its id, and lives as its parent does
PARENT = """\
import signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
if sys.argv[1] != "short":
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kind", ["short", "long", "stubborn"])
def test_no_process_outlives_the_block(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.5)
    command = [sys.executable, "-c", PARENT, kind]
    with processes.process_group(command, tmp_path, os.environ, subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        if kind == "short":
            process.wait()
        assert is_alive(child)
    for _ in range(100):
        if not is_alive(child):
            break
        time.sleep(0.01)
    assert not is_alive(child) and process.returncode is not None
    process.stdout.close()
