"""dvc.yaml tells the truth about the code, and dvc.lock about dvc.yaml."""

import ast
import hashlib
import shlex
from pathlib import Path
from typing import Any

import pytest

from antimatter import params
from antimatter.pipeline import closure

GRAPH: dict[str, dict[str, Any]] = params.load(Path("dvc.yaml"))["stages"]
LOCKED: dict[str, dict[str, Any]] = params.load(Path("dvc.lock"))["stages"]
# The parameters of each stage's main(), in order, and the path that dvc.yaml passes for each.
# All are paths, so neither mypy nor DVC would see two of them swapped.
ARGUMENTS = {
    "checked": {"checked": "data/checked"},
    "raw": {"raw": "data/raw", "metrics": "metrics/raw.json", "by_source": "plots/sources.csv"},
    "cleaned": {
        "raw": "data/raw",
        "cleaned": "data/cleaned",
        "metrics": "metrics/cleaned.json",
        "drops": "plots/drops.csv",
        "lengths": "plots/lengths.csv",
    },
    "tokenizer": {
        "cleaned": "data/cleaned",
        "tokenizer": "data/tokenizer",
        "metrics": "metrics/tokenizer.json",
    },
    "shards": {
        "cleaned": "data/cleaned",
        "tokenizer": "data/tokenizer",
        "drops": "plots/drops.csv",
        "lengths": "plots/lengths.csv",
        "shards": "data/shards",
        "metrics": "metrics/shards.json",
        "frequencies": "plots/frequencies.csv",
        "picture": "plots/data.png",
    },
    "checkpoints": {
        "tokens": "data/shards",
        "checkpoints": "models/checkpoints",
        "metrics": "metrics/checkpoints.json",
        "made": "metrics/provenance.json",
        "training": "plots/training.csv",
        "validation": "plots/validation.csv",
        "backtracks": "plots/backtracks.csv",
        "live": "metrics/throughput.json",
        "throughput": "plots/throughput.csv",
    },
    "conversations": {
        "cleaned": "data/cleaned",
        "tokenizer": "data/tokenizer",
        "who_it_is": "prompts/persona.yaml",
        "conversations": "data/conversations",
        "metrics": "metrics/conversations.json",
        "by_source": "plots/conversations.csv",
    },
    "tuned": {
        "conversations": "data/conversations",
        "checkpoints": "models/checkpoints",
        "tuned": "models/tuned",
        "metrics": "metrics/tuned.json",
        "made": "metrics/tuned_provenance.json",
        "training": "plots/tuned_training.csv",
        "validation": "plots/tuned_validation.csv",
        "backtracks": "plots/tuned_backtracks.csv",
        "live": "metrics/tuned_throughput.json",
        "throughput": "plots/tuned_throughput.csv",
    },
    "answers": {
        "conversations": "data/conversations",
        "tokenizer": "data/tokenizer",
        "checkpoints": "models/checkpoints",
        "tuned": "models/tuned",
        "prompts": "prompts/conversation.txt",
        "metrics": "metrics/answers.json",
        "details": "metrics/answers_details.json",
        "page": "metrics/answers.md",
        "chart": "plots/answers.csv",
        "picture": "plots/answers.png",
    },
    "evaluation": {
        "tokens": "data/shards",
        "tokenizer": "data/tokenizer",
        "checkpoints": "models/checkpoints",
        "prompts": "prompts/coherence.txt",
        "sentences": "prompts/cloze.txt",
        "training": "plots/training.csv",
        "validation": "plots/validation.csv",
        "backtracks": "plots/backtracks.csv",
        "metrics": "metrics/evaluation.json",
        "depth": "metrics/perplexity.json",
        "by_frequency": "metrics/frequencies.json",
        "scores": "metrics/cloze.json",
        "figures": "metrics/coherence.json",
        "page": "metrics/samples.md",
        "bins": "plots/bins.csv",
        "positions": "plots/positions.csv",
        "sources": "plots/source_losses.csv",
        "losses": "plots/loss.png",
        "steps": "plots/training.png",
    },
    "gguf": {
        "checkpoints": "models/checkpoints",
        "tuned": "models/tuned",
        "tokenizer": "data/tokenizer",
        "shards": "data/shards",
        "conversations": "data/conversations",
        "output": "models/gguf",
        "metrics": "metrics/gguf.json",
        "sizes": "plots/gguf.csv",
        "picture": "plots/gguf.png",
        "throughput": "metrics/gguf_throughput.json",
    },
    "ollama": {"gguf": "models/gguf", "output": "models/ollama"},
}
# Written by the command, but no output of the stage: they differ from run to run, and so would
# dvc.lock.
OF_THIS_RUN = {
    "metrics/throughput.json",
    "plots/throughput.csv",
    "metrics/tuned_throughput.json",
    "plots/tuned_throughput.csv",
    "metrics/gguf_throughput.json",
}
# Markdown, which DVC takes for no plot; the two stages take a minute
PAGES = {"evaluation": ["metrics/samples.md"], "answers": ["metrics/answers.md"]}


def paths(items: list[Any]) -> list[str]:
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def parameters_of_main(stage: str) -> list[str]:
    """Read from the source: an import of every stage would take seconds."""
    tree = ast.parse(Path(f"stages/{stage}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    (arguments,) = (function.args for function in functions if function.name == "main")
    assert not (arguments.vararg or arguments.kwonlyargs or arguments.kwarg or arguments.defaults)
    return [argument.arg for argument in arguments.posonlyargs + arguments.args]


@pytest.mark.parametrize("name", GRAPH)
def test_a_stage_depends_on_exactly_the_files_that_it_imports(name: str) -> None:
    code = [path for path in paths(GRAPH[name]["deps"]) if path.endswith(".py")]
    assert sorted(code) == [str(path) for path in closure.files(f"stages.{name}")]


@pytest.mark.parametrize("name", GRAPH)
def test_the_command_line_is_the_stages_inputs_and_outputs(name: str) -> None:
    stage = GRAPH[name]
    inputs = [path for path in paths(stage["deps"]) if not path.endswith(".py")]
    if name == "raw":  # waits for it, and reads nothing from it
        inputs.remove("data/checked")
    outputs = [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind, []))]
    words = shlex.split(stage["cmd"])
    assert words[:3] == ["python", "-m", f"stages.{name}"]
    assert sorted(path for path in words[3:] if path not in OF_THIS_RUN) == sorted(inputs + outputs)


@pytest.mark.parametrize("name", GRAPH)
def test_every_path_of_the_command_line_reaches_the_parameter_that_is_meant(name: str) -> None:
    assert name in ARGUMENTS, f"add the arguments of stages.{name} to ARGUMENTS"
    assert shlex.split(GRAPH[name]["cmd"])[3:] == list(ARGUMENTS[name].values())
    assert parameters_of_main(name) == list(ARGUMENTS[name])


@pytest.mark.parametrize("name", GRAPH)
def test_dvc_keeps_a_run_cache_for_the_stage(name: str) -> None:
    """It does not beside a plain output without a cache (dvc/stage/__init__.py, Stage.run): what is in Git is a metric or a plot."""
    plain = [
        next(iter(item))
        for item in GRAPH[name].get("outs", [])
        if isinstance(item, dict) and not next(iter(item.values())).get("cache", True)
    ]
    assert plain == PAGES.get(name, [])


@pytest.mark.parametrize("name", GRAPH)
def test_the_lock_is_of_this_code_and_these_parameters(name: str) -> None:
    """What `dvc status` would say, for the part that is in git; the data need not be here."""
    stage, locked = GRAPH[name], LOCKED[name]
    outputs = [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind, []))]
    assert locked["cmd"] == stage["cmd"]
    assert sorted(entry["path"] for entry in locked["deps"]) == sorted(paths(stage["deps"]))
    assert sorted(entry["path"] for entry in locked["outs"]) == sorted(outputs)
    assert locked["params"]["params.yaml"].keys() == set(stage["params"])
    for entry in [*locked["deps"], *locked["outs"]]:
        if entry["path"].startswith(("data/", "models/")):  # not in Git
            continue
        path = Path(entry["path"])
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        assert md5 == entry["md5"], f"{path} changed since dvc.lock was made: run `make repro`"
    now = params.load(Path("params.yaml"))
    for section, values in locked["params"]["params.yaml"].items():
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
