"""`antimatter preset`"""

import json
import subprocess
from pathlib import Path

import pytest

from antimatter import params
from antimatter.cli import main as cli

# Without a first comment
NANO = "\n" + Path("presets/nano.yaml").read_text(encoding="utf-8")
NANO = NANO.replace("n_layer: 2", "n_layer: 4 # é")
LARGE = NANO.replace("n_layer: 4", "n_layer: 24")


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "nano.yaml").write_text(NANO)
    (tmp_path / "presets" / "300m.yaml").write_text(LARGE)
    (tmp_path / "presets" / "bad.yaml").write_text("model: [\n")
    (tmp_path / "params.yaml").write_text(NANO)
    return tmp_path


def test_a_preset_replaces_the_parameters_and_shows_the_difference(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["preset", "300m"]) == 0
    assert (presets / "params.yaml").read_text() == (presets / "presets" / "300m.yaml").read_text()
    assert "\n-  n_layer: 4 # é\n+  n_layer: 24 # é\n" in capsys.readouterr().out
    assert cli.main(["preset", "300m"]) == 0
    assert capsys.readouterr().out == "params.yaml is presets/300m.yaml already\n"


def test_without_a_name_all_presets_are_listed_with_what_they_are_for(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = presets / "presets" / "300m.yaml"
    big.write_text(f"# a large GPU\n\n{big.read_text()}")
    before = (presets / "params.yaml").read_bytes()
    assert cli.main(["preset"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # params.yaml is nano
    assert lines[:3] == ["  300m  a large GPU", "  bad", "* nano"]
    assert (presets / "params.yaml").read_bytes() == before
    for path in (presets / "presets").iterdir():
        path.unlink()
    assert cli.main(["preset"]) == 1
    assert "presets/ has no preset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [("301m", "300m, bad, nano"), ("../params", "'../params'"), ("bad", "presets/bad.yaml")],
)
def test_an_unknown_or_unreadable_preset_changes_nothing(
    presets: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    before = (presets / "params.yaml").read_bytes()
    assert cli.main(["preset", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert (presets / "params.yaml").read_bytes() == before


def test_a_preset_with_other_keys_than_the_code_changes_nothing(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = params.load(presets / "presets/300m.yaml")
    del old["model"]["residual_scale"], old["optimizer"]["kind"], old["optimizer"]["momentum"]
    del old["runtime"]["nodes"], old["conversations"]["persona"]["file"], old["loss"]
    old["spikes"]["zzz"] = 1
    # JSON is YAML 1.2
    (presets / "presets/300m.yaml").write_text(json.dumps(old))
    before = (presets / "params.yaml").read_bytes()
    assert cli.main(["preset", "300m", "--force"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: presets/300m.yaml: ") for line in lines)
    assert [line.split(": ", 2)[2].split(":")[0].split(";")[0] for line in lines] == [
        "model.residual_scale is missing",
        "section `loss` is missing",
        "optimizer.kind, optimizer.momentum are missing",
        "spikes.zzz is not a parameter",
        "conversations.persona.file is missing",
        "runtime.nodes is missing",
    ]
    assert (presets / "params.yaml").read_bytes() == before


def test_a_preset_does_not_overwrite_changes_that_are_saved_nowhere(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        subprocess.run(["git", *identity, *arguments], cwd=presets, check=True)

    mine = "model:\n  n_layer: 7\n"
    (presets / "params.yaml").write_text(mine)
    # No repository, not tracked, not committed
    for commands in ([], [("init", "--quiet")], [("add", "params.yaml")]):
        for command in commands:
            git(*command)
        assert cli.main(["preset", "300m"]) == 1
        error = capsys.readouterr().err
        assert "params.yaml" in error and "`git commit`" in error and "--force" in error
        assert (presets / "params.yaml").read_text() == mine
    git("commit", "--quiet", "--message", "mine")
    assert cli.main(["preset", "300m"]) == 0
    # Now params.yaml is a preset
    assert cli.main(["preset", "nano"]) == 0
    (presets / "params.yaml").write_text("model:\n  n_layer: 8\n")
    assert cli.main(["preset", "300m", "--force"]) == 0
    assert "n_layer: 24" in (presets / "params.yaml").read_text()


def test_a_preset_or_parameters_that_are_not_utf_8_are_one_line(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (presets / "presets/latin.yaml").write_bytes(b"model: # \xe9\n")
    before = (presets / "params.yaml").read_bytes()
    assert cli.main(["preset", "latin"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: presets/latin.yaml ") and error.count("\n") == 1
    assert (presets / "params.yaml").read_bytes() == before
    # Beside another one it does no harm
    assert cli.main(["preset", "300m"]) == 0

    (presets / "params.yaml").write_bytes(b"model: # \xe9\n")
    for options in ([], ["--force"]):
        assert cli.main(["preset", "nano", *options]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: params.yaml is not UTF-8") and error.count("\n") == 1
    assert (presets / "params.yaml").read_bytes() == b"model: # \xe9\n"


def test_a_folder_of_presets_that_is_not_readable_is_named(
    presets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    # The tests may run as root, who may read everything
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert cli.main(["preset", "nano"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: presets/ is not readable (Permission denied): ")
    assert error.count("\n") == 1


def test_a_folder_named_params_yaml_is_not_replaced(
    presets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (presets / "params.yaml").unlink()
    (presets / "params.yaml").mkdir()
    (presets / "params.yaml/kept").touch()
    assert cli.main(["preset", "nano"]) == 1
    error = capsys.readouterr().err
    assert "params.yaml is a folder" in error and error.count("\n") == 1
    assert (presets / "params.yaml/kept").exists()
