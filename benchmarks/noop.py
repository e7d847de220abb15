"""How long `dvc repro` and `dvc status` take where nothing is to be done, beside `dvc --version`: python benchmarks/noop.py [--rounds 7]

They take turns. `dvc --version` is what Python and DVC's imports cost, before anything is looked at. The
last is `dvc repro` without ruamel.yaml.clib, YAML's parser in C (decision 30).
"""

import argparse
import statistics
import subprocess
import sys
import time

HIDDEN = "YAML in Python"
COMMANDS = (("--version",), ("status",), ("repro",), ("repro", HIDDEN))
RUN = "import sys; from dvc.cli import main; sys.exit(main(sys.argv[1:]))"


def seconds(*arguments: str) -> float:
    code = f"import sys; sys.modules['_ruamel_yaml'] = None; {RUN}" if HIDDEN in arguments else RUN
    arguments = tuple(one for one in arguments if one != HIDDEN)
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    took = time.perf_counter() - begin
    if done.returncode or "Running stage" in done.stdout or "changed" in done.stdout:
        sys.exit(
            f"error: `dvc {' '.join(arguments)}` found something to do: run `dvc repro` first\n{done.stdout}{done.stderr}"
        )
    return took


def main(rounds: int) -> None:
    for command in COMMANDS:  # files come into memory
        seconds(*command)
    times: dict[tuple[str, ...], list[float]] = {command: [] for command in COMMANDS}
    for _ in range(rounds):
        for command in COMMANDS:
            times[command].append(seconds(*command))
    base = statistics.median(times[COMMANDS[0]])
    for command, found in times.items():
        median, spread = statistics.median(found), f"{min(found):.2f} to {max(found):.2f}"
        print(
            f"dvc {', '.join(command):<21} {median:.2f} s (median of {rounds}; {spread}), {median / base:.2f} x `dvc --version`"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    main(parser.parse_args().rounds)
