"""dvc.yaml tells the truth about the code, and dvc.lock about dvc.yaml."""

import ast
import hashlib
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_pipeline import dvc, run

from antimatter import params
from antimatter.pipeline import closure

GRAPH: dict[str, dict[str, Any]] = params.load(Path("dvc.yaml"))["stages"]
LOCKED: dict[str, dict[str, Any]] = params.load(Path("dvc.lock"))["stages"]
# Paths on a command line
MOST = 7


def paths(items: list[Any]) -> list[str]:
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def outputs_of(stage: dict[str, Any]) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind, []))]


def resolved(text: str) -> str:
    """With the values of params.yaml that DVC puts into it."""
    values = params.load(Path("params.yaml"))

    def value(match: re.Match[str]) -> str:
        found: Any = values
        for key in match[1].split("."):
            found = found[key]
        return str(found)

    return re.sub(r"\$\{([\w.]+)\}", value, text)


def parameters_of_main(stage: str) -> list[str]:
    """Read from the source: an import of every stage would take seconds."""
    tree = ast.parse(Path(f"stages/{stage}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    (arguments,) = (function.args for function in functions if function.name == "main")
    assert not (arguments.vararg or arguments.kwonlyargs or arguments.kwarg or arguments.defaults)
    return [argument.arg for argument in arguments.posonlyargs + arguments.args]


def parameter(path: str, stage: str) -> str:
    """The name of the parameter that receives a path: its last part, or what the folder is for."""
    folder, _, name = path.partition("/")
    if folder in ("metrics", "plots") and name in (stage, ""):
        return "report" if path == "plots/report" else folder
    if "$" in path:
        return "persona" if "persona" in path else "model"
    return Path(path).stem


def faults(name: str, words: list[str]) -> list[str]:
    """What is wrong with the paths on the command line of a stage."""
    stage = GRAPH[name]
    inputs = [path for path in paths(stage["deps"]) if not path.endswith(".py")]
    # `raw` waits for `checked`, and reads nothing from it
    if name == "raw":
        inputs.remove("data/checked")
    # The persona that the command line names may be based on this one
    if name == "conversations":
        inputs.remove("prompts/persona.yaml")
    outputs = outputs_of(stage)

    def covers(word: str, path: str) -> bool:
        return path == word or path.startswith(f"{word}/")

    def is_output(word: str) -> bool:
        return any(covers(word, path) for path in outputs) and word != "plots"

    found = [
        f"{path} is on no path of the command line"
        for path in [*inputs, *outputs]
        if not any(covers(word, path) for word in words)
    ]
    found += [
        f"{word} is neither input nor output"
        for word in words
        if not any(covers(word, path) for path in [*inputs, *outputs])
    ]
    kinds = [is_output(word) for word in words]
    found += ["an output comes before an input"] * (kinds != sorted(kinds))
    names = [parameter(word, name) for word in words]
    expected = parameters_of_main(name)
    found += [f"main() takes {expected}, not {names}"] * (names != expected)
    found += [f"{len(words)} paths are more than {MOST}"] * (len(words) > MOST)
    return found


@pytest.mark.parametrize("name", GRAPH)
def test_a_stage_depends_on_exactly_the_files_that_it_imports(name: str) -> None:
    code = [path for path in paths(GRAPH[name]["deps"]) if path.endswith(".py")]
    assert sorted(code) == [str(path) for path in closure.files(f"stages.{name}")]


@pytest.mark.parametrize("name", GRAPH)
def test_the_command_line_has_the_inputs_and_then_the_outputs_that_main_takes(name: str) -> None:
    words = shlex.split(GRAPH[name]["cmd"])
    assert words[:3] == ["python", "-m", f"stages.{name}"]
    assert faults(name, words[3:]) == []


@pytest.mark.parametrize("name", GRAPH)
def test_two_paths_that_are_swapped_are_seen(name: str) -> None:
    """All are paths, so neither mypy nor DVC would see it."""
    words = shlex.split(GRAPH[name]["cmd"])[3:]
    for one, other in itertools.combinations(range(len(words)), 2):
        swapped = [*words]
        swapped[one], swapped[other] = words[other], words[one]
        assert faults(name, swapped), f"{words[one]} and {words[other]}"


def test_metrics_fit_in_a_terminal_and_each_name_is_in_one_file() -> None:
    """`dvc exp show` would put the path before a name that is in two files."""
    lines = dvc(Path(), "metrics", "show").splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 100
    columns = list(zip(*(line.split() for line in lines), strict=True))[1:]
    assert len(columns) == 5
    assert all(list(rest).count("-") == len(rest) - 1 for _, *rest in columns)


def test_each_stage_has_a_sentence_that_dvc_shows_in_full() -> None:
    lines = dvc(Path(), "stage", "list").splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown == {name: stage["desc"] for name, stage in GRAPH.items()}


def test_each_artifact_is_what_a_stage_puts_into_the_cache() -> None:
    cached = {out for stage in GRAPH.values() for out in stage.get("outs", [])}
    artifacts = params.load(Path("dvc.yaml"))["artifacts"]
    assert artifacts and {artifact["path"] for artifact in artifacts.values()} <= cached


def test_git_has_no_text_in_the_folder_of_the_user() -> None:
    assert run(Path(), "git", "ls-files", "corpus").stdout == "corpus/.gitignore\n"


@pytest.mark.parametrize("name", GRAPH)
def test_dvc_keeps_a_run_cache_for_the_stage(name: str) -> None:
    """It keeps none beside a plain output without a cache (dvc/stage/__init__.py, Stage.run).

    So what is in Git is a metric or a plot.
    """
    plain = [
        next(iter(item))
        for item in GRAPH[name].get("outs", [])
        if isinstance(item, dict) and not next(iter(item.values())).get("cache", True)
    ]
    assert plain == []


def md5(path: Path) -> str:
    """As in dvc.lock. Of a folder: the digest of the list of its files that Git has."""
    if not path.is_dir():
        return hashlib.md5(path.read_bytes()).hexdigest()
    names = run(Path(), "git", "ls-files", "-z", str(path)).stdout.split("\0")
    members = [
        {"md5": md5(Path(name)), "relpath": Path(name).relative_to(path).as_posix()}
        for name in sorted(filter(None, names))
    ]
    return f"{hashlib.md5(json.dumps(members).encode()).hexdigest()}.dir"


@pytest.mark.parametrize("name", GRAPH)
def test_the_lock_is_of_this_code_and_these_parameters(name: str) -> None:
    """What `dvc status` would say, for the part that is in git; the data need not be here."""
    assert name in LOCKED, f"dvc.lock lacks the stage {name}: run `make repro`"
    stage, locked = GRAPH[name], LOCKED[name]
    outputs = outputs_of(stage)
    inputs = [resolved(path) for path in paths(stage["deps"])]
    assert locked["cmd"] == resolved(stage["cmd"]), "dvc.lock is older: run `make repro`"
    assert sorted(entry["path"] for entry in locked["deps"]) == sorted(inputs)
    assert sorted(entry["path"] for entry in locked["outs"]) == sorted(outputs)
    parameters = locked.get("params", {}).get("params.yaml", {})
    assert parameters.keys() == set(stage.get("params", []))
    for entry in [*locked["deps"], *locked["outs"]]:
        if entry["path"].startswith(("data/", "models/")):  # not in Git
            continue
        path = Path(entry["path"])
        assert md5(path) == entry["md5"], (
            f"{path} changed since dvc.lock was made: run `make repro`"
        )
    now = params.load(Path("params.yaml"))
    for section, values in parameters.items():
        assert now[section] == values, (
            f"`{section}` changed since dvc.lock was made: run `make repro`"
        )


def test_an_edit_of_a_deep_import_is_seen(tmp_path: Path) -> None:
    for name, text in {
        "stages/a.py": "from antimatter import b\n",
        "antimatter/__init__.py": "",
        "antimatter/b.py": "def late():\n    from antimatter.c import d\n",
        "antimatter/c/__init__.py": "",
        "antimatter/c/d.py": "",
        "antimatter/c/unused.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [str(path) for path in closure.files("stages.a", tmp_path)] == [
        "antimatter/b.py",
        "antimatter/c/d.py",
        "stages/a.py",
    ]
    before = closure.digests("stages.a", tmp_path)
    (tmp_path / "antimatter/c/unused.py").write_text("x = 1\n")
    assert closure.digests("stages.a", tmp_path) == before
    (tmp_path / "antimatter/c/d.py").write_text("x = 1\n")
    assert closure.digests("stages.a", tmp_path) != before


# ---- identity: what counts as code that decides a result


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of all code."""
    for folder in ("antimatter", "stages"):
        shutil.copytree(folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


def identities(root: Path) -> dict[str, dict[str, str]]:
    return {name: closure.digests(f"stages.{name}", root) for name in GRAPH}


def test_observers_are_few_and_no_stage_depends_on_them(code: Path) -> None:
    """A file that computes anything must never be added to this list."""
    assert sorted(closure.OBSERVERS) == [
        "antimatter/__init__.py",
        "antimatter/errors.py",
        "antimatter/launch/attempts.py",
        "antimatter/launch/cluster.py",
        "antimatter/launch/config.py",
        "antimatter/launch/inside.py",
        "antimatter/launch/launch.py",
        "antimatter/launch/ray.py",
        "antimatter/launch/slurm.py",
        "antimatter/pipeline/check.py",
        "antimatter/pipeline/recorded.py",
        "antimatter/pipeline/resume.py",
        "antimatter/pipeline/stage.py",
        "antimatter/progress.py",
        "antimatter/text.py",
        "antimatter/threads.py",
        "antimatter/training/console.py",
    ]
    assert not closure.OBSERVERS & {dep for stage in GRAPH.values() for dep in paths(stage["deps"])}
    before = identities(code)
    for name in closure.OBSERVERS:
        with (code / name).open("a") as file:
            file.write("SPEED = 1\n")
    assert identities(code) == before


@pytest.mark.parametrize("name", ["training/optimizer", "training/trainer", "model/gpt", "params"])
def test_an_edit_of_code_that_decides_bytes_is_another_identity(code: Path, name: str) -> None:
    before = closure.digests("stages.checkpoints", code)
    with (code / f"antimatter/{name}.py").open("a") as file:
        file.write("SPEED = 1\n")
    now = closure.digests("stages.checkpoints", code)
    assert [path for path in now if now[path] != before[path]] == [f"antimatter/{name}.py"]


BEFORE = """import math
text = "a b"
poem = '''1

2'''


def root(x: float) -> float:
    if x < 0:
        raise UserError(f"{x} is negative")
    return math.sqrt(x)  # of a square
"""
EDITS = {
    "a docstring": ("-> float:\n", '-> float:\n    """The root of ä, \N{BOY} and x."""\n'),
    "a comment": ("# of a square", "# the side of a square"),
    "a message": ('f"{x} is negative"', 'f"the root of {x} is not real: use a positive number"'),
    "a printed line": ("    return", '    print("root of", x)\n    return'),
    "a logged line": (
        "    return",
        '    logger.log(f"root of {x}, {len(str(x))} digits")\n    return',
    ),
    "an empty line": ("    return", "\n    return"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_changes_no_result_is_the_same_identity(tmp_path: Path, edit: str) -> None:
    (tmp_path / "stages").mkdir()
    module = tmp_path / "stages/a.py"
    module.write_text(BEFORE)
    before = closure.digests("stages.a", tmp_path)
    module.write_text(BEFORE.replace(*EDITS[edit]))
    assert module.read_text() != BEFORE
    assert closure.digests("stages.a", tmp_path) == before


@pytest.mark.parametrize(
    "edit",
    [
        ("x < 0", "x <= 0"),
        ("math.sqrt(x)", "math.sqrt(x + 1)"),
        ("    return", "        return"),
        ("    return", "    print(values.pop())\n    return"),
        ("raise UserError", "raise KeyError"),
        ('text = "a b"', 'text = "ab"'),
        ("1\n\n2", "1\n2"),
    ],
)
def test_an_edit_that_may_change_a_result_is_another_identity(
    tmp_path: Path, edit: tuple[str, str]
) -> None:
    (tmp_path / "stages").mkdir()
    module = tmp_path / "stages/a.py"
    module.write_text(BEFORE)
    before = closure.digests("stages.a", tmp_path)
    module.write_text(BEFORE.replace(*edit))
    assert closure.digests("stages.a", tmp_path) != before
