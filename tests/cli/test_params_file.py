"""Commands on files of a model need no params.yaml: its defaults come from the checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import gguf_model
from helpers.command import COMMAND, ENVIRONMENT, ROOT, antimatter

from antimatter.cli import main as cli
from antimatter.cli import options
from antimatter.model import weights

VALUES = f"no params.yaml here: using the values of {ROOT / 'params.yaml'}"
FILES = ["--tokenizer", "tokenizer", "--checkpoint"]


@pytest.fixture
def elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of a model, and no params.yaml."""
    shutil.copy(project / "models" / "gguf" / "tiny-f16.gguf", tmp_path / "my.gguf")
    shutil.copytree(project / "models" / "gguf" / "tokenizer", tmp_path / "tokenizer")
    weights.save(gguf_model.gpt(), tmp_path / "checkpoint")
    (tmp_path / "text.md").write_text(gguf_model.TEXT[:500])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_chat_with_a_file_needs_no_params_yaml(elsewhere: Path) -> None:
    done = antimatter(elsewhere, "chat", "--model", "my.gguf", "--num-predict", "4", text=b"The\n")
    # Four random tokens of an untrained model may be blanks
    assert done.returncode == 0 and done.stdout.endswith(b"\n")
    values, engine = done.stderr.decode().splitlines()
    assert values == VALUES and engine.startswith("engine: ")


def test_a_server_of_a_file_needs_no_params_yaml(elsewhere: Path) -> None:
    command = [*COMMAND, "serve", "--model", "my.gguf", "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=elsewhere, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True
    ) as server:
        assert server.stdout and server.stderr
        try:
            assert server.stderr.readline() == f"{VALUES}\n"
            assert server.stdout.readline().startswith("serving antimatter by embedded llama.cpp")
        finally:
            server.terminate()


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--type", "f16", "--windows", "0", *FILES, "checkpoint"],
        ["perplexity", "text.md", *FILES, "checkpoint"],
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
    output = capsys.readouterr()
    assert output.out and output.err.count(VALUES) == 1
    # One that is here takes precedence
    (elsewhere / "params.yaml").write_text("ollama: {}\n")
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert "params.yaml: section" in error and VALUES not in error
    (elsewhere / "params.yaml").unlink()
    monkeypatch.setattr(options, "CHECKOUT", elsewhere / "site-packages")
    assert cli.main(command) == 1
    assert capsys.readouterr().err.startswith("error: params.yaml is missing: ")


def test_the_checkouts_params_yaml_does_not_stand_in_for_a_missing_config(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the heads of another model the numbers would be wrong, without an error."""
    torch.save(gguf_model.gpt().state_dict(), "my.pt")
    assert cli.main(["perplexity", "text.md", *FILES, "my.pt"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "my.pt" in error and "n_head" in error and "--config" in error


def test_the_harness_without_its_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import antimatter.evaluation

    # For Python, None is a package that is not installed
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "antimatter.evaluation.harness", raising=False)
    monkeypatch.delattr(antimatter.evaluation, "harness", raising=False)
    assert cli.main(["lm-eval", "--tasks", "own"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: lm_eval is not installed: ") and error.count("\n") == 1
    assert "`pip install -c requirements.lock -e '.[lm-eval]'`" in error
