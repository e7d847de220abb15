"""Whole sessions on Kaggle with the real project; test_run.py has each law in a fast form."""

import json
import os
import re
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import fake_program, fake_release, tiny_pipeline
from helpers.kaggle_machine import Machine
from ruamel.yaml import YAML

from antimatter.kaggle import kernel
from antimatter.kaggle.kernel import Kernel

pytestmark = pytest.mark.slow

Make = Callable[[str], Machine]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the kernel folder of a checkout."""

    def write(checkout: Path, **changes: Any) -> Path:
        monkeypatch.chdir(checkout)
        values: dict[str, Any] = {
            "user": "ann",
            "mode": "pipeline",
            "title": "antimatter pipeline",
            "accelerator": "none",
            "offline": False,
            "data": False,
            "after": "",
            "wheels": None,
            "ollama": None,
            "hours": 11.5,
            "minutes": 0.0,
        }
        kernel.write(tmp_path / "kernel", Kernel(**values | changes))
        return tmp_path / "kernel"

    return write


def output_before_the_training(trained: Path, folder: Path) -> Path:
    """The output of a session that ended after the stage shards, from a run that went further."""
    yaml = YAML()
    lock = yaml.load(trained / "dvc.lock")
    stages = list(lock["stages"])
    lock["stages"] = {name: lock["stages"][name] for name in stages[: stages.index("checkpoints")]}
    shutil.copytree(trained / ".dvc/cache/files", folder / "kept/cache/files")
    (folder / "kept/state").mkdir()
    shutil.copy(trained / ".state/checked", folder / "kept/state")
    (folder / "kept/run.json").write_text('{"begun": 1}')
    yaml.dump(lock, folder / "kept/dvc.lock")
    for stage in lock["stages"].values():
        for out in stage["outs"]:
            if out["path"].startswith(("metrics/", "plots/")):
                (folder / out["path"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(trained / out["path"], folder / out["path"])
    return folder


def test_a_run_that_its_session_ends_is_resumed_by_the_next_and_ends_in_the_same_lock(
    repository: Path, trained: Path, tmp_path: Path, machine: Make, write: Write
) -> None:
    folder = write(repository)
    before = output_before_the_training(trained, tmp_path / "before")
    first = machine("first")
    first.attach(folder / "dataset", "datasets/ann/antimatter-pipeline-files")
    first.attach(before, "notebooks/ann/antimatter-pipeline")
    with first.start(folder) as process:
        deadline = time.monotonic() + 200
        while not list(first.working.glob("kept/state/*/step-00000020.pt")):
            assert process.poll() is None and time.monotonic() < deadline, "no state of step 20"
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert re.findall(r"Running stage '(\w+)'", output) == ["checkpoints"]
    assert re.search(r"paused at step \d+ of 200", output)
    assert "paused: the session was ended" in output
    assert sorted(path.name for path in first.working.iterdir()) == ["kept", "metrics", "plots"]

    second = machine("second")
    second.attach(folder / "dataset", "antimatter-pipeline-files")
    attached = second.attach(first.working, "notebooks/ann/antimatter-pipeline")
    newest = max(attached.glob("kept/state/*/step-*.pt"))
    os.truncate(newest, newest.stat().st_size // 2)  # a damaged copy
    shards = max(attached.glob("kept/cache/files/md5/*/*"), key=lambda path: path.stat().st_size)
    shards.chmod(0o644)
    os.truncate(shards, 1000)
    output = second.run(folder)
    assert f"resuming from {attached}" in output
    assert f"{newest.name} is damaged" in output
    assert re.search(r"resuming from step \d+ of 200", output)
    unchanged = ["checked", "raw", "cleaned", "tokenizer", "conversations"]
    assert re.findall(r"Stage '(\w+)' didn't change", output) == unchanged
    assert re.search(r"done: perplexity \d+\.\d\d, \d\.\d{3} bits per byte", output)
    assert (second.working / "kept/dvc.lock").read_bytes() == (trained / "dvc.lock").read_bytes()
    for name in (
        "models/gguf/antimatter-f16.gguf",
        "models/ollama/Modelfile",
        "metrics/evaluation/summary.json",
        "plots/checkpoints/training.csv",
    ):
        assert (second.working / name).read_bytes() == (trained / name).read_bytes(), name
    # What was checked is all that the next session has to know
    assert [path.name for path in (second.working / "kept/state").iterdir()] == ["checked"]


def test_with_shards_the_run_begins_with_the_training_however_kaggle_unpacks_them(
    trained: Path, tmp_path: Path, machine: Make, write: Write
) -> None:
    folder = write(trained, data=True, offline=True)
    one = machine("one")
    for archive in (folder / "dataset").glob("*.tar"):
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(one.input / "datasets/ann/files" / archive.stem)
    for hidden in one.input.rglob(".dvc"):  # Kaggle may omit hidden files
        shutil.rmtree(hidden)
    with one.start(folder) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        matches = (re.search(r"Running stage '(\w+)'", line) for line in lines)
        first_stage = next(match[1] for match in matches if match)
        # This is how it begins; the test above runs to the end
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
    assert first_stage == "checkpoints" and process.returncode == 0
    assert "paused: the session was ended" in output


def test_a_stage_that_fails_is_one_line_and_finished_work_is_kept(
    repository: Path, tmp_path: Path, machine: Make, write: Write
) -> None:
    checkout = shutil.copytree(repository, tmp_path / "broken")
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace(" min_words: 50", " min_words: 99999"))
    tiny_pipeline.commit(checkout, "only very long documents")
    folder, one = write(checkout), machine("one")
    one.attach(folder / "dataset", "files")
    output = one.run(folder, status=1)
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith("error: `dvc repro`") and "255" in last and str(one.working) in last
    assert re.search(r"^error: cleaned: ", output, re.MULTILINE)
    assert "raw:" in (one.working / "kept/dvc.lock").read_text()
    assert any((one.working / "kept/cache/files").iterdir())


def answered(working: Path) -> None:
    text = (working / "answers.md").read_text()
    lines = Path("prompts/coherence.txt").read_text().splitlines()
    prompts = [line for line in lines if line and not line.startswith("#")]
    assert prompts and re.findall(r"^\*\*(.+)\*\* ", text, re.MULTILINE) == prompts
    assert re.search(r"^By .+\.$", text, re.MULTILINE)


def test_a_server_has_the_model_of_the_data_set(trained: Path, machine: Make, write: Write) -> None:
    folder, one = write(trained, mode="serve", offline=True), machine("one")
    one.attach(folder / "dataset", "datasets/ann/antimatter-serve-files")
    output = one.run(folder)
    line = r"^serving antimatter by .+ at http://127\.0\.0\.1:\d+/$"
    assert re.search(line, output, re.MULTILINE)
    answered(one.working)
    assert [path.name for path in one.working.iterdir()] == ["answers.md"]


def test_a_server_installs_the_ollama_that_is_attached(
    trained: Path, tmp_path: Path, machine: Make, write: Write
) -> None:
    program = fake_program.install_to(tmp_path / "program").read_bytes()
    content = fake_release.archive(
        [
            fake_release.member("bin/ollama", program, mode=0o755),
            fake_release.member("lib/ollama/libggml-base.so", fake_release.CPU),
        ]
    )
    archive = tmp_path / fake_release.NAME
    archive.write_bytes(content)
    (tmp_path / "sha256sum.txt").write_bytes(fake_release.sums(archive.name, content))
    folder = write(trained, mode="serve", offline=True, ollama=archive)
    one = machine("one")
    one.attach(folder / "dataset", "datasets/ann/antimatter-serve-files")
    output = one.run(folder)
    assert "for CPUs only" in output
    line = r"^serving antimatter by Ollama at http://127\.0\.0\.1:\d+, .*$"
    assert re.search(line, output, re.MULTILINE), output
    answered(one.working)


def test_a_server_has_the_model_of_a_pipeline_and_stays_until_the_session_ends(
    trained: Path, machine: Make, write: Write
) -> None:
    folder = write(trained, mode="serve", offline=True, after="antimatter-pipeline", hours=0.05)
    assert not (folder / "dataset/models.tar").exists()
    one = machine("one")
    one.attach(folder / "dataset", "files")
    output = one.input / "notebooks/ann/antimatter-pipeline"
    (output / "kept").mkdir(parents=True)
    (output / "kept/run.json").write_text(json.dumps({"begun": 1}))
    shutil.copytree(trained / "models", output / "models")
    with one.start(folder, KAGGLE_KERNEL_RUN_TYPE="Interactive") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(re.search(r"http://127\.0\.0\.1:\d+/", line) for line in lines)
        assert any("answers are in" in line for line in lines)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    answered(one.working)
