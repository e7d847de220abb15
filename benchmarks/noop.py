"""How long `dvc repro` and `dvc status` take if there is nothing to do, relative to `dvc
--version`.

    python benchmarks/noop.py [--rounds 7]

The commands take turns. `dvc --version` is the cost of Python and DVC's imports alone. The last
command is `dvc repro` without ruamel.yaml.clib, YAML's parser in C (decision 30).
"""

import argparse
import statistics
import subprocess
import sys
import time

HIDDEN = "YAML in Python"
COMMANDS: list[tuple[str, ...]] = [("--version",), ("status",), ("repro",), ("repro", HIDDEN)]
RUN = "import sys; from dvc.cli import main; sys.exit(main(sys.argv[1:]))"


def seconds(*arguments: str) -> float:
    code = f"import sys; sys.modules['_ruamel_yaml'] = None; {RUN}" if HIDDEN in arguments else RUN
    arguments = tuple(argument for argument in arguments if argument != HIDDEN)
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    took = time.perf_counter() - begin
    if done.returncode or "Running stage" in done.stdout or "changed" in done.stdout:
        sys.exit(
            f"error: `dvc {' '.join(arguments)}` found something to do: run `dvc repro` first\n"
            f"{done.stdout}{done.stderr}"
        )
    return took


def main(rounds: int) -> None:
    # The first round brings the files into memory
    for command in COMMANDS:
        seconds(*command)
    times: dict[tuple[str, ...], list[float]] = {command: [] for command in COMMANDS}
    for _ in range(rounds):
        for command in COMMANDS:
            times[command].append(seconds(*command))
    base = statistics.median(times[COMMANDS[0]])
    for command, measured in times.items():
        median, spread = statistics.median(measured), f"{min(measured):.2f} to {max(measured):.2f}"
        print(
            f"dvc {', '.join(command):<21} {median:.2f} s (median of {rounds}; {spread}),"
            f" {median / base:.2f} x `dvc --version`"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    main(parser.parse_args().rounds)
