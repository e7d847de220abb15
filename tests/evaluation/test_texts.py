"""Perplexity of a user's texts, from Python and by `antimatter perplexity`."""

import gzip
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import gguf_model
from helpers.losses import one_by_one
from torch.nn import functional as F

from antimatter import files
from antimatter.cli import main as cli
from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import texts
from antimatter.evaluation.texts import Text
from antimatter.model import weights
from antimatter.model.gpt import GPT

TEXT = "def add(self, action):\n    return self.actions.append(action)  # for é\n"


def score(model: GPT, tokenizer: Tokenizer, *patterns: str, **options: Any) -> list[Text]:
    options = {"column": "text", "stride": 32, "key": "k", **options}
    return texts.score(model, tokenizer, patterns, **options)


def by_hand(model: GPT, tokenizer: Tokenizer, text: str) -> float:
    """The loss in nats of a text that fits the context."""
    ids = torch.tensor([BOS, *tokenizer.encode(text)])
    assert len(ids) <= model.config.block_size
    with torch.no_grad():
        return F.cross_entropy(model(ids[None, :-1])[0].double(), ids[1:], reduction="sum").item()


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's params.yaml and model, and texts."""
    for name in ("params.yaml", "data", "models"):
        (tmp_path / name).symlink_to(project / name)
    (tmp_path / "one.md").write_text(TEXT)
    folder = tmp_path / "folder"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("hidden")
    (folder / "a.txt").write_text("import sys\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "one two"}\n{"text": ""}\n{"text": "three"}\n')
    )
    pq.write_table(pa.table({"text": ["four", "five six"]}), folder / "sub" / "c.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_loss_of_a_text_is_that_of_its_tokens_after_bos(
    here: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    (text,) = score(model, tokenizer, "one.md")
    nats, size = by_hand(model, tokenizer, TEXT), len(TEXT.encode())
    assert text.score.tokens == len(tokenizer.encode(TEXT))
    assert text.score.bytes == size == len(TEXT) + 1
    assert text.score.nats == pytest.approx(nats, rel=1e-5)
    assert text.figures()["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert text.sha256 == files.sha256(here / "one.md")


def test_windows_changes_no_score(here: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """The tokenizer has not seen a byte-order mark or a carriage return in training."""
    windows = "\ufeff" + TEXT.replace("\n", "\r\n")
    (here / "windows.md").write_bytes(windows.encode())
    row = b"\xef\xbb\xbf" + json.dumps({"text": windows}).encode() + b"\r\n"
    (here / "windows.jsonl").write_bytes(row)
    one, two, three = score(model, tokenizer, "one.md", "windows.md", "windows.jsonl")
    assert one.score == two.score == three.score


def test_a_queued_experiment_scores_texts_that_git_does_not_track(
    here: Path,
    model: GPT,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(here))
    patterns = ["one.md", "folder", "folder/sub/*.parquet"]
    expected = score(model, tokenizer, *patterns)
    elsewhere = tmp_path_factory.mktemp("temporary")
    (elsewhere / "folder").mkdir()
    monkeypatch.chdir(elsewhere)
    assert score(model, tokenizer, *patterns) == expected
    assert {text.path for text in expected} == {
        "one.md",
        "folder/a.txt",
        "folder/sub/b.jsonl.gz",
        "folder/sub/c.parquet",
    }


def test_documents_of_a_file_do_not_see_each_other(
    here: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    lines, table = scored = score(model, tokenizer, "folder/sub")
    assert (lines.path, table.path) == ("folder/sub/b.jsonl.gz", "folder/sub/c.parquet")
    expected = sum(by_hand(model, tokenizer, text) for text in ("one two", "three"))
    assert (lines.documents, lines.score.bytes) == (2, len("one twothree"))
    assert lines.score.nats == pytest.approx(expected, rel=1e-5)
    expected = sum(by_hand(model, tokenizer, text) for text in ("four", "five six"))
    assert table.score.nats == pytest.approx(expected, rel=1e-5)
    total = texts.in_all(scored)
    assert total.nats == pytest.approx(lines.score.nats + table.score.nats)
    assert total.bytes == len("one twothreefourfive six")


def test_a_long_text_is_read_in_windows(here: Path, model: GPT, tokenizer: Tokenizer) -> None:
    (here / "long.py").write_text(gguf_model.TEXT[:2000])
    ids = np.array([BOS, *tokenizer.encode(gguf_model.TEXT[:2000])])
    (text,) = score(model, tokenizer, "long.py", stride=16)
    nats = sum(one_by_one(model, ids, stride=16))
    assert len(ids) > 500 and text.score.nats == pytest.approx(nats, rel=1e-5)


def test_a_folder_gives_its_texts_and_reports_other_files(
    here: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    stream = io.StringIO()
    scored = score(model, tokenizer, "folder", "folder/*.txt", stream=stream)
    # Each once, nothing hidden
    names = ["folder/a.txt", "folder/sub/b.jsonl.gz", "folder/sub/c.parquet"]
    assert [text.path for text in scored] == names
    assert stream.getvalue().startswith("left out: folder/picture.png is not UTF-8 text")
    assert stream.getvalue().count("\n") == 1


def test_a_long_run_shows_its_progress(
    here: Path, model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 31))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    score(model, tokenizer, "one.md", "folder/a.txt", stream=stream)
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"file 1 of 2, one\.md: \d+ tokens, \d+ tokens/s", first)
    assert second.startswith("file 2 of 2, folder/a.txt: ")


# ---- the command


def test_one_command_scores_a_text(
    here: Path, capsys: pytest.CaptureFixture[str], model: GPT, tokenizer: Tokenizer
) -> None:
    assert cli.main(["perplexity", "one.md"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["tokens", "bytes", "loss", "perplexity", "bits", "per", "byte"]
    loss = by_hand(model, tokenizer, TEXT) / len(tokenizer.encode(TEXT))
    assert row.split()[0] == "one.md" and float(row.split()[3]) == pytest.approx(loss, abs=1e-4)


def test_several_are_summed_and_programs_get_json(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["perplexity", "one.md", "folder", "--json", "--stride", "64"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["stride"] == 64 and len(output["files"]) == 4
    assert output["all"]["tokens"] == sum(one["tokens"] for one in output["files"].values())
    assert output["files"]["one.md"]["sha256"] == files.sha256(here / "one.md")
    assert cli.main(["perplexity", "one.md", "folder"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("in all")


def test_standard_input_is_a_text(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert cli.main(["perplexity", "-", "one.md"]) == 0
    _, piped, file, _ = capsys.readouterr().out.splitlines()
    assert piped.split()[1:] == file.split()[1:]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, r"the command line: absent.txt matches no file in "),
        ("no/*.txt", None, r"the command line: no/*.txt matches no file in "),
        ("empty.txt", b" \n", "empty.txt holds no text: "),
        ("empty.jsonl", b"", "empty.jsonl is empty: "),
        ("blank.jsonl", b'{"text": ""}\n', "blank.jsonl holds no text: "),
        ("rubbish", bytes(range(128, 256)), "rubbish is not UTF-8 text: "),
        ("zeros.txt", b"\0" * 50, "zeros.txt is not text: "),
        ("half", "é".encode()[:1], "half is not UTF-8 text: "),
        ("other.jsonl", b'{"body": "x"}\n', "other.jsonl, line 1 has no column `text`: "),
        ("bad.parquet", b"PAR1", "bad.parquet cannot be read"),
    ],
)
def test_a_file_that_is_not_text_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (here / name).write_bytes(content)
    assert cli.main(["perplexity", "one.md", name]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith(f"error: {words}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--stride", "65"), "--stride must lie between 1 and the model's context of 64, got 65"),
        (("--stride", "0"), "--stride must lie between 1 and the model's context of 64, got 0"),
        (("--checkpoint", "absent"), "absent is missing: "),
        (("--checkpoint", "one.md"), "one.md "),
        (("--tokenizer", "absent"), "absent/tokenizer.json is missing: "),
        (
            ("--tokenizer", "larger"),
            "the tokenizer has 410 tokens, the model was trained with 400: ",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    gguf_model.save_tokenizer(here / "larger", vocab_size=410)
    assert cli.main(["perplexity", "one.md", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith(f"error: {words}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x.jsonl",), "x.jsonl, line 1 has no column `text`: set --text-column to one of body"),
        # Not the whole working directory
        (("",), "the command line: a pattern is empty: name a file, a folder or a glob pattern"),
    ],
)
def test_what_the_command_line_lacks_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    (here / "x.jsonl").write_text(json.dumps({"body": TEXT}))
    assert cli.main(["perplexity", *arguments]) == 1
    assert capsys.readouterr().err == f"error: {words}\n"


def test_another_checkpoint_and_column_can_be_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.save(gguf_model.gpt(seed=2), here / "other")
    (here / "x.jsonl").write_text(json.dumps({"body": TEXT}))
    assert cli.main(["perplexity", "x.jsonl", "--text-column", "body"]) == 0
    other = ["--checkpoint", "other", "--tokenizer", "data/tokenizer/tokenizer.json"]
    assert cli.main(["perplexity", "x.jsonl", "--text-column", "body", *other]) == 0
    _, first, _, second = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == second.split()[:3] and first != second
