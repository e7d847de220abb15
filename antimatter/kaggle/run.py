"""Runs on Kaggle, by itself: `antimatter kaggle` copies this file into the kernel folder as run.py, with its settings filled in.

Only /kaggle/working is written to (and /kaggle/temp, where there is one). The project comes from the attached data set. What a later run goes on from
lies in /kaggle/working/kept: DVC's cache and lock, and the state of unfinished stages. Attach the output of this run to the next one, and it goes on.
"""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {}

ROOT = Path(os.environ.get("ANTIMATTER_KAGGLE_ROOT", "/kaggle"))
INPUT, WORKING = ROOT / "input", ROOT / "working"
KEPT = WORKING / "kept"
GRACE = 900  # seconds that a training may take to save its state, once the time is up
RESULTS = ("metrics", "plots", "models/gguf", "models/ollama")
SERVING = ("aiohttp", "numpy", "pyarrow", "PyYAML", "xllamacpp")  # what `antimatter serve` imports
TOOLS = ("mypy", "pytest", "ray", "ruff", "types-PyYAML")  # no stage imports them


class Stop(Exception):
    """The time is up, or Kaggle ends the session. No failure: what is done is kept."""


def main() -> int:
    # A child of a shell's `&` would ignore it, and so would the training
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, SETTINGS["hours"] * 3600)
    say(f"{SETTINGS['mode']} of commit {SETTINGS['commit']}")
    try:
        with scratch() as place:
            return serve(place) if SETTINGS["mode"] == "serve" else pipeline(place)
    except Stop as reason:
        return paused(reason)
    except (OSError, ValueError, tarfile.TarError, subprocess.SubprocessError) as error:
        say(f"error: {' '.join(str(error).split())}; what is finished is kept in {WORKING}")
        return 1


def stop(number: int, _frame: object) -> None:
    for each in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # once is enough
    raise Stop(
        "the session was ended"
        if number == signal.SIGTERM
        else f"{SETTINGS['hours']:g} hours are up"
    )


def paused(reason: Stop) -> int:
    """Status 0: what Kaggle offers to the next run is the output of a version that succeeded."""
    on = (
        ""
        if SETTINGS["mode"] == "serve"
        else ". Attach this kernel's output to its next run (`antimatter kaggle ... --after`), which goes on from here"
    )
    say(f"paused: {reason}{on}")
    return 0


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the checkout, installed packages and temporary files. Not in the output: beside it, or removed at the end."""
    place = ROOT / "temp" / "antimatter"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        place = WORKING / "scratch"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("project", "site", "home", "tmp", "bin"):
        (place / name).mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fetch(name: str, marker: str, target: Path) -> bool:
    """Copies what the data set holds as NAME.tar into `target`; Kaggle unpacks archives of a data set, so it is found by a file in it, too."""
    for archive in INPUT.rglob(f"{name}.tar"):
        if archive.is_file():
            with tarfile.open(archive) as tar:
                # Python before 3.11.4 has no filters; it ignores the attribute
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(target)
            return True
    roots = [path.parents[len(Path(marker).parts) - 1] for path in INPUT.rglob(marker)]
    # That would be the output of a run
    for root in (
        root for root in roots if not (root / "kept").is_dir() and "scratch" not in root.parts
    ):
        copy(root, target)
        return True
    return False


def copy(source: Path, target: Path) -> None:
    """A folder or a file, with modes of its own: what is attached is read-only, and a read-only file of its cache is one that DVC does not check."""
    for path in [source] if source.is_file() else source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def earlier() -> Path | None:
    """The output of a pipeline among what is attached: of several, the one that began last."""
    runs = sorted(
        (path.parents[1] for path in INPUT.rglob("kept/run.json")), key=begun, reverse=True
    )
    if len(runs) > 1:
        say(f"{len(runs)} outputs are attached, the newest counts: {', '.join(map(str, runs))}")
    return runs[0] if runs else None


def begun(output: Path) -> float:
    try:
        return float(json.loads((output / "kept" / "run.json").read_text())["begun"])
    except (ValueError, KeyError, TypeError):
        say(f"warning: {output}/kept/run.json is damaged: any other output is taken for newer")
        return 0.0


def prepare(place: Path) -> tuple[dict[str, str], Path]:
    """The environment in which this Python has what the project needs, and the project."""
    project = place / "project"
    if not fetch("source", "stages/checkpoints.py", project):
        raise OSError(
            f"{INPUT} holds no source.tar: attach the data set {SETTINGS['data_set']}, once Kaggle says that it is ready"
        )
    # The `python` of dvc.yaml
    (place / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (place / "bin" / "python").chmod(0o755)
    home = str(place / "home")
    folders = (
        "HOME",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "DVC_SITE_CACHE_DIR",
        "DVC_GLOBAL_CONFIG_DIR",
    )
    environment = {
        **os.environ,
        **dict.fromkeys((*folders, "DVC_SYSTEM_CONFIG_DIR"), home),
        "TMPDIR": str(place / "tmp"),
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(place / "site"),
        "PYTHONUNBUFFERED": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "MPLBACKEND": "agg",  # Kaggle sets that of notebooks
    }
    if not SETTINGS["internet"]:
        environment |= {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    install(place, project, environment)
    return environment, project


def install(place: Path, project: Path, environment: dict[str, str]) -> None:
    """Into a folder before Kaggle's own packages on the path. With --target, since the image cannot make virtual environments."""
    pins = dict(line.split("==") for line in (project / "requirements.lock").read_text().split())
    if SETTINGS["mode"] == "serve":
        wanted = {name: pins[name] for name in SERVING if name in pins and installed(name) is None}
    else:
        wanted = {name: pin for name, pin in pins.items() if installed(name) != pin}
        # Then Kaggle's torch will do, which fits its driver; and so will its tools
        if not SETTINGS["exact"]:
            wanted = {
                name: pin
                for name, pin in wanted.items()
                if name not in TOOLS and not (name == "torch" and torch_will_do())
            }
    if not wanted:
        return
    listed = place / "requirements.txt"
    listed.write_text("".join(f"{name}=={pin}\n" for name, pin in wanted.items()))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--target",
        str(place / "site"),
        "--requirement",
        str(listed),
    ]
    # torch wants CUDA libraries that the lock does not name; all else is in it
    if SETTINGS["mode"] == "pipeline" and "torch" not in wanted:
        command.append("--no-deps")
    if fetch("wheels", "wheels/*.whl", place) or not SETTINGS["internet"]:
        command += ["--find-links", str(place / "wheels")]
    say(f"installing {len(wanted)} packages")
    if subprocess.run(command, env=environment).returncode:
        way_out = (
            "look at pip's lines above"
            if SETTINGS["internet"]
            else "with the internet off they must be in the data set: --wheels"
        )
        raise OSError(f"the packages could not be installed: {way_out}")


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_will_do() -> bool:
    numbers = [int(number) for number in re.findall(r"\d+", installed("torch") or "0.0")[:2]]
    return [2, 9] <= numbers < [3, 0]  # as in pyproject.toml


def pipeline(place: Path) -> int:
    environment, project = prepare(place)
    torch = "import torch; print(torch.__version__, torch.cuda.device_count())"
    version, gpus = subprocess.run(
        [sys.executable, "-c", torch], env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    say(f"torch {version}, {gpus} GPUs")
    if SETTINGS["gpu"] and gpus == "0":
        raise ValueError(
            f"a GPU was asked for and torch {version} sees none: hours of the quota would pass on a CPU"
        )
    for name in ("dvc.lock", "metrics", "plots"):  # of another run, on another machine
        remove(project / name)
    previous = earlier()
    if previous is not None:
        say(f"going on from {previous}")
        for name in ("kept", "metrics", "plots"):
            copy(previous / name, WORKING / name)
        copy(KEPT / "dvc.lock", project / "dvc.lock")
        for name in ("metrics", "plots"):
            copy(WORKING / name, project / name)
    (KEPT / "state").mkdir(parents=True, exist_ok=True)
    (KEPT / "run.json").write_text(json.dumps({"begun": time.time()}))
    (project / ".state").symlink_to(KEPT / "state")
    (project / ".dvc").mkdir(exist_ok=True)
    config = f"[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = {KEPT / 'cache'}\n    type = reflink,hardlink,symlink,copy\n"
    (project / ".dvc" / "config").write_text(config)
    dvc = [sys.executable, "-m", "dvc"]
    if previous is not None:  # what is damaged is left out here, and made again
        for command in (
            ["checkout", "--quiet", "--allow-missing"],
            ["gc", "--quiet", "--workspace", "--force"],
        ):
            subprocess.run([*dvc, *command], cwd=project, env=environment, check=True)
    targets = (
        ["--downstream", "checkpoints"] if fetch("data", "data/shards/index.json", project) else []
    )
    try:
        with process([*dvc, "repro", *targets], project, environment) as repro:
            try:
                status = repro.wait()
            except Stop as reason:
                say(f"{reason}: waiting for the training to save its state")
                end(repro, signal.SIGINT)
                if repro.returncode:
                    return paused(reason)
                status = 0  # it was just done
    finally:
        copy(project / "dvc.lock", KEPT / "dvc.lock")
        for name in RESULTS:
            copy(project / name, WORKING / name)
    if status:
        raise OSError(f"`dvc repro` ended with status {status}, the lines above say why")
    figures = json.loads((project / "metrics" / "evaluation.json").read_text())["validation"]
    say(
        f"done: perplexity {figures['perplexity']:.2f}, {figures['bits_per_byte']:.3f} bits per byte; the model is in {WORKING / 'models'}"
    )
    return 0


def serve(place: Path) -> int:
    environment, project = prepare(place)
    previous = earlier()
    if not fetch("models", "models/ollama/Modelfile", project):
        if previous is None or not (previous / "models/ollama/Modelfile").is_file():
            raise OSError(
                f"{INPUT} holds no model: run `antimatter kaggle` where there is one, or --after the kernel that made it"
            )
        copy(previous / "models", project / "models")
    archive = next((path for path in INPUT.rglob("ollama-linux-*") if path.is_file()), None)
    options: list[str] = []  # without an Ollama to install, the embedded llama.cpp
    if archive or SETTINGS["internet"]:
        options = [
            "--install",
            *(["--archive", str(archive)] if archive else []),
            *([] if SETTINGS["gpu"] else ["--cpu-only"]),
        ]
    with process(
        [sys.executable, "-m", "antimatter.cli", "serve", "--port", "0", *options],
        project,
        environment,
        subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline().strip()
        found = re.search(r"serving .+ by (.+) at (http://\S+?)/", line)
        if found is None:
            raise OSError(
                f"`antimatter serve` did not start, the lines above say why (status {server.wait(10)})"
            )
        say(line)
        prompts = (project / "prompts" / "coherence.txt").read_text(encoding="utf-8").splitlines()
        with (WORKING / "answers.md").open("w", encoding="utf-8") as answers:
            answers.write(f"# What the model answers\n\nBy {found[1]}.\n")
            good = 0
            for prompt in (line for line in prompts if line and not line.startswith("#")):
                answer, is_answer = ask(found[2], prompt)
                good += is_answer
                answers.write(f"\n**{prompt}** {answer}\n")
                answers.flush()
        if not good:
            raise OSError(f"no prompt was answered: {answer}")
        say(f"{good} answers are in {WORKING / 'answers.md'}")
        interactive = os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"
        if interactive or SETTINGS["minutes"]:
            try:
                server.wait(SETTINGS["minutes"] * 60 or None)
            except (subprocess.TimeoutExpired, Stop):
                return 0
            raise OSError("`antimatter serve` ended before its time, the lines above say why")
    return 0


def ask(address: str, prompt: str) -> tuple[str, bool]:
    """The answer and True, or why there is none, say for a prompt that is longer than a tiny model can read, and False."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "seed": 1}).encode()
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    # Loopback is never behind a proxy
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=900) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"]).strip(), True
    except urllib.error.HTTPError as error:
        return f"({json.load(error)['error']['message']})", False


@contextmanager
def process(
    command: list[str], folder: Path, environment: dict[str, str], stdout: int | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """A command in a process group of its own, of which nothing is left after the block."""
    started = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=stdout, text=True, start_new_session=True
    )
    try:
        yield started
    finally:
        end(started, signal.SIGTERM)


def end(started: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Asks the whole group, as Ctrl-C in a terminal does: DVC itself would pass nothing on to a stage."""
    try:
        os.killpg(started.pid, number)
        started.wait(GRACE)
        os.killpg(started.pid, signal.SIGKILL)
    except ProcessLookupError:  # all have ended
        started.wait()
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


if __name__ == "__main__":
    if status := main():
        sys.exit(status)  # not for 0: within a notebook that would look like an error
