"""Stands in for `python -m dvc` in tests that need an experiment's result but not its training.

A test puts this folder first on PYTHONPATH and describes in FAKE_DVC, as JSON, what it does. All
other commands are those of the real DVC.

- `exp run --name NAME` commits the experiment NAME at once. Its loss is a law of its width and
  steps. `fail`, `wait` and `busy` are parts of names. Experiments with them fail, wait for SIGINT
  to save a state (with a saved state they finish), or find DVC locked in their first two attempts.
- `status` prints `status`, if FAKE_DVC has it.
- With `results`, a folder where the pipeline has run: `repro --single-item STAGE` takes the outputs
  and the lock of the stage from there, and `checkout` and `cache dir --local` do nothing, as there
  are no inputs to read.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = str(Path(__file__).parents[1])
PLAN = json.loads(os.environ["FAKE_DVC"])


def run_experiment(name: str, values: dict[str, str]) -> int:
    def is_planned(key: str) -> bool:
        return key in PLAN and PLAN[key] in name

    state, attempts = Path(".state") / name, Path(".state") / f"{name}.attempts"
    with attempts.open("a") as file:
        file.write("1")
    if is_planned("busy") and len(attempts.read_text()) < 3:
        print("ERROR: Unable to acquire lock", file=sys.stderr)
        return 255
    print(f"Reproducing experiment '{name}'", flush=True)
    if is_planned("fail"):
        print("error: it went wrong\nERROR: failed to reproduce 'checkpoints'", file=sys.stderr)
        return 255
    if is_planned("wait") and not state.exists():
        # A process like a stage's. SIGINT reaches it too, as both are in one group
        stage = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        try:
            stage.wait()
        except KeyboardInterrupt:
            state.touch()
        return 255
    state.unlink(missing_ok=True)
    width, steps = int(values["model.n_embd"]), int(values["checkpoints.steps"])
    loss = 2 + 1.5 * (16 / width) ** 0.8 + 0.5 * (200 / steps) ** 0.6
    figures = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 2}
    content = json.dumps(figures)
    stream = (
        f"commit refs/exps/ab/{'c' * 38}/{name}\n"
        "committer test <test@localhost> 1700000000 +0000\n"
        "data 0\n"
        "from HEAD^0\n"
        "M 100644 inline metrics/evaluation/summary.json\n"
        f"data {len(content)}\n{content}\n"
    )
    subprocess.run(["git", "fast-import", "--quiet"], input=stream, text=True, check=True)
    return 0


def reproduce(stage: str) -> int:
    from ruamel.yaml import YAML

    yaml, results = YAML(), Path(PLAN["results"])
    entry = yaml.load(results / "dvc.lock")["stages"][stage]
    for output in entry["outs"]:
        shutil.copy2(results / output["path"], output["path"])
    lock = yaml.load(Path("dvc.lock"))
    lock["stages"][stage] = entry
    yaml.dump(lock, Path("dvc.lock"))
    return 0


def main(arguments: list[str]) -> int:
    if arguments[:2] == ["exp", "run"]:
        options = (word.removeprefix("--set-param=") for word in arguments)
        values = dict(option.split("=") for option in options if "=" in option)
        return run_experiment(arguments[arguments.index("--name") + 1], values)
    if arguments[0] == "status" and "status" in PLAN:
        print(PLAN["status"])
        return 0
    if "results" in PLAN:
        if arguments[:2] == ["repro", "--single-item"]:
            return reproduce(arguments[-1])
        if arguments[0] == "checkout" or arguments[:3] == ["cache", "dir", "--local"]:
            return 0
    others = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path != HERE]
    os.environ["PYTHONPATH"] = os.pathsep.join(others)
    os.execv(sys.executable, [sys.executable, "-m", "dvc", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
