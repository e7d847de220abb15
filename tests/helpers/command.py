"""`antimatter` as a process, in any folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT),
    # No Ollama answers there
    "OLLAMA_HOST": "127.0.0.1:9",
    "LC_ALL": "C",
}
COMMAND = [sys.executable, "-m", "antimatter.cli"]


def antimatter(
    folder: Path, *arguments: str, text: bytes = b"", **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        input=text,
        capture_output=True,
        env=ENVIRONMENT | environment,
        timeout=60,
    )
