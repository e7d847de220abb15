"""The folder that `antimatter kaggle` writes."""

import json
import math
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_pipeline

from antimatter.errors import UserError
from antimatter.kaggle import kernel, run
from antimatter.kaggle.kernel import Kernel
from antimatter.repository import dvc
from antimatter.serve.ollama.install import SUMS

# All that the client's documentation lists for kernel-metadata.json, and enable_tpu, which the
# client reads too
DOCUMENTED = {
    *("id", "id_no", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu"),
    *("enable_tpu", "enable_internet", "machine_shape", "dataset_sources", "competition_sources"),
    *("kernel_sources", "model_sources"),
}


@pytest.fixture
def checkout(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository, as the working directory."""
    monkeypatch.chdir(repository)
    return repository


def make(**changes: Any) -> Kernel:
    values = {
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
    return Kernel(**values | changes)


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], text=True, env=tiny_pipeline.ENVIRONMENT)


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        kernel.write(folder, make(**changes))
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("accelerator", ["none", "t4"])
def test_metadata_has_documented_keys_and_an_address_that_follows_from_the_title(
    checkout: Path, tmp_path: Path, accelerator: str
) -> None:
    folder, is_gpu = tmp_path / "kernel", accelerator == "t4"
    changes = {"user": "Ann", "title": "Antimatter 3 nano", "accelerator": accelerator}
    commit = kernel.write(folder, make(**changes))
    assert commit == git("rev-parse", "HEAD").strip()
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    assert set(metadata) <= DOCUMENTED
    assert metadata["id"] == "ann/antimatter-3-nano" and metadata["is_private"] is True
    assert (metadata["language"], metadata["kernel_type"]) == ("python", "script")
    assert metadata["enable_gpu"] is is_gpu and metadata["enable_internet"] is True
    assert metadata.get("machine_shape") == ("NvidiaTeslaT4" if is_gpu else None)
    data_set = json.loads((folder / "dataset/dataset-metadata.json").read_text())
    assert metadata["dataset_sources"] == [data_set["id"]] == ["ann/antimatter-3-nano-files"]
    assert 6 <= len(data_set["title"]) <= 50 and len(data_set["licenses"]) == 1
    assert commit in data_set["description"]
    script = folder / metadata["code_file"]
    assert script.stat().st_size < 1_000_000 and commit in script.read_text()
    with tarfile.open(folder / "dataset/source.tar") as tar:
        assert {"dvc.yaml", "requirements.lock", "antimatter/files.py"} <= set(tar.getnames())
    kernel.write(folder, make())  # a folder that we wrote is replaced


def test_the_script_has_its_settings_and_is_otherwise_the_same() -> None:
    settings = make(offline=True, data=True, hours=2.0).settings("abc")
    expected = {"internet": False, "exact": False, "hours": 2.0, "commit": "abc"}
    assert expected.items() <= settings.items()
    assert make().settings("abc")["exact"] is True
    text = kernel.script(settings)
    values: dict[str, Any] = {}
    exec(compile(text.split("\nROOT = ")[0], "run.py", "exec"), values)
    assert values["SETTINGS"] == settings
    line, assignment = "SETTINGS: dict[str, Any] = ", text.index("SETTINGS: ")
    end = text.index("}\n", assignment) + 1
    assert text[:assignment] + line + "{}" + text[end:] == Path(run.__file__).read_text()


@pytest.mark.parametrize(
    ("after", "address"), [("antimatter-pipeline", "ann/antimatter-pipeline"), ("bob/x", "bob/x")]
)
def test_after_attaches_the_output_of_a_kernel(after: str, address: str) -> None:
    assert make(after=after).metadata()["kernel_sources"] == [address]


def test_files_are_added_to_the_data_set(checkout: Path, tmp_path: Path) -> None:
    wheel, ollama = tmp_path / "a.whl", tmp_path / "ollama-linux-amd64.tar.zst"
    for path in (wheel, ollama, tmp_path / SUMS):
        path.write_text(path.name)
    kernel.write(tmp_path / "kernel", make(wheels=tmp_path, ollama=ollama, offline=True))
    data_set = tmp_path / "kernel" / "dataset"
    for name in (ollama.name, SUMS):
        assert (data_set / name).read_text() == name
    with tarfile.open(data_set / "wheels.tar") as tar:
        assert tar.getnames() == ["wheels/a.whl"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"user": "ann!"}, ["--user", "'ann!'"]),
        ({"title": "abc"}, ["--title", "5 to 44", "'abc'"]),
        ({"title": "What? A title"}, ["--title", "'What? A title'"]),
        ({"after": "a b"}, ["--after", "'a b'"]),
        ({"hours": 13.0}, ["--hours", "(0, 12]", "13"]),
        ({"hours": math.nan}, ["--hours", "nan"]),
        ({"minutes": -1.0}, ["--minutes", "-1"]),
        ({"minutes": math.nan}, ["--minutes", "nan"]),
        ({"minutes": math.inf}, ["--minutes", "inf"]),
        ({"wheels": Path("docs")}, ["docs", ".whl"]),
        ({"ollama": Path("README.md")}, ["--ollama", "README.md"]),
        ({"ollama": Path("ollama-linux-amd64.tar.zst")}, ["--ollama", "amd64"]),
        ({"data": True}, ["data/shards", "dvc repro shards"]),
        ({"mode": "serve"}, ["models/gguf", "dvc repro", "--after"]),
    ],
)
def test_invalid_input_is_one_line_and_writes_nothing(
    checkout: Path, tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    message = refused(tmp_path / "kernel", **changes)
    assert all(part in message for part in parts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_content_is_not_touched(checkout: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    assert str(tmp_path) in refused(tmp_path)
    assert thesis.read_text() == "years of work"

    # A kernel of somebody else, and one of ours to which somebody has added
    other, ours = tmp_path / "other", tmp_path / "ours"
    other.mkdir()
    (other / "kernel-metadata.json").write_text("{}")
    assert "other has kernel-metadata.json" in refused(other)
    kernel.write(ours, make())
    kernel.write(ours, make())
    (ours / "notes.txt").write_text("mine")
    assert "ours has notes.txt" in refused(ours)
    (ours / "notes.txt").rename(ours / "dataset/notes.txt")
    assert "ours has dataset/notes.txt" in refused(ours)
    (tmp_path / "link").symlink_to("nowhere")
    assert "link is a link" in refused(tmp_path / "link")
    assert (ours / "dataset/notes.txt").exists()
    assert (other / "kernel-metadata.json").read_text() == "{}"


def test_uncommitted_changes_are_refused(checkout: Path, tmp_path: Path) -> None:
    path = Path("params.yaml")
    before = path.read_text()
    try:
        path.write_text(before + "\n# changed\n")
        message = refused(tmp_path / "kernel")
    finally:
        path.write_text(before)
    assert "params.yaml" in message and "commit" in message
    # Results of a run do not count
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/new.json").write_text("{}")
    kernel.write(tmp_path / "kernel", make())


def test_outside_of_a_repository_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "dvc.yaml" in refused(tmp_path / "kernel")
    Path("dvc.yaml").touch()
    assert "must be a Git repository" in refused(tmp_path / "kernel")


def test_shards_and_models_are_packed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*kernel.DATA, *kernel.MODELS):
        Path(name).mkdir(parents=True)
        (Path(name) / "file").symlink_to(checkout / "README.md")  # as DVC may do
    try:
        monkeypatch.setattr(kernel, "stale", lambda _: ["cleaned"])
        assert "cleaned" in refused(tmp_path / "kernel", data=True)
        monkeypatch.setattr(kernel, "stale", lambda _: [])
        kernel.write(tmp_path / "kernel", make(mode="serve", data=True))
    finally:
        for name in ("data", "models"):
            shutil.rmtree(name)
    for name, folders in (("data", kernel.DATA), ("models", kernel.MODELS)):
        with tarfile.open(tmp_path / f"kernel/dataset/{name}.tar") as tar:
            files = [member.name for member in tar if member.isfile()]
        assert files == [f"{folder}/file" for folder in folders]
    kernel.write(tmp_path / "kernel", make(mode="serve", after="antimatter-pipeline"))
    assert not (tmp_path / "kernel/dataset/models.tar").exists()


@pytest.mark.slow
def test_shards_of_other_parameters_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(trained, tmp_path / "changed", symlinks=True)
    monkeypatch.chdir(folder)
    tiny_pipeline.edit(folder, {"schedule.warmup_steps": 6})
    git("commit", "--quiet", "--message", "a parameter of a later stage", "params.yaml")
    assert dvc.stale("shards") == []
    kernel.write(tmp_path / "kernel", make(data=True))
    tiny_pipeline.edit(folder, {"tokenizer.vocab_size": 401})
    git("commit", "--quiet", "--message", "a parameter of the shards", "params.yaml")
    assert "dvc repro shards" in refused(tmp_path / "kernel", data=True)


def test_the_command_prints_what_to_do_next(checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "antimatter.cli", "kaggle", str(tmp_path / "kernel")]
    options = ["--user", "ann", "--offline"]
    environment = {**tiny_pipeline.ENVIRONMENT, "PYTHONPATH": "."}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"kaggle kernels push -p {tmp_path / 'kernel'}" in done.stdout
    assert "kaggle datasets status ann/antimatter-pipeline-files" in done.stdout
    assert "--wheels" in done.stderr
