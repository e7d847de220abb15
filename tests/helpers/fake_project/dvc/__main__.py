"""Stands in for `python -m dvc` in a session on Kaggle. FAKE_DVC says how `repro` ends:

- nothing: it writes the results of a pipeline;
- `fails`: with an error;
- `waits`: not, until Ctrl-C; then it saves a state.
"""

import json
import os
import sys
import time
from pathlib import Path


def write(path: str, text: str = "") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def repro() -> int:
    state = Path(".state/training/step")
    print(f"state: {state.read_text() if state.exists() else 'none'}", flush=True)
    write("dvc.lock", "stages:\n  raw: {}\n")
    write("metrics/raw/summary.json", "{}")
    ending = os.environ.get("FAKE_DVC")
    if ending == "fails":
        print("error: cleaned: no documents", flush=True)
        return 255
    if ending == "waits":
        try:
            print("training", flush=True)
            time.sleep(20)
        except KeyboardInterrupt:
            write(str(state), "20")
            return 1
    figures = {"perplexity": 61.317, "bits_per_byte": 1.5}
    write("metrics/evaluation/summary.json", json.dumps(figures))
    write("models/ollama/Modelfile", "FROM model")
    write("dvc.lock", "stages:\n  raw: {}\n  evaluation: {}\n")
    return 0


print(f"dvc {' '.join(sys.argv[1:])}", flush=True)
if sys.argv[1] == "repro":
    sys.exit(repro())
