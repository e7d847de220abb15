import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gguf_model

from antimatter import cli, params
from antimatter.export.ollama import OllamaConfig
from antimatter.model import weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with params.yaml and a model, as `dvc repro` leaves them."""
    folder = tmp_path_factory.mktemp("a project")
    values = params.read(OllamaConfig, "ollama", ROOT / "params.yaml")
    assert values.type == "f16"
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    gguf_model.make(folder / "models" / "gguf")
    yield folder


def antimatter(
    folder: Path, *arguments: str, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OLLAMA_HOST": "127.0.0.1:9",
        "LC_ALL": "C",
    }  # port 9: nobody answers
    return subprocess.run(
        [sys.executable, "-m", "antimatter.cli", *arguments],
        cwd=folder,
        input=text,
        capture_output=True,
        env=environment,
        timeout=60,
    )


def test_a_pipe_streams_one_answer_a_line_and_exits_0(project: Path) -> None:
    done = antimatter(
        project,
        "chat",
        "--num-predict",
        "8",
        text="The function returns\nSecond line: é\n".encode(),
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.decode().strip()) > 0
    assert b"no Ollama answers at http://127.0.0.1:9" in done.stderr
    assert (
        b"engine: embedded llama.cpp, models/gguf/tiny-f16.gguf, context 64 tokens" in done.stderr
    )
    assert done.stderr.count(b"\n") == 2  # nothing else: no log of llama.cpp, no torch warning


def test_the_same_question_has_the_same_likeliest_answer(project: Path) -> None:
    first, second = (
        antimatter(
            project,
            "chat",
            "--engine",
            "embedded",
            "--temperature",
            "0",
            "--num-predict",
            "8",
            text=b"The\n",
        )
        for _ in range(2)
    )
    assert first.stdout == second.stdout != b""


def test_no_input_is_no_answer(project: Path) -> None:
    done = antimatter(project, "chat", "--engine", "embedded")
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_reader_that_leaves_early_is_no_error(project: Path) -> None:
    command = f"printf 'a\\nb\\nc\\n' | '{sys.executable}' -m antimatter.cli chat --engine embedded --num-predict 4 | true; echo ${{PIPESTATUS[1]}}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=project, capture_output=True, env=environment, timeout=60
    )
    assert done.stdout == b"0\n"
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "absent.gguf"), b"error: absent.gguf is missing: run `dvc repro gguf`"),
        (("--model", "params.yaml"), b"error: params.yaml is not a GGUF file"),
        (("--engine", "ollama"), b"error: no Ollama answers at http://127.0.0.1:9"),
        (("--temperature", "-1"), b"error: temperature must lie in [0, 10], got -1.0"),
    ],
)
def test_a_bad_model_or_option_is_one_line_and_exit_1(
    project: Path, arguments: tuple[str, ...], words: bytes
) -> None:
    done = antimatter(project, "chat", *arguments, text=b"Hi\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(words) and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_a_file_and_ollama_by_name_contradict_each_other(project: Path, command: str) -> None:
    done = antimatter(project, command, "--engine", "ollama", "--model", "models/gguf")
    assert done.returncode == 1
    assert b"--model" in done.stderr and b"--engine ollama" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_line_that_is_too_long_is_one_clear_error(project: Path) -> None:
    done = antimatter(project, "chat", "--engine", "embedded", text=b"many words " * 100)
    assert done.returncode == 1
    assert b"tokens, the model can read 32 and still answer: shorten it" in done.stderr


def test_outside_of_a_project_the_error_names_the_way_out(tmp_path: Path) -> None:
    done = antimatter(tmp_path, "chat")
    assert done.returncode == 1
    assert (
        done.stderr
        == b"error: params.yaml is missing: run from the root of the repository, or `git checkout params.yaml`\n"
    )


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of a model, and no params.yaml."""
    shutil.copy(project / "models" / "gguf" / "tiny-f16.gguf", tmp_path / "my.gguf")
    shutil.copytree(project / "models" / "gguf" / "tokenizer", tmp_path / "tokenizer")
    weights.save(gguf_model.gpt(), tmp_path / "checkpoint")
    (tmp_path / "text.md").write_text(gguf_model.TEXT[:500])
    monkeypatch.chdir(tmp_path)
    return tmp_path


VALUES = f"no params.yaml here: values are those of {ROOT / 'params.yaml'}"


def test_a_chat_with_a_file_needs_no_params_yaml(elsewhere: Path) -> None:
    done = antimatter(elsewhere, "chat", "--model", "my.gguf", "--num-predict", "4", text=b"The\n")
    # Four random tokens of an untrained model may be blanks
    assert done.returncode == 0 and done.stdout.endswith(b"\n")
    said = done.stderr.decode().splitlines()
    assert said[0] == VALUES and said[1].startswith("engine: ") and len(said) == 2


def test_a_server_of_a_file_needs_no_params_yaml(elsewhere: Path) -> None:
    command = [sys.executable, "-m", "antimatter.cli", "serve", "--model", "my.gguf", "--port", "0"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OLLAMA_HOST": "127.0.0.1:9"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=elsewhere, env=environ, **pipes) as server:
        assert server.stdout and server.stderr
        try:
            assert server.stderr.readline() == f"{VALUES}\n"
            assert server.stdout.readline().startswith("serving antimatter by embedded llama.cpp")
        finally:
            server.terminate()


NAMED = ["--tokenizer", "tokenizer", "--checkpoint"]


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--type", "f16", "--windows", "0", *NAMED, "checkpoint"],
        ["perplexity", "text.md", *NAMED, "checkpoint"],
    ],
    ids=["export", "perplexity"],
)
def test_a_command_with_the_files_of_a_checkpoint_needs_no_params_yaml(
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert said.out and said.err.count(VALUES) == 1
    (elsewhere / "params.yaml").write_text("ollama: {}\n")  # one that is here counts
    assert cli.main(command) == 1
    assert "params.yaml: section" in (error := capsys.readouterr().err) and VALUES not in error
    (elsewhere / "params.yaml").unlink()
    monkeypatch.setattr(cli, "CHECKOUT", elsewhere / "site-packages")
    assert cli.main(command) == 1
    assert capsys.readouterr().err.startswith("error: params.yaml is missing: run from the root")


def test_what_only_a_config_can_tell_is_not_taken_from_the_checkout(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The heads of another model would give wrong numbers, and no error."""
    torch.save(gguf_model.gpt().state_dict(), "my.pt")
    assert cli.main(["perplexity", "text.md", *NAMED, "my.pt"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "my.pt" in error and "n_head" in error and "--config" in error


def test_the_harness_without_its_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import antimatter.evaluation

    monkeypatch.setitem(
        sys.modules, "lm_eval", None
    )  # Python's own way to say that there is no such package
    monkeypatch.delitem(sys.modules, "antimatter.evaluation.harness", raising=False)
    monkeypatch.delattr(antimatter.evaluation, "harness", raising=False)
    assert cli.main(["lm-eval", "--tasks", "own"]) == 1
    how = "`pip install -c requirements.lock -e '.[lm-eval]'` adds the harness (docs/lm-eval.md)"
    assert capsys.readouterr().err == f"error: lm_eval is not installed: {how}\n"


def test_a_plan_of_the_default_parameters_is_made_without_a_gpu(project: Path) -> None:
    done = antimatter(project, "plan", "--gpu", "T4")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "12·L·C·T".encode() in done.stdout  # though the locale is C


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "nano.yaml").write_text("model:\n  n_layer: 4\n  n_head: 4 # é\n")
    (tmp_path / "presets" / "300m.yaml").write_text("model:\n  n_layer: 24\n  n_head: 4 # é\n")
    (tmp_path / "presets" / "bad.yaml").write_text("model: [\n")
    (tmp_path / "params.yaml").write_text("model:\n  n_layer: 4\n  n_head: 4 # é\n")
    return tmp_path


def test_a_preset_replaces_the_parameters_and_shows_the_difference(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["preset", "300m"]) == 0
    assert (presets / "params.yaml").read_text() == (presets / "presets" / "300m.yaml").read_text()
    shown = capsys.readouterr().out
    assert "\n-  n_layer: 4\n+  n_layer: 24\n" in shown
    assert cli.main(["preset", "300m"]) == 0
    assert capsys.readouterr().out == "params.yaml is presets/300m.yaml already\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("301m", "known are 300m, bad, nano"),
        ("../params", "there is no preset"),
        ("bad", "not readable as YAML"),
    ],
)
def test_a_preset_that_is_none_changes_nothing(
    presets: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    before = (presets / "params.yaml").read_bytes()
    assert cli.main(["preset", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert (presets / "params.yaml").read_bytes() == before


def test_a_preset_overwrites_no_change_that_nothing_else_holds(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    mine = "model:\n  n_layer: 7\n"
    (presets / "params.yaml").write_text(mine)
    for commands in (
        [],
        [("init", "--quiet")],
        [("add", "params.yaml")],
    ):  # no repository, not tracked, not committed
        for command in commands:
            subprocess.run(["git", *command], cwd=presets, check=True)
        assert cli.main(["preset", "300m"]) == 1
        assert "params.yaml has changes that no commit has" in capsys.readouterr().err
        assert (presets / "params.yaml").read_text() == mine
    subprocess.run(
        ["git", *identity, "commit", "--quiet", "--message", "mine"], cwd=presets, check=True
    )
    assert cli.main(["preset", "300m"]) == 0
    assert cli.main(["preset", "nano"]) == 0  # what is there is a preset
    (presets / "params.yaml").write_text("model:\n  n_layer: 8\n")
    assert cli.main(["preset", "300m", "--force"]) == 0
    assert "n_layer: 24" in (presets / "params.yaml").read_text()
