"""`antimatter push hf`: huggingface_hub uploads to a server on loopback, as it would to the hub."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from helpers import model_hub
from helpers.command import ROOT, antimatter
from helpers.gguf_model import CHAT, Tiny, gpt
from helpers.model_hub import OTHER_TOKEN, TOKEN, ModelHub, Repository
from huggingface_hub import HfApi, constants

import antimatter as entry
from antimatter import files
from antimatter.cli import main as cli
from antimatter.cli.push import _card
from antimatter.errors import UserError
from antimatter.export import huggingface
from antimatter.export.hub import check_card
from antimatter.export.source import open_checkpoint
from antimatter.model import weights

# Of huggingface_hub, when it sends a large file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CARD = "---\nlicense: mit\n---\n\n# Tiny\n"
Push = Callable[..., "Done"]


@pytest.fixture
def server() -> Iterator[ModelHub]:
    with model_hub.running() as server:
        yield server


@pytest.fixture
def project(tiny: Tiny, tmp_path: Path) -> Path:
    weights.save(gpt(), tmp_path / "tuned", {"code": "12ab"}, chat=CHAT)
    words = tiny.tokenizer_folder / "tokenizer.json"
    huggingface.write(open_checkpoint(tmp_path / "tuned"), words, tmp_path / "antimatter-hf")
    (tmp_path / "card.md").write_text(CARD)
    shutil.copy(tiny.chat_path, tmp_path / "tiny-f16.gguf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    lines: list[str]  # of stderr

    @property
    def error(self) -> str:
        assert self.status == 1, self
        (line,) = (line for line in self.lines if line.startswith("error: "))
        return line


@pytest.fixture
def push(
    project: Path,
    server: ModelHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Push:
    """The command in this process, which has read the environment already."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # Without a login of this machine
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(project / "token"))

    def call(*arguments: str, **environment: str) -> Done:
        for name, value in {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, **environment}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = cli.main(["push", "hf", "--card", "card.md", *arguments])
        output = capsys.readouterr()
        return Done(status, output.out, output.err.splitlines())

    return call


def test_the_files_arrive_and_are_a_model(
    project: Path, push: Push, server: ModelHub, tmp_path: Path
) -> None:
    environment = {
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HOME": str(project / "home"),
    }
    command = "push hf me/tiny --gguf tiny-f16.gguf --private --card card.md"
    first = antimatter(project, *command.split(), **environment)
    assert first.returncode == 0, first.stderr
    assert re.fullmatch(rb"http://\S+/me/tiny/commit/\w{40}: 7 files, [\d.]+ MB\n", first.stdout)
    repository = server.repositories["me/tiny"]
    assert repository.private
    sent = dict(repository.branches["main"])
    assert sent.pop("README.md").decode() == CARD
    assert sent.pop("tiny-f16.gguf") == (project / "tiny-f16.gguf").read_bytes()
    assert sent.keys() == set(huggingface.NAMES)
    for name, content in sent.items():
        assert content == (project / "antimatter-hf" / name).read_bytes()
        (tmp_path / "back").mkdir(exist_ok=True)
        (tmp_path / "back" / name).write_bytes(content)
    again = entry.load(tmp_path / "back")
    ours = entry.load(project / "antimatter-hf")
    question = [{"role": "user", "content": "Hi"}]
    assert again.chat(question, temperature=0) == ours.chat(question, temperature=0)
    # Nothing to do the second time
    done = push("me/tiny", "--gguf", "tiny-f16.gguf")
    assert done.out == "me/tiny has these files already\n"
    assert repository.commits["main"] == 2


def test_nothing_is_replaced_unless_asked(push: Push, server: ModelHub, project: Path) -> None:
    held = {"README.md": b"mine", "model.safetensors": b"mine", "notes.txt": b"mine"}
    server.repositories["me/tiny"] = Repository(False, {"main": dict(held)})
    error = push("me/tiny").error
    assert "me/tiny has other files of these names: README.md, model.safetensors: " in error
    assert "--replace" in error
    assert server.repositories["me/tiny"].branches["main"] == held
    done = push("me/tiny", "--replace")
    assert done.status == 0, done
    lines = [line.split() for line in done.lines]
    assert ["kept", "notes.txt"] in lines
    assert {line[0] for line in lines if line[-1] in ("README.md", "model.safetensors")} == {
        "changed"
    }
    sent = server.repositories["me/tiny"].branches["main"]
    assert sent["README.md"] == CARD.encode() and sent["notes.txt"] == b"mine"


def test_another_branch_leaves_main_alone(push: Push, server: ModelHub) -> None:
    server.repositories["me/tiny"] = Repository(False, {"main": {"a.txt": b"mine"}})
    assert push("me/tiny", "--revision", "v2").status == 0
    branches = server.repositories["me/tiny"].branches
    assert branches["main"] == {"a.txt": b"mine"}
    assert "model.safetensors" in branches["v2"]


def test_a_dry_run_lists_files_and_sizes_without_a_connection(push: Push, project: Path) -> None:
    done = push(
        "me/tiny", "--dry-run", "--gguf", ".", HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN=""
    )
    assert done.status == 0, done
    rows = [line.split(maxsplit=1) for line in done.out.splitlines()]
    sizes = {name: int(size.replace(",", "")) for size, name in rows[:-1]}
    assert (
        sizes["model.safetensors"] == (project / "antimatter-hf/model.safetensors").stat().st_size
    )
    assert sizes["README.md"] == len(CARD) and "tiny-f16.gguf" in sizes
    assert rows[-1][1] == "bytes for me/tiny, nothing was uploaded"
    assert int(rows[-1][0].replace(",", "")) == sum(sizes.values())


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["me/tiny"], {"HF_TOKEN": ""}, "there is no token for the hub: set HF_TOKEN"),
        (["me/tiny"], {"HF_TOKEN": "hf_wrong"}, "refuses the token for me/tiny (401"),
        (["me/tiny"], {"HF_TOKEN": OTHER_TOKEN}, "may not write to me/tiny (403"),
        (["you/tiny"], {}, "may not write to you/tiny (403"),
        (["me/tiny"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "no connection to http://127.0.0.1:9"),
        (["tiny"], {}, "the repository must be owner/name, got 'tiny'"),
        (["tiny", "--dry-run"], {}, "the repository must be owner/name, got 'tiny'"),
        (["me/t y", "--dry-run"], {}, "must be owner/name, got 'me/t y': Repo id must use alpha"),
        (["me/t/y", "--dry-run"], {}, "must be owner/name, got 'me/t/y'"),
        (["me/t\u00e9", "--dry-run"], {}, "must be owner/name, got"),
        (["me/t.git", "--dry-run"], {}, "'me/t.git': Repo_id cannot end by '.git'"),
        (["me/tiny", "--folder", "tuned"], {}, "tuned is no folder for transformers"),
        (["me/tiny", "--folder", "absent"], {}, "absent is no folder for transformers"),
        (["me/tiny", "--gguf", "absent.gguf"], {}, "absent.gguf is missing"),
        (["me/tiny", "--gguf", "tuned"], {}, "tuned has no .gguf file"),
        (["me/tiny", "--gguf", "card.md"], {}, "card.md is not a GGUF file"),
        (["me/tiny", "--card", "absent.md"], {}, "absent.md: No such file"),
        (["me/tiny", "--card", "own.md"], {}, "the hub does not accept it: Invalid metadata in"),
    ],
)
def test_what_goes_wrong_is_one_line_and_changes_nothing(
    push: Push,
    server: ModelHub,
    project: Path,
    arguments: list[str],
    environment: dict[str, str],
    words: str,
) -> None:
    (project / "own.md").write_text(CARD.replace("mit", "own"))
    assert words in push(*arguments, **environment).error
    assert not any(one.branches["main"] for one in server.repositories.values())


def test_offline_mode_is_named(push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it" in push("me/tiny").error


def test_a_storage_that_cannot_be_reached_is_named(
    push: Push, server: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hf_xet fails, after more than a minute of tries."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Network error: error sending request")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", fail)
    error = push("me/tiny").error
    assert "Network error" in error and "HF_HUB_DISABLE_XET=1" in error
    assert server.repositories["me/tiny"].branches["main"] == {}


def test_a_branch_that_changes_meanwhile_is_not_overwritten(push: Push, server: ModelHub) -> None:
    repository = Repository(False, {"main": {}})
    server.repositories["me/tiny"] = repository
    server.between = lambda: repository.commits.update(main=5)
    assert "me/tiny has changed meanwhile" in push("me/tiny").error
    assert repository.branches["main"] == {}


@pytest.mark.parametrize(
    "text", ["# Tiny\n", "---\nlicence: mit\n---\n", "---\n- a\n---\n", "---\na: [\n---\n"]
)
def test_a_card_without_a_license_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="model card"):
        check_card(text)


def test_the_card_is_that_of_the_last_run_if_the_folder_is(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_pipeline)
    source = open_checkpoint(tiny_pipeline / "models/tuned")
    words = tiny_pipeline / "data/tokenizer/tokenizer.json"
    huggingface.write(source, words, tmp_path / "hf")
    text = _card(tmp_path / "hf", None)
    check_card(text)
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata == {
        "license": "mit",
        "language": "en",
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["antimatter", "gguf", "conversational"],
    }
    # Of files that are not in the repository of the hub
    assert "](../" not in text and "`metrics/answers/conversations.yaml`" in text
    config = files.read_json(tmp_path / "hf/config.json")
    files.write_json(tmp_path / "hf/config.json", {**config, "transformers_version": "5"})
    with pytest.raises(UserError, match="does not hold the model of the last run"):
        _card(tmp_path / "hf", None)
