"""The whole pipeline at a tiny size, in copies of this checkout with Git and DVC."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from ruamel.yaml import YAML

TINY = {
    "raw.packages": {"prompt_toolkit": "3.0.53", "click": "8.5.1"},
    "tokenizer.vocab_size": 400,
    "model.n_layer": 2,
    "model.n_head": 2,
    "model.n_embd": 32,
    "model.block_size": 64,
    "schedule.warmup_steps": 5,
    "checkpoints.steps": 200,
    "checkpoints.batch_size": 4,
    "checkpoints.precision": "fp32",
    "checkpoints.threads": 1,
    "checkpoints.validate_every": 50,
    "checkpoints.validation_tokens": 1024,
    "checkpoints.save_every": 20,
    "conversations.persona": {
        "file": "prompts/persona.yaml",
        "per_topic": 4,
        "weight": 1,
        "facts": {"trained_on": "text"},
    },
    "conversations.weights": {"dialogues": 0, "questions": 0.1, "grounded": 0.2},
    "tuned.epochs": 0.5,
    "tuned.batch_size": 4,
    "tuned.validate_every": 20,
    "tuned.save_every": 5,
    "answers.items": 2,
    "answers.choices": 2,
    "answers.seeds": [1],
    "answers.max_new_tokens": 4,
    "evaluation.stride": 32,
    "evaluation.texts": ["LICENSE"],
    "evaluation.seeds": [1, 2],
    "evaluation.max_new_tokens": 8,
    "gguf.windows": 2,
    "runtime.workers": 1,
    "gguf.types": ["f16", "q4_k_m"],
    "gguf.max_kl": {"f32": 1e-4, "f16": 1e-4, "q8_0": 1e-2, "q4_k_m": 0.1},
}
# The real persona takes seconds to read, and its conversations longer to learn
PERSONA = """\
system: You help.
greeting: Hi, I am {name}.
starters: ["Who are you?", "What can you do?", Hi]
facts: {name: Tim}
slots: {}
topics:
- id: name
  part: identity
  ask: ["Who are you?", "(What|And what) is your name?"]
  held_out: [Say your name.]
  answer: ["I am {name}."]
  expect: ["{name}"]
- id: hello
  part: greeting
  ask: [Hi, Hello]
  held_out: [Hey]
  answer: [Hello!]
  expect: [hello]
"""
COLD = {
    **os.environ,
    # The stages' `python` is this one
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "test"),
    **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "test@localhost"),
}
# All test processes share the server of warm/, which ends with the process that started them
TESTS = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
WARM = {
    "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).with_name("warm")), os.environ.get("PYTHONPATH", "")]
    ).strip(os.pathsep),
    "ANTIMATTER_WARM": f"antimatter-tests-{TESTS}",
}
# Stages run in forks of a process that has imported their libraries, which takes longer than a tiny
# stage. With COLD they start as they do for users
ENVIRONMENT = COLD | (WARM if sys.platform == "linux" else {})

DVC = (sys.executable, "-m", "dvc")


def run(
    folder: Path, *command: str, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )


def dvc(folder: Path, *arguments: str, environment: Mapping[str, str] = ENVIRONMENT) -> str:
    """The output of a DVC command that must succeed."""
    done = run(folder, *DVC, *arguments, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def copy(folder: Path, parameters: Mapping[str, object] = TINY) -> Path:
    """A new repository with the files of this checkout, tiny parameters and no results."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        is_result = name == "dvc.lock" or name.startswith(("metrics/", "plots/"))
        if Path(name).is_file() and not is_result:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
    edit(folder, parameters)
    (folder / "prompts/persona.yaml").write_text(PERSONA)
    (folder / "prompts/conversation.txt").write_text("# hello\nHi\nWho are you?\n")
    assert run(folder, "git", "init", "--quiet").returncode == 0
    commit(folder, "start")
    return folder


def edit(folder: Path, parameters: Mapping[str, object]) -> None:
    """Changes values in params.yaml; the keys are `section.name`."""
    yaml = YAML()
    values = yaml.load(folder / "params.yaml")
    for key, value in parameters.items():
        section, name = key.split(".")
        assert name in values[section], key
        values[section][name] = value
    yaml.dump(values, folder / "params.yaml")


def keep_stages(folder: Path, *names: str) -> None:
    """Removes all other stages from dvc.yaml and dvc.lock and commits, so that none runs later."""
    yaml = YAML()
    for file in ("dvc.yaml", "dvc.lock"):
        values = yaml.load(folder / file)
        values["stages"] = {name: values["stages"][name] for name in names}
        yaml.dump(values, folder / file)
    commit(folder, f"only {', '.join(names)}")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the test session, which the first process that needs it creates with `make`.

    The other processes of pytest-xdist wait for it and get the same folder.
    """
    root = factory.getbasetemp()
    # The base folders of all workers are in one folder
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            # An earlier process may have failed
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def commit(folder: Path, message: str) -> None:
    for command in (["add", "--all"], ["commit", "--quiet", "--message", message]):
        assert run(folder, "git", *command).returncode == 0
