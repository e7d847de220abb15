"""All values are checked before the first stage does anything."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_pipeline import DVC, ENVIRONMENT, dvc, run

from antimatter import params
from antimatter.errors import UserError
from antimatter.model import devices
from antimatter.pipeline import check, closure

GRAPH = params.load(Path("dvc.yaml"))["stages"]
DEFAULT = params.load(Path("params.yaml"))


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a params.yaml with other values, given as section__key=value, and returns its path."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    def write(**values: Any) -> Path:
        changed = params.load(Path("params.yaml"))
        for key, value in values.items():
            section, _, name = key.partition("__")
            if name:
                changed[section][name] = value
            else:
                changed[section] = value
        # JSON is YAML 1.2
        (tmp_path / "params.yaml").write_text(json.dumps(changed))
        return tmp_path / "params.yaml"

    return write


def test_the_default_and_every_preset_are_valid() -> None:
    presets = sorted(Path("presets").glob("*.yaml"))
    assert len(presets) > 1
    for path in (Path("params.yaml"), *presets):
        # The preset for one's own text lacks only that
        expected = ["raw.files: corpus matches no file"] if path.stem == "own" else []
        found = check.problems(path)
        assert len(found) == len(expected), found
        assert all(map(str.startswith, found, expected)), found


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"evaluation__stride": "abc"}, "evaluation.stride must be a whole number, got 'abc'"),
        ({"ollama__top_k": 1.5}, "ollama.top_k must be a whole number, got 1.5"),
        ({"gguf__relu_scale": 3}, "gguf.relu_scale must be a power of two"),
        ({"runtime__micro_bacth": 8}, "runtime.micro_bacth (did you mean `micro_batch`?) is not"),
        ({"runtime__micro_batch": 0}, "runtime.micro_batch must be at least 1, got 0"),
        ({"evalution": {}}, "evalution is not a section"),
        # Valid by themselves, but not together or not here
        ({"schedule__warmup_steps": 8000}, "warmup_steps must be below checkpoints.steps"),
        ({"runtime__micro_batch": 3}, "runtime.micro_batch must divide the 4 sequences"),
        # Known before the pretraining, which may take days
        ({"tuned__batch_size": 34}, "must divide the 34 sequences of tuned.batch_size"),
        ({"tokenizer__vocab_size": 70000}, "tokenizer.vocab_size must be at most 65,536"),
        (
            {"ollama__type": "q4_k_m", "gguf__types": ["f16"]},
            "ollama.type must be one of gguf.types (f16), got 'q4_k_m'",
        ),
        ({"raw__packages": {"click": "1.0.0"}}, "raw.packages: click must be 1.0.0"),
        ({"evaluation__texts": ["mine/a.txt"]}, "evaluation.texts: mine/a.txt matches no file in "),
        ({"raw__source": "files"}, "raw.files: corpus matches no file in "),
        (
            {"cleaned__decontamination": {"texts": ["no.txt"], "text_column": "text", "ngram": 13}},
            "decontamination.texts: no.txt matches no file",
        ),
    ],
)
def test_an_invalid_value_of_any_stage_is_one_line(
    change: Any, values: dict[str, Any], words: str
) -> None:
    (error,) = check.problems(change(**values))
    assert words in error and "\n" not in error


def test_all_invalid_values_are_named_at_once(change: Any) -> None:
    path = change(evaluation__stride=0, model__n_layer="two", runtime__workers=0)
    assert len(check.problems(path)) == 3
    with pytest.raises(UserError) as error:
        check.check_once(path)
    lines = str(error.value).splitlines()
    keys = ("n_layer", "stride", "workers")
    assert all(key in line for key, line in zip(keys, lines, strict=True))
    # The entry point puts it before the first line
    assert [line.startswith("error: ") for line in lines] == [False, True, True]


def test_all_missing_and_unknown_keys_are_named_at_once(change: Any) -> None:
    runtime = {key: value for key, value in DEFAULT["runtime"].items() if "micro" not in key}
    # Each of the two is read by other dataclasses
    del runtime["workers"], runtime["nodes"]
    path = change(optimizer={"kind": "adamw", "zzz": 1}, runtime=runtime, spikes={})
    keys = {
        section: [f"{section}.{key}" for key in DEFAULT[section] if key != "kind"]
        for section in ("optimizer", "spikes")
    }
    found = [line.removeprefix(f"{path}: ") for line in check.problems(path)]
    assert [line.split("; known: ")[0].split(":")[0] for line in found] == [
        "optimizer.zzz is not a parameter",
        f"{', '.join(keys['optimizer'])} are missing",
        f"{', '.join(keys['spikes'])} are missing",
        "runtime.workers, runtime.micro_batch, runtime.nodes are missing",
    ]


def test_valid_values_are_not_checked_again_unless_they_change(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections, read = [], params.read

    def record(config: type[Any], section: str, *arguments: Any, **options: Any) -> Any:
        sections.append(section)
        return read(config, section, *arguments, **options)

    monkeypatch.setattr(params, "read", record)
    check.check_once(change())
    assert {*check.SECTIONS, "runtime"} == set(sections)
    sections.clear()
    check.check_once(change())
    assert sections == []
    # An invalid value stays one when it is checked again
    for _ in range(2):
        sections.clear()
        with pytest.raises(UserError, match=r"gguf\.windows must be at least 1, got 0"):
            check.check_once(change(gguf__windows=0))
        assert sections == ["gguf"]


def test_a_machine_without_a_package_skips_the_checks_that_need_it(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module = importlib.import_module

    def without_datatrove(name: str) -> Any:
        if ".data." in name:
            raise ModuleNotFoundError("No module named 'datatrove'", name="datatrove")
        return import_module(name)

    path = change(raw__file_mb=-1, model__n_layer=0)
    assert len(check.problems(path)) == 2
    monkeypatch.setattr(importlib, "import_module", without_datatrove)
    (error,) = check.problems(path)
    assert "model.n_layer" in error


def test_every_section_is_checked_with_the_class_that_its_stage_reads() -> None:
    """check.py names the classes as text, so that they are not a dependency of every stage."""
    assert {*check.SECTIONS, "runtime"} == set(DEFAULT)
    assert check.SECTIONS.keys() == set(GRAPH["checked"]["params"])
    for stage in GRAPH.values():
        # `checked` checks all of them, and `report` shows all of them
        if stage in (GRAPH["checked"], GRAPH["report"]):
            continue
        for section in stage.get("params", []):
            module = Path(*check.SECTIONS[section].partition(":")[0].split(".")).with_suffix(".py")
            assert str(module) in stage["deps"], section
    code = "".join(
        path.read_text()
        for name in GRAPH
        for path in closure.files(f"stages.{name}")
        # The two stages that train share what they read of `runtime`
        if path.parts[0] == "stages" or path == Path("antimatter/training/run.py")
    )
    read = dict(re.findall(r'params\.read\((\w+), "(\w+)"\)', code))
    assert {section: name for name, section in read.items()} == {
        section: name.partition(":")[2] for section, name in check.SECTIONS.items()
    }
    assert set(re.findall(r'params\.read\((\w+), "runtime", part=True\)', code)) == {
        name.partition(":")[2] for name in check.RUNTIME
    }


def test_an_experiment_with_an_invalid_value_changes_nothing(a_copy: Path) -> None:
    def contents() -> dict[str, int]:
        """The files of all results, with the times of their last changes."""
        return {
            str(path): path.stat().st_mtime_ns
            for name in ("data", "models", "metrics", "plots")
            for path in a_copy.glob(f"{name}/**/*")
            if path.is_file() and not path.is_relative_to(a_copy / "data/checked")
        }

    before = contents()
    assert len(before) > 30
    # This value makes params.yaml longer: Git compares times by the second, so it would take a file
    # of the same size that DVC wrote twice within one second for unchanged
    done = run(a_copy, *DVC, "exp", "run", "-S", "evaluation.stride=nonsense")
    assert done.returncode != 0
    assert "error: params.yaml: evaluation.stride must be a whole number" in done.stderr
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["checked"]
    assert contents() == before
    assert run(a_copy, "git", "checkout", "--quiet", "params.yaml").returncode == 0
    assert "Running stage" not in dvc(a_copy, "repro")


@pytest.mark.slow
def test_an_experiment_in_a_temporary_folder_scores_a_text_that_git_does_not_track(
    a_copy: Path,
) -> None:
    (a_copy / "mine").mkdir()
    (a_copy / "mine/a.txt").write_text("A text of a user, which is in no commit.")
    options = ("--temp", "--name", "mine", "-S", "evaluation.texts=[mine/a.txt]")
    output = dvc(a_copy, "exp", "run", *options, "evaluation")
    assert re.findall(r"Running stage '(\w+)'", output) == ["checked", "evaluation"]
    references = run(a_copy, "git", "for-each-ref", "--format=%(refname)", "refs/exps/**/mine")
    metrics = f"{references.stdout.strip()}:metrics/evaluation/perplexity.json"
    scored = json.loads(run(a_copy, "git", "show", metrics).stdout)["texts"]
    assert list(scored) == ["mine/a.txt"] and scored["mine/a.txt"]["tokens"] > 10


def test_a_check_imports_nothing_that_takes_seconds() -> None:
    """It runs before every first stage. Only a search for GPUs may import torch."""
    code = (
        "import sys; from antimatter.pipeline import check; print(check.problems(), *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    problems, *modules = done.stdout.split()
    assert problems == "[]" and "antimatter.training.config" in modules
    slow = {"datatrove", "matplotlib", "numpy", "pyarrow", "tokenizers"}
    if not devices.has_gpu():
        slow.add("torch")
    assert slow & set(modules) == set()


def test_the_command_names_all_and_fails(tmp_path: Path) -> None:
    text = Path("params.yaml").read_text()
    text = text.replace("stride: 128", "stride: 0").replace("num_ctx: 2048", "num_ctx: all")
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "prompts").symlink_to(Path("prompts").resolve())
    done = subprocess.run(
        [sys.executable, "-m", "antimatter.cli", "check"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.startswith("error: params.yaml: ") for line in lines] == [True, True]


def persona_values(path: Path) -> dict[str, Any]:
    return {"conversations__persona": DEFAULT["conversations"]["persona"] | {"file": str(path)}}


def test_the_persona_is_read_before_anything_runs(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "robin.yaml"
    (found,) = check.problems(change(**persona_values(path)))
    assert found == f"conversations.persona.file: {path} is missing: correct it, or write it"
    good = params.load(Path("prompts/persona.yaml"))
    for values, words in (
        (good | {"sistem": "x"}, "unknown key `sistem`: remove it"),
        (good | {"topics": [good["topics"][0] | {"answer": ["x"]}]}, "contains no `expect`"),
        (good | {"system": "I have {weights}"}, "unknown fact `weights`"),
        ({"based_on": "nobody.yaml"}, "based_on must be persona.yaml"),
    ):
        path.write_text(json.dumps(values))
        (found,) = check.problems(change(**persona_values(path)))
        assert found.startswith(str(path)) and words in found
    path.write_text("a: [")
    (found,) = check.problems(change(**persona_values(path)))
    assert str(path) in found


def test_an_edit_of_the_persona_or_its_base_is_checked_again(tmp_path: Path, change: Any) -> None:
    path, base = tmp_path / "persona.yaml", Path("prompts/persona.yaml").read_text("utf-8")
    path.write_text(base)
    changed = change(**persona_values(path))
    check.check_once(changed)
    path.write_text(base.replace("starters:", "stoppers:", 1))
    with pytest.raises(UserError, match="unknown key `stoppers`"):
        check.check_once(changed)


def test_the_base_of_the_persona_is_the_one_that_dvc_watches(tmp_path: Path, change: Any) -> None:
    (tmp_path / "persona.yaml").write_bytes(Path("prompts/persona.yaml").read_bytes())
    (tmp_path / "robin.yaml").write_text("based_on: persona.yaml")
    (found,) = check.problems(change(**persona_values(tmp_path / "robin.yaml")))
    assert "but DVC watches only prompts/persona.yaml: move both files" in found
    assert "prompts/persona.yaml" in GRAPH["conversations"]["deps"]


def test_reading_the_persona_imports_nothing_slow() -> None:
    code = "import sys, antimatter.chat.persona; print({'torch', 'pyarrow'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
