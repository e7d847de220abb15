"""The scripts of benchmarks/, which no stage and no other test runs, start."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = [
    path
    for path in sorted(Path("benchmarks").glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
]
# Clients of the server that are not among our dependencies
FOREIGN = ["langchain_core", "langchain_core.messages", "langchain_openai", "litellm"]
# One process for all, which imports torch once. It prints the scripts that answer
ASK_EACH = f"""
import io, runpy, sys, traceback
from contextlib import redirect_stdout
from unittest.mock import MagicMock

sys.modules |= dict.fromkeys({FOREIGN}, MagicMock())
scripts = sys.argv[1:]
for path in scripts:
    sys.argv, sys.path[0] = [path, "--help"], "benchmarks"
    help = io.StringIO()
    try:
        with redirect_stdout(help):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        if not ended.code and "--help" in help.getvalue():
            print(path)
    except Exception:
        traceback.print_exc()
"""


def test_each_script_answers_help() -> None:
    assert SCRIPTS
    command = [sys.executable, "-c", ASK_EACH, *map(str, SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(map(str, SCRIPTS)), done.stderr
