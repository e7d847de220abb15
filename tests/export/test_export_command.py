"""`antimatter export`, as a user types it, and the stage `gguf`."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers.gguf_model import CHAT, CONTEXT, Tiny, gpt, windows
from transformers import AutoModelForCausalLM

from antimatter import files
from antimatter.cli import main as cli
from antimatter.errors import UserError
from antimatter.export import parity, tokenization
from antimatter.export.config import FileType
from antimatter.llama.header import read_header
from antimatter.model import weights
from antimatter.pipeline import recorded
from antimatter.repository import git
from stages import gguf as stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer, shards, and a state dict whose heads and slope params.yaml has."""
    values = (ROOT / "params.yaml").read_text()
    for old, new in (("n_head: 3", "n_head: 2"), ("negative_slope: 0.01", "negative_slope: 0.1")):
        assert old in values
        values = values.replace(old, new)
    (tmp_path / "params.yaml").write_text(values)
    shutil.copytree(tiny.tokenizer_folder, tmp_path / "data" / "tokenizer")
    shards = tmp_path / "data" / "shards"
    shards.mkdir(parents=True)
    stream = windows(tiny.tokenizer).flatten().numpy().astype(np.uint16)
    np.save(shards / "validation-00000.npy", stream)
    splits = {
        "train": {"files": []},
        "validation": {"files": [{"name": "validation-00000.npy", "tokens": len(stream)}]},
    }
    files.write_json(shards / "index.json", {"vocab_size": 400, "bos": 1, "splits": splits})
    torch.save(tiny.model.state_dict(), tmp_path / "final.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(arguments: str) -> int:
    return cli.main(["export", *arguments.split()])


def test_a_pt_file_becomes_gguf_files_of_the_given_name(
    project: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = "--type f16 --type q8_0 --windows 0"
    assert export(f"--checkpoint final.pt --name mine {kinds} --output out") == 0
    printed = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["out/mine-f16.gguf", "out/mine-q8_0.gguf"]
    header = read_header(project / "out" / "mine-q8_0.gguf")
    assert header.keys["general.name"] == "mine"
    assert header.n_parameters == read_header(tiny.path).n_parameters


def test_a_pt_file_becomes_a_folder_for_transformers(
    project: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--checkpoint final.pt --name mine --type hf --windows 0") == 0
    assert capsys.readouterr().out.startswith("mine-hf: ")
    theirs: Any = AutoModelForCausalLM.from_pretrained(project / "mine-hf")
    ids = windows(tiny.tokenizer)[:, :CONTEXT]
    torch.testing.assert_close(theirs(ids).logits, tiny.model(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("README.md", "mine", "mine-hf has README.md, which this command does not write"),
        ("config.json", '{"transformers_version": "5"}', "mine-hf was saved by transformers"),
        ("tokenizer.json/mine", "text", "mine-hf has tokenizer.json/mine, which"),
    ],
)
def test_a_folder_with_other_files_is_left_alone(
    project: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, words: str
) -> None:
    files.write_text(project / "mine-hf" / name, text)
    assert export("--checkpoint final.pt --name mine --type hf --windows 0") == 1
    assert words in capsys.readouterr().err
    assert (project / "mine-hf" / name).read_text() == text


def test_a_checkpoint_folder_without_its_config_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.save(gpt(), project / "model")
    (project / "model/config.json").unlink()
    assert export("--checkpoint model --windows 0") == 1
    assert "model/config.json is missing" in capsys.readouterr().err


def test_an_export_is_compared_with_torch_where_there_are_shards(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--checkpoint final.pt --type f16 --windows 2") == 0
    assert "; in llama.cpp KL " in capsys.readouterr().out


def test_without_shards_it_says_that_nothing_was_compared(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.remove(project / "data" / "shards")
    assert export("--checkpoint final.pt --type f16") == 0
    assert "not compared with torch, since data/shards is missing" in capsys.readouterr().out


def test_a_tokenizer_that_does_not_fit_is_one_line_and_leaves_no_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = dict.fromkeys(("token_embedding.weight", "head.weight"), torch.zeros(500, 64))
    torch.save(gpt().state_dict() | larger, project / "other.pt")
    assert export("--checkpoint other.pt --type f16 --windows 0") == 1
    assert "has 400 tokens, the checkpoint was trained with 500" in capsys.readouterr().err
    assert not list(project.glob("*.gguf"))


@pytest.mark.parametrize("kind", ["tuned", "checkpoints"])
def test_the_stage_exports_and_measures_a_base_model_and_a_tuned_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # They take the longest, and have their own tests
    monkeypatch.setattr(parity, "speed", lambda *_: {"prompt": 1.0, "answer": 1.0})
    monkeypatch.setattr(tokenization, "check", lambda *_: {"mismatches": 0})
    weights.save(gpt(seed=1), project / "models" / "checkpoints")
    weights.save(gpt(seed=2), project / "models" / "tuned", chat=CHAT)
    (project / "data" / "conversations").mkdir()
    talk = np.array([[1, 3, 50, 60, 4, 70, 2, 0], [1, 3, 90, 4, 80, 2, 0, 0]], np.uint16)
    np.save(project / "data" / "conversations" / "held_out_tokens.npy", talk)
    values = (project / "params.yaml").read_text()
    values = values.replace("model: tuned #", f"model: {kind} #")
    for other in ("f32", "q8_0", "q4_k_m"):
        values = values.replace(f"  - {other}\n", "")
    (project / "params.yaml").write_text(values)
    names = "data/tokenizer data/shards data/conversations out metrics plots"
    stage.main(project / "models" / kind, *[project / name for name in names.split()])
    report = files.read_json(project / "metrics" / "summary.json")
    assert 0 <= report["f16"]["conversations"]["kl"] < 1e-6
    _, row = (project / "plots" / "sizes.csv").read_text().splitlines()
    assert row.startswith("f16,")
    header = read_header(project / "out" / "antimatter-f16.gguf")
    assert (header.chat is not None) == (kind == "tuned")


def test_a_tuned_model_without_the_facts_of_its_chat_is_named(project: Path) -> None:
    weights.save(gpt(), project / "tuned")
    with pytest.raises(UserError, match=r"tuned/config\.json .* chat: run `dvc repro -f tuned`"):
        stage.main(project / "tuned", *[project] * 6)


def test_a_recorded_checkpoint_is_exported_with_its_commit(project: Path) -> None:
    weights.save(gpt(), project / "checkpoint", {"code": "12ab"})
    out = f"{{path: checkpoint, md5: {recorded.md5(project / 'checkpoint')}}}"
    (project / "dvc.lock").write_text(f"stages: {{checkpoints: {{outs: [{out}]}}}}\n")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    git.output("init", "--quiet")
    git.output("add", "dvc.lock")
    git.output(*identity, "commit", "--quiet", "--message", "results")
    head = git.output("rev-parse", "HEAD").strip()
    for name, path in (("recorded", "checkpoint"), ("loose", "checkpoint/final.safetensors")):
        assert export(f"--type f16 --windows 0 --checkpoint {path} --name {name}") == 0
    keys = read_header(project / "recorded-f16.gguf").keys
    assert (keys["antimatter.commit"], keys["antimatter.code"]) == (head, "12ab")
    assert "antimatter.commit" not in read_header(project / "loose-f16.gguf").keys


def test_the_command_takes_every_type(capsys: pytest.CaptureFixture[str]) -> None:
    """Its list is its own, as --help must not import what params.yaml needs."""
    with pytest.raises(SystemExit):
        cli.main(["export", "--type", "q1"])
    choices = capsys.readouterr().err.partition("choose from ")[2]
    assert re.findall(r"\w+", choices) == [*get_args(FileType), "hf"]


def test_git_ignores_what_export_writes_into_the_checkout() -> None:
    written = ["antimatter-q8_0.gguf", "robin-hf/config.json"]
    command = ["git", "check-ignore", *written]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == written
