"""dvc.yaml tells the truth about the code, and dvc.lock about dvc.yaml."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from antimatter import closure, params

GRAPH: dict[str, dict[str, Any]] = params.load(Path("dvc.yaml"))["stages"]
LOCKED: dict[str, dict[str, Any]] = params.load(Path("dvc.lock"))["stages"]


def paths(items: list[Any]) -> list[str]:
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


@pytest.mark.parametrize("name", GRAPH)
def test_a_stage_depends_on_exactly_the_files_that_it_imports(name: str) -> None:
    code = [path for path in paths(GRAPH[name]["deps"]) if path.endswith(".py")]
    assert sorted(code) == [str(path) for path in closure.files(f"stages.{name}")]


@pytest.mark.parametrize("name", GRAPH)
def test_the_command_line_is_the_stages_inputs_and_outputs(name: str) -> None:
    stage = GRAPH[name]
    inputs = [path for path in paths(stage["deps"]) if not path.endswith(".py")]
    outputs = [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind, []))]
    words = shlex.split(stage["cmd"])
    of_this_run = {"metrics/throughput.json", "plots/throughput.csv", "metrics/gguf_throughput.json"}  # outputs would change dvc.lock
    assert words[:3] == ["python", "-m", f"stages.{name}"]
    assert sorted(set(words[3:]) - of_this_run) == sorted(inputs + outputs)


@pytest.mark.parametrize("name", GRAPH)
def test_dvc_keeps_a_run_cache_for_the_stage(name: str) -> None:
    """It does not beside a plain output without a cache (dvc/stage/__init__.py, Stage.run): what is in Git is a metric or a plot."""
    plain = [next(iter(item)) for item in GRAPH[name].get("outs", []) if isinstance(item, dict) and not next(iter(item.values())).get("cache", True)]
    assert plain == (["metrics/samples.md"] if name == "evaluation" else [])  # DVC takes no Markdown for a plot; evaluation takes seconds


@pytest.mark.parametrize("name", GRAPH)
def test_the_lock_is_of_this_code_and_these_parameters(name: str) -> None:
    """What `dvc status` would say, for the part that is in git; the data need not be here."""
    import hashlib

    stage, locked = GRAPH[name], LOCKED[name]
    assert locked["cmd"] == stage["cmd"]
    for entry in [*locked["deps"], *locked.get("outs", [])]:
        path = Path(entry["path"])
        tracked_by_git = path.suffix in (".py", ".txt", ".csv", ".json", ".md", ".png")
        if tracked_by_git:
            assert hashlib.md5(path.read_bytes()).hexdigest() == entry["md5"], f"{path} changed since dvc.lock was made: run `make repro`"
    now = params.load(Path("params.yaml"))
    for section, values in locked["params"]["params.yaml"].items():
        assert now[section] == values, f"`{section}` changed since dvc.lock was made: run `make repro`"


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
    assert [str(path) for path in closure.files("stages.a", tmp_path)] == ["antimatter/b.py", "antimatter/c/d.py", "stages/a.py"]
    before = closure.digests("stages.a", tmp_path)
    (tmp_path / "antimatter/c/unused.py").write_text("x = 1\n")
    assert closure.digests("stages.a", tmp_path) == before
    (tmp_path / "antimatter/c/d.py").write_text("x = 1\n")
    assert closure.digests("stages.a", tmp_path) != before
