"""Standard library only, nothing of ours: this file runs alone on Kaggle.

`antimatter kaggle` copies it into the kernel folder as run.py, with its settings filled in. It
writes only to /kaggle/working, and to /kaggle/temp if there is one. The project comes from the
attached data set. /kaggle/working/kept has all that a later run needs to resume: DVC's cache and
lock, and the state of unfinished stages. Attach the output of this run to the next one.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {}

ROOT = Path(os.environ.get("ANTIMATTER_KAGGLE_ROOT", "/kaggle"))
INPUT, WORKING = ROOT / "input", ROOT / "working"
KEPT = WORKING / "kept"
GRACE = 900  # seconds that a training may take to save its state
RESULTS = ("metrics", "plots", "models/gguf", "models/ollama")
SERVING = ("aiohttp", "numpy", "pyarrow", "PyYAML", "xllamacpp")  # what `antimatter serve` imports
TOOLS = ("mypy", "pytest", "ray", "ruff", "types-PyYAML")  # no stage imports them
CONFIG = """\
[core]
    no_scm = true
    analytics = false
[cache]
    dir = {cache}
    type = reflink,hardlink,symlink,copy
"""


class Stop(Exception):
    """The time is up, or Kaggle ends the session. Not a failure: finished work is kept."""


def main() -> int:
    # A child of a shell's `&` would ignore it, and so would the training
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, SETTINGS["hours"] * 3600)
    log(f"{SETTINGS['mode']} of commit {SETTINGS['commit']}")
    try:
        with scratch() as folder:
            return serve(folder) if SETTINGS["mode"] == "serve" else pipeline(folder)
    except Stop as reason:
        return paused(reason)
    except (OSError, ValueError, tarfile.TarError, subprocess.SubprocessError) as error:
        log(f"error: {' '.join(str(error).split())}; finished work is in {WORKING}")
        return 1


def stop(number: int, _frame: object) -> None:
    for each in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second one must not interrupt the cleanup
    if number == signal.SIGTERM:
        raise Stop("the session was ended")
    raise Stop(f"{SETTINGS['hours']:g} hours are up")


def paused(reason: Stop) -> int:
    """Status 0, because Kaggle passes on only the output of a version that succeeded."""
    log(f"paused: {reason}")
    if SETTINGS["mode"] == "pipeline":
        log("To resume, attach this output to the next run: `antimatter kaggle ... --after`")
    return 0


def log(text: str) -> None:
    print(text, flush=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the checkout, installed packages and temporary files. It is not part of the
    output: it is outside of /kaggle/working, or deleted at the end.
    """
    folder = ROOT / "temp" / "antimatter"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = WORKING / "scratch"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("project", "site", "home", "tmp", "bin"):
        (folder / name).mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch(name: str, marker: str, target: Path) -> bool:
    """Copies the content of NAME.tar in the data set into `target`. Kaggle may have unpacked the
    archive, so it is also found by the file `marker` in it.
    """
    for archive in INPUT.rglob(f"{name}.tar"):
        if archive.is_file():
            with tarfile.open(archive) as tar:
                # Python before 3.11.4 has no filters; it ignores the attribute
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(target)
            return True
    for path in INPUT.rglob(marker):
        root = path.parents[len(Path(marker).parts) - 1]
        # With one of these it is the output of a run
        if not (root / "kept").is_dir() and "scratch" not in root.parts:
            copy(root, target)
            return True
    return False


def copy(source: Path, target: Path) -> None:
    """Copies a folder or a file without its modes: attached files are read-only, and DVC does not
    verify a cache file that is.
    """
    for path in [source] if source.is_file() else source.rglob("*"):
        if path.is_file():
            destination = target / path.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, destination)


def previous_output() -> Path | None:
    """The attached output of a pipeline; of several, the one that began last."""
    outputs = [path.parents[1] for path in INPUT.rglob("kept/run.json")]
    newest = max(outputs, key=began_at, default=None)
    if len(outputs) > 1:
        names = ", ".join(map(str, outputs))
        log(f"{len(outputs)} outputs are attached ({names}), the newest is used: {newest}")
    return newest


def began_at(output: Path) -> float:
    try:
        return float(json.loads((output / "kept" / "run.json").read_text())["begun"])
    except (ValueError, KeyError, TypeError):
        log(f"warning: {output}/kept/run.json is damaged: every other output counts as newer")
        return 0.0


def prepare(folder: Path) -> tuple[dict[str, str], Path]:
    """Unpacks the project and installs what it needs. Returns the environment, and the project."""
    project = folder / "project"
    if not fetch("source", "stages/checkpoints.py", project):
        raise OSError(
            f"{INPUT} has no source.tar: attach the data set {SETTINGS['data_set']}, once Kaggle "
            "says that it is ready"
        )
    # The `python` of dvc.yaml
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    homes = (
        *("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
        *("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"),
    )
    environment = {
        **os.environ,
        **dict.fromkeys(homes, str(folder / "home")),
        "TMPDIR": str(folder / "tmp"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "site"),
        "PYTHONUNBUFFERED": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "MPLBACKEND": "agg",  # Kaggle sets that of notebooks
    }
    if not SETTINGS["internet"]:
        environment |= {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    install(folder, project, environment)
    return environment, project


def install(folder: Path, project: Path, environment: dict[str, str]) -> None:
    """Installs into a folder that precedes Kaggle's own packages on the path: with --target,
    because the image cannot create virtual environments.
    """
    pins = dict(line.split("==") for line in (project / "requirements.lock").read_text().split())
    missing = missing_packages(pins)
    if not missing:
        return
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name}=={version}\n" for name, version in missing.items()))
    command = [sys.executable, "-m", "pip", "install", "--quiet"]
    command += ["--target", str(folder / "site"), "--requirement", str(requirements)]
    # torch needs CUDA libraries that the lock does not name; everything else is in it
    if SETTINGS["mode"] == "pipeline" and "torch" not in missing:
        command.append("--no-deps")
    if fetch("wheels", "wheels/*.whl", folder) or not SETTINGS["internet"]:
        command += ["--find-links", str(folder / "wheels")]
    log(f"installing {len(missing)} packages")
    if subprocess.run(command, env=environment).returncode:
        fix = "see pip's lines above"
        if not SETTINGS["internet"]:
            fix = "without internet they must be in the data set: --wheels"
        raise OSError(f"the packages could not be installed: {fix}")


def missing_packages(pins: Mapping[str, str]) -> dict[str, str]:
    """The pinned versions of the packages to install."""
    if SETTINGS["mode"] == "serve":
        return {name: pins[name] for name in SERVING if name in pins and installed(name) is None}
    missing = {name: pin for name, pin in pins.items() if installed(name) != pin}
    if not SETTINGS["exact"]:
        # Kaggle's torch fits its driver, and its tools will do
        if is_torch_supported():
            missing.pop("torch", None)
        for name in TOOLS:
            missing.pop(name, None)
    return missing


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def is_torch_supported() -> bool:
    numbers = [int(number) for number in re.findall(r"\d+", installed("torch") or "0.0")[:2]]
    return [2, 9] <= numbers < [3, 0]  # as in pyproject.toml


def pipeline(folder: Path) -> int:
    environment, project = prepare(folder)
    check_torch(environment)
    # Those in the repository are of another machine
    (project / "dvc.lock").unlink(missing_ok=True)
    for name in ("metrics", "plots"):
        shutil.rmtree(project / name, ignore_errors=True)
    previous = previous_output()
    if previous is not None:
        log(f"resuming from {previous}")
        for name in ("kept", "metrics", "plots"):
            copy(previous / name, WORKING / name)
        copy(KEPT / "dvc.lock", project / "dvc.lock")
        for name in ("metrics", "plots"):
            copy(WORKING / name, project / name)
    (KEPT / "state").mkdir(parents=True, exist_ok=True)
    (KEPT / "run.json").write_text(json.dumps({"begun": time.time()}))
    (project / ".state").symlink_to(KEPT / "state")
    (project / ".dvc").mkdir(exist_ok=True)
    (project / ".dvc" / "config").write_text(CONFIG.format(cache=KEPT / "cache"))
    dvc = [sys.executable, "-m", "dvc"]
    if previous is not None:
        # Damaged files are not checked out, and their stages run again
        for words in ("checkout --quiet --allow-missing", "gc --quiet --workspace --force"):
            subprocess.run([*dvc, *words.split()], cwd=project, env=environment, check=True)
    has_data = fetch("data", "data/shards/index.json", project)
    targets = ["--downstream", "checkpoints"] if has_data else []
    try:
        with process_group([*dvc, "repro", *targets], project, environment) as repro:
            try:
                status = repro.wait()
            except Stop as reason:
                log(f"{reason}: waiting for the training to save its state")
                end(repro, signal.SIGINT)
                if repro.returncode:
                    return paused(reason)
                status = 0  # it had just finished
    finally:
        copy(project / "dvc.lock", KEPT / "dvc.lock")
        for name in RESULTS:
            copy(project / name, WORKING / name)
    if status:
        raise OSError(f"`dvc repro` ended with status {status}: see the lines above")
    summary = json.loads((project / "metrics/evaluation/summary.json").read_text())
    figures = "perplexity {perplexity:.2f}, {bits_per_byte:.3f} bits per byte".format_map(summary)
    log(f"done: {figures}; the model is in {WORKING / 'models'}")
    return 0


def check_torch(environment: dict[str, str]) -> None:
    """Raises ValueError if a GPU is missing, instead of spending the quota on a CPU."""
    code = "import torch; print(torch.__version__, torch.cuda.device_count())"
    version, gpus = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    log(f"torch {version}, {gpus} GPUs")
    if SETTINGS["gpu"] and gpus == "0":
        raise ValueError(f"torch {version} detects no GPU, but --accelerator t4 needs one")


def serve(folder: Path) -> int:
    environment, project = prepare(folder)
    previous = previous_output()
    if not fetch("models", "models/ollama/Modelfile", project):
        if previous is None or not (previous / "models/ollama/Modelfile").is_file():
            raise OSError(
                f"{INPUT} has no model: run `antimatter kaggle` where there is one, or --after the "
                "kernel that made it"
            )
        copy(previous / "models", project / "models")
    command = [sys.executable, "-m", "antimatter.cli", "serve", "--port", "0"]
    archive = next((path for path in INPUT.rglob("ollama-linux-*") if path.is_file()), None)
    if archive or SETTINGS["internet"]:
        command += ["--install", *([] if SETTINGS["gpu"] else ["--cpu-only"])]
    if archive:
        command += ["--archive", str(archive)]
    with process_group(command, project, environment, subprocess.PIPE) as server:
        assert server.stdout is not None
        line = server.stdout.readline().strip()
        match = re.search(r"serving .+ by (.+) at (http://\S+?)/", line)
        if match is None:
            status = server.wait(10)
            raise OSError(f"`antimatter serve` ended with status {status}: see the lines above")
        log(line)
        answer_prompts(project / "prompts" / "coherence.txt", backend=match[1], address=match[2])
        is_interactive = os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"
        if is_interactive or SETTINGS["minutes"]:
            try:
                server.wait(SETTINGS["minutes"] * 60 or None)
            except (subprocess.TimeoutExpired, Stop):
                return 0
            raise OSError("`antimatter serve` ended too early: see the lines above")
    return 0


def answer_prompts(path: Path, backend: str, address: str) -> None:
    """Writes the model's answers to answers.md, each when it is complete."""
    lines = path.read_text(encoding="utf-8").splitlines()
    answers, n_answered, text = WORKING / "answers.md", 0, ""
    with answers.open("w", encoding="utf-8") as file:
        file.write(f"# What the model answers\n\nBy {backend}.\n")
        for prompt in (line for line in lines if line and not line.startswith("#")):
            text, is_answer = ask(address, prompt)
            n_answered += is_answer
            file.write(f"\n**{prompt}** {text}\n")
            file.flush()
    if not n_answered:
        raise OSError(f"no prompt was answered: {text}")
    log(f"{n_answered} answers are in {answers}")


def ask(address: str, prompt: str) -> tuple[str, bool]:
    """The answer and True; or the server's error and False, for example if the prompt is longer
    than the context of a tiny model.
    """
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "seed": 1}).encode()
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    # Loopback is never behind a proxy
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=900) as response:
            return str(json.load(response)["choices"][0]["message"]["content"]).strip(), True
    except urllib.error.HTTPError as error:
        return f"({json.load(error)['error']['message']})", False


# Processes: a copy of antimatter/processes.py, which a test compares with it


@contextmanager
def process_group(
    command: list[str], folder: Path, environment: Mapping[str, str], stdout: int | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Runs a command in its own process group, of which no process outlives the block."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=stdout, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        end(process, signal.SIGTERM)


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Sends a signal to the whole group, as Ctrl-C in a terminal does, because DVC does not forward
    signals to its stages. Kills what has not ended after GRACE seconds.
    """
    try:
        os.killpg(process.pid, number)
        process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all have ended
        process.wait()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    if status := main():
        sys.exit(status)  # not for 0: within a notebook that would look like an error
