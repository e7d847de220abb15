"""Every value is looked at before the first stage does anything."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_pipeline import ENVIRONMENT, run

from antimatter import params
from antimatter.model import devices
from antimatter.pipeline import check, closure

GRAPH = params.load(Path("dvc.yaml"))["stages"]
DEFAULT = params.load(Path("params.yaml"))


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a params.yaml with some values changed, `section.key: value`; where it is."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    def write(**values: Any) -> Path:
        changed = params.load(Path("params.yaml"))
        for key, value in values.items():
            section, _, name = key.partition("__")
            if name:
                changed[section][name] = value
            else:
                changed[section] = value
        (tmp_path / "params.yaml").write_text(json.dumps(changed))  # JSON is YAML 1.2
        return tmp_path / "params.yaml"

    return write


def test_the_default_and_every_preset_are_good() -> None:
    presets = sorted(Path("presets").glob("*.yaml"))
    assert len(presets) > 1
    for path in (Path("params.yaml"), *presets):
        assert check.problems(path) == [], path


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"evaluation__stride": "abc"}, "evaluation.stride must be a whole number, got 'abc'"),
        ({"ollama__top_k": 1.5}, "ollama.top_k must be a whole number, got 1.5"),
        ({"gguf__relu_scale": 3}, "gguf.relu_scale must be a power of two"),
        ({"runtime__micro_bacth": 8}, "runtime.micro_bacth is not a parameter"),
        ({"runtime__micro_batch": 0}, "runtime.micro_batch must be at least 1, got 0"),
        ({"evalution": {}}, "evalution is not a section"),
        # Good by themselves, but not together or not here
        ({"schedule__warmup_steps": 8000}, "warmup_steps must be below checkpoints.steps"),
        ({"runtime__micro_batch": 3}, "runtime.micro_batch must divide the 4 sequences"),
        ({"tokenizer__vocab_size": 70000}, "tokenizer.vocab_size must be at most 65,536"),
        (
            {"ollama__type": "q4_k_m", "gguf__types": ["f16"]},
            "ollama.type must be one of gguf.types (f16), got 'q4_k_m'",
        ),
        ({"raw__packages": {"click": "1.0.0"}}, "raw.packages: click must be 1.0.0"),
        ({"evaluation__texts": ["mine/a.txt"]}, "evaluation.texts: mine/a.txt matches no file in "),
        ({"raw__source": "files"}, "raw.files: corpus/**/*.json.gz matches no file in "),
        (
            {"cleaned__decontamination": {"texts": ["no.txt"], "text_column": "text", "ngram": 13}},
            "decontamination.texts: no.txt matches no file",
        ),
    ],
)
def test_a_bad_value_is_one_line_whichever_stage_it_is_for(
    change: Any, values: dict[str, Any], words: str
) -> None:
    (error,) = check.problems(change(**values))
    assert words in error and "\n" not in error


def test_all_bad_values_are_named_at_once(change: Any) -> None:
    path = change(evaluation__stride=0, model__n_layer="two", runtime__workers=0)
    found = check.problems(path)
    assert len(found) == 3
    with pytest.raises(
        ValueError,
        match=r"^[^\n]*n_layer[^\n]*\nerror: [^\n]*stride[^\n]*\nerror: [^\n]*workers[^\n]*$",
    ):
        check.check_once(path)


def test_what_was_found_good_is_not_looked_at_again_and_what_changed_is(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, named = [], check._named
    monkeypatch.setattr(check, "_named", lambda name: (looked.append(name), named(name))[1])
    check.check_once(change())
    assert set(check.SECTIONS.values()) <= set(looked)
    looked.clear()
    check.check_once(change())
    assert looked == []
    with pytest.raises(ValueError, match=r"gguf\.windows must be at least 1, got 0"):
        check.check_once(change(gguf__windows=0))
    assert looked == [check.SECTIONS["gguf"]]
    with pytest.raises(ValueError, match=r"gguf\.windows must be at least 1, got 0"):
        check.check_once(
            change(gguf__windows=0)
        )  # a bad value does not become a good one by being asked again


def test_a_machine_without_a_package_leaves_out_what_needs_it(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = check._named

    def bare(name: str) -> Any:
        if ".data." in name:
            raise ModuleNotFoundError("No module named 'datatrove'", name="datatrove")
        return named(name)

    monkeypatch.setattr(check, "_named", bare)
    (error,) = check.problems(change(raw__file_mb=-1, model__n_layer=0))
    assert "model.n_layer" in error


def test_every_section_that_a_stage_reads_is_checked_with_the_class_that_it_reads() -> None:
    """The classes are named as text, so that they are no dependency; each must be one of a stage's own code."""
    assert {*check.SECTIONS, "runtime"} == set(DEFAULT)
    assert check.SECTIONS.keys() == set(GRAPH["checked"]["params"])
    for stage in GRAPH.values():
        for section in stage["params"] if stage is not GRAPH["checked"] else ():
            module = Path(*check.SECTIONS[section].partition(":")[0].split(".")).with_suffix(".py")
            assert str(module) in stage["deps"], section
    code = "".join(
        path.read_text()
        for name in GRAPH
        for path in closure.files(f"stages.{name}")
        if path.parts[0] == "stages"
    )
    read = dict(re.findall(r'params\.read\((\w+), "(\w+)"\)', code))
    assert {section: name for name, section in read.items()} == {
        section: name.partition(":")[2] for section, name in check.SECTIONS.items()
    }
    assert set(re.findall(r'params\.read\((\w+), "runtime", part=True\)', code)) == {
        name.partition(":")[2] for name in check.RUNTIME
    }


def test_an_experiment_with_a_bad_value_is_refused_before_anything_is_changed(a_copy: Path) -> None:
    folder = a_copy

    def contents() -> dict[str, int]:
        found = {
            str(path): path.stat().st_mtime_ns
            for name in ("data", "models", "metrics", "plots")
            for path in folder.glob(f"{name}/**/*")
        }
        return {
            name: time
            for name, time in found.items()
            if "data/checked" not in name and not name.endswith("/data")
        }

    before = contents()
    assert len(before) > 30
    # A value that makes params.yaml longer: Git compares times by the second, and would take a file
    # of
    # the same size, which DVC wrote twice within one, for unchanged
    done = run(
        folder, sys.executable, "-m", "dvc", "exp", "run", "-S", "evaluation.stride=nonsense"
    )
    refused = "error: params.yaml: evaluation.stride must be a whole number, got 'nonsense'"
    assert done.returncode != 0 and refused in done.stderr
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["checked"]
    assert contents() == before
    assert run(folder, "git", "checkout", "--quiet", "params.yaml").returncode == 0
    assert "Running stage" not in run(folder, sys.executable, "-m", "dvc", "repro").stdout


def test_an_experiment_in_a_temporary_folder_scores_a_text_that_git_does_not_track(
    a_copy: Path,
) -> None:
    folder = a_copy
    (folder / "mine").mkdir()
    (folder / "mine/a.txt").write_text("A text of one's own, which is in no commit.")
    done = run(
        folder,
        sys.executable,
        "-m",
        "dvc",
        "exp",
        "run",
        "--temp",
        "--name",
        "mine",
        "-S",
        "evaluation.texts=[mine/a.txt]",
        "evaluation",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["checked", "evaluation"]
    (reference,) = run(
        folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps/**/mine"
    ).stdout.split()
    scored = json.loads(run(folder, "git", "show", f"{reference}:metrics/evaluation/perplexity.json").stdout)[
        "texts"
    ]
    assert list(scored) == ["mine/a.txt"] and scored["mine/a.txt"]["tokens"] > 10


def test_a_check_imports_nothing_that_takes_seconds() -> None:
    """Each first run pays for it; and each experiment, whose values are new. torch may be asked for GPUs."""
    code = (
        "import sys; from antimatter.pipeline import check; print(check.problems(), *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, *modules = done.stdout.split()
    assert found == "[]" and "antimatter.training.config" in modules
    slow = {"datatrove", "matplotlib", "numpy", "pyarrow", "tokenizers"} | (
        set() if devices.has_gpu() else {"torch"}
    )
    assert slow & set(modules) == set()


def test_the_command_names_all_and_fails(tmp_path: Path) -> None:
    text = Path("params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(
        text.replace("stride: 128", "stride: 0").replace("num_ctx: 2048", "num_ctx: all")
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-m", "antimatter.cli", "check"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2 and all(
        line.startswith("error: params.yaml: ") for line in done.stderr.splitlines()
    )
