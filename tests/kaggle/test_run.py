"""The script that runs on Kaggle, as Kaggle would run it, with a project that takes no time.
test_session.py has the same with the real project.
"""

import inspect
import re
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.kaggle_machine import Machine

from antimatter import processes
from antimatter.kaggle import kernel, run

PROJECT = Path(__file__).parents[1] / "helpers" / "fake_project"
SETTINGS = {
    "mode": "pipeline",
    "data_set": "ann/antimatter-pipeline-files",
    "gpu": False,
    "internet": False,
    "exact": False,
    "hours": 1.0,
    "minutes": 0.0,
    "commit": "0123456789ab",
}

Make = Callable[[str], Machine]


def write_kernel(folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    (folder / "run.py").write_text(kernel.script(SETTINGS | settings))
    return folder


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    pack(folder / "source.tar", PROJECT, ".")
    return folder


def pack(archive: Path, source: Path, name: str) -> None:
    with tarfile.open(archive, "w") as tar:
        tar.add(source, name)


def calls(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("dvc ")]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_that_its_session_ends_is_resumed_by_the_next(
    data_set: Path, tmp_path: Path, machine: Make
) -> None:
    folder = write_kernel(tmp_path / "kernel")
    first = machine("first")
    first.attach(data_set, "datasets/ann/antimatter-pipeline-files")
    with first.start(folder, FAKE_DVC="waits") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "training\n" for line in lines)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "paused: the session was ended" in output and "--after" in output
    saved = ["kept/dvc.lock", "kept/run.json", "kept/state/training/step"]
    assert tree(first.working) == [*saved, "metrics/raw/summary.json"]

    second = machine("second")
    # Where Kaggle mounted data sets before 2026
    second.attach(data_set, "antimatter-pipeline-files")
    newest = second.attach(first.working, "notebooks/ann/antimatter-pipeline")
    older = second.attach(first.working, "notebooks/ann/antimatter-older")
    (older / "kept/run.json").write_text('{"begun": 1}')
    damaged = second.attach(first.working, "notebooks/ann/antimatter-damaged")
    (damaged / "kept/run.json").write_text('{"be')
    output = second.run(folder)
    assert f"resuming from {newest}\n" in output and f"{older}" in output
    assert f"{damaged}/kept/run.json is damaged" in output
    assert calls(output) == [
        "dvc checkout --quiet --allow-missing",
        "dvc gc --quiet --workspace --force",
        "dvc repro",
    ]
    assert "state: 20\n" in output
    assert re.search(r"^done: perplexity 61\.32, 1\.500 bits per byte", output, re.MULTILINE)
    results = ["metrics/evaluation/summary.json", "metrics/raw/summary.json"]
    assert tree(second.working) == [*saved, *results, "models/ollama/Modelfile"]
    assert "evaluation" in (second.working / "kept/dvc.lock").read_text()


def test_when_the_hours_are_up_the_run_is_paused(
    data_set: Path, tmp_path: Path, machine: Make
) -> None:
    one = machine("one")
    one.attach(data_set, "files")
    output = one.run(write_kernel(tmp_path / "kernel", hours=0.001), FAKE_DVC="waits")
    assert "paused: 0.001 hours are up" in output and "--after" in output


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_with_shards_the_run_begins_with_the_training(
    data_set: Path, tmp_path: Path, machine: Make, is_unpacked: bool
) -> None:
    shards = tmp_path / "data" / "shards"
    shards.mkdir(parents=True)
    (shards / "index.json").write_text("{}")
    pack(data_set / "data.tar", tmp_path / "data", "data")
    one = machine("one")
    place = one.attach(data_set, "datasets/ann/files")
    if is_unpacked:  # as Kaggle may do with archives
        for archive in list(place.glob("*.tar")):
            # Without a filter newer versions of Python warn, and 3.11.2 has none
            options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            shutil.unpack_archive(archive, place / archive.stem, **options)
            archive.unlink()
    output = one.run(write_kernel(tmp_path / "kernel"))
    assert calls(output) == ["dvc repro --downstream checkpoints"]


def test_a_stage_that_fails_is_one_line_and_finished_work_is_kept(
    data_set: Path, tmp_path: Path, machine: Make
) -> None:
    one = machine("one")
    one.attach(data_set, "files")
    output = one.run(write_kernel(tmp_path / "kernel"), status=1, FAKE_DVC="fails")
    last = output.splitlines()[-1]
    assert last.startswith("error: `dvc repro`") and "255" in last and str(one.working) in last
    assert "Traceback" not in output
    assert "raw" in (one.working / "kept/dvc.lock").read_text()


def test_a_missing_data_set_model_or_gpu_is_one_line(
    data_set: Path, tmp_path: Path, machine: Make
) -> None:
    one = machine("one")
    output = one.run(write_kernel(tmp_path / "pipeline"), status=1)
    assert re.search(r"^error: .*source\.tar.*ann/antimatter-pipeline-files", output, re.MULTILINE)
    one.attach(data_set, "files")
    output = one.run(write_kernel(tmp_path / "serve", mode="serve"), status=1)
    assert re.search("^error: .* has no model: .*--after", output, re.MULTILINE)
    output = one.run(write_kernel(tmp_path / "gpu", gpu=True), status=1, CUDA_VISIBLE_DEVICES="")
    assert re.search("^error: .*no GPU.*--accelerator t4", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("installed", "settings", "missing"),
    [
        ({"numpy": "1.0"}, {"mode": "serve"}, ["xllamacpp"]),  # any version of a package will do
        ({"numpy": "2.3", "torch": "2.9.1"}, {}, ["xllamacpp"]),
        ({"numpy": "1.0", "torch": "2.8.0"}, {}, ["numpy", "torch", "xllamacpp"]),
        (
            {"numpy": "2.3", "torch": "2.9.1"},
            {"exact": True},  # the corpus is that of the pinned packages
            ["pytest", "torch", "xllamacpp"],
        ),
    ],
)
def test_packages_that_kaggle_has_are_not_installed_again(
    installed: dict[str, str],
    settings: dict[str, Any],
    missing: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pins = {"numpy": "2.3", "pytest": "9.0", "torch": "2.10.0", "xllamacpp": "2026.10"}
    monkeypatch.setattr(run, "SETTINGS", SETTINGS | settings)
    monkeypatch.setattr(run, "installed", installed.get)
    assert run.missing_packages(pins) == {name: pins[name] for name in missing}


def serving(data_set: Path, tmp_path: Path, machine: Make, **settings: Any) -> tuple[Machine, Path]:
    (tmp_path / "models/ollama").mkdir(parents=True)
    (tmp_path / "models/ollama/Modelfile").touch()
    pack(data_set / "models.tar", tmp_path / "models", "models")
    one = machine("one")
    one.attach(data_set, "files")
    return one, write_kernel(tmp_path / "kernel", mode="serve", **settings)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, "serve --port 0"),
        ({"internet": True}, "serve --port 0 --install --cpu-only"),
        ({"internet": True, "gpu": True}, "serve --port 0 --install"),
    ],
)
def test_a_server_answers_the_prompts_and_ends(
    data_set: Path, tmp_path: Path, machine: Make, settings: dict[str, Any], options: str
) -> None:
    one, folder = serving(data_set, tmp_path, machine, **settings)
    output = one.run(folder)
    assert f"serving tiny by fake {options} at http://127.0.0.1:" in output
    assert "2 answers are in " in output
    assert (one.working / "answers.md").read_text() == (
        f"# What the model answers\n\nBy fake {options}.\n\n**Once** to Once\n"
        "\n**too long** (the text has 99 tokens)\n\n**Twice** to Twice\n"
    )
    assert tree(one.working) == ["answers.md"]


def test_a_server_takes_an_attached_ollama_and_stays_until_the_session_ends(
    data_set: Path, tmp_path: Path, machine: Make
) -> None:
    (data_set / "ollama-linux-amd64.tar.zst").touch()
    one, folder = serving(data_set, tmp_path, machine)
    with one.start(folder, KAGGLE_KERNEL_RUN_TYPE="Interactive") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        archive = f"--archive {one.input}/files/ollama-linux-amd64.tar.zst"
        assert any(archive in line for line in lines)
        assert any("answers are in" in line for line in lines)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


@pytest.mark.parametrize(("ending", "words"), [("fails", "status 3"), ("refuses", "99 tokens")])
def test_a_server_that_does_not_work_is_one_line(
    data_set: Path, tmp_path: Path, machine: Make, ending: str, words: str
) -> None:
    one, folder = serving(data_set, tmp_path, machine)
    last = one.run(folder, status=1, FAKE_SERVE=ending).splitlines()[-1]
    assert last.startswith("error: ") and words in last


def test_the_copies_of_the_process_functions_are_the_same() -> None:
    for name in ("process_group", "end"):
        original, copied = getattr(processes, name), getattr(run, name)
        assert inspect.getsource(original) == inspect.getsource(copied)
    assert processes.GRACE == run.GRACE


def test_the_script_imports_the_standard_library_only() -> None:
    imported = set(re.findall(r"^(?:import|from) (\w+)", inspect.getsource(run), re.MULTILINE))
    assert imported and imported <= set(sys.stdlib_module_names)
