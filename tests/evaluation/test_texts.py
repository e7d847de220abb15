"""Texts of one's own, from Python and by `antimatter perplexity`, as a user types it."""

import gzip
import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import gguf_model
from torch.nn import functional as F

from antimatter import cli, files
from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import texts
from antimatter.model import weights
from antimatter.model.gpt import GPT

TEXT = "def add(self, action):\n    return self.actions.append(action)  # for é\n"


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


def test_a_text_costs_what_its_tokens_cost_after_a_beginning(
    here: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    (found,) = texts.score(model, tokenizer, ["one.md"], column="text", stride=32, key="k")
    nats = by_hand(model, tokenizer, TEXT)
    assert (
        found.score.tokens == len(tokenizer.encode(TEXT))
        and found.score.bytes == len(TEXT.encode()) == len(TEXT) + 1
    )
    assert found.score.nats == pytest.approx(nats, rel=1e-5)
    assert found.figures()["bits_per_byte"] == pytest.approx(
        nats / math.log(2) / len(TEXT.encode()), rel=1e-5
    )
    assert found.sha256 == files.sha256(here / "one.md")


def test_windows_changes_no_score(here: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """A byte-order mark and carriage returns are no text: the tokenizer never learnt them."""
    windows = "\ufeff" + TEXT.replace("\n", "\r\n")
    (here / "windows.md").write_bytes(windows.encode())
    (here / "windows.jsonl").write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"text": windows}).encode() + b"\r\n"
    )
    found = texts.score(
        model,
        tokenizer,
        ["one.md", "windows.md", "windows.jsonl"],
        column="text",
        stride=32,
        key="k",
    )
    assert found[0].score == found[1].score == found[2].score


def test_a_queued_experiment_scores_texts_that_git_does_not_track(
    here: Path,
    model: GPT,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(here))
    patterns = ["one.md", "folder", "folder/sub/*.parquet"]
    expected = texts.score(model, tokenizer, patterns, column="text", stride=32, key="k")
    elsewhere = tmp_path_factory.mktemp("temporary")
    (elsewhere / "folder").mkdir()
    monkeypatch.chdir(elsewhere)
    assert texts.score(model, tokenizer, patterns, column="text", stride=32, key="k") == expected
    assert {text.path for text in expected} == {
        "one.md",
        "folder/a.txt",
        "folder/sub/b.jsonl.gz",
        "folder/sub/c.parquet",
    }


def test_documents_of_a_file_do_not_see_each_other(
    here: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    found = {
        text.path: text
        for text in texts.score(model, tokenizer, ["folder/sub"], column="text", stride=32, key="k")
    }
    expected = sum(by_hand(model, tokenizer, text) for text in ("one two", "three"))
    assert found["folder/sub/b.jsonl.gz"].documents == 2 and found[
        "folder/sub/b.jsonl.gz"
    ].score.bytes == len("one twothree")
    assert found["folder/sub/b.jsonl.gz"].score.nats == pytest.approx(expected, rel=1e-5)
    assert found["folder/sub/c.parquet"].score.nats == pytest.approx(
        sum(by_hand(model, tokenizer, t) for t in ("four", "five six")), rel=1e-5
    )
    total = texts.in_all(list(found.values()))
    assert total.nats == pytest.approx(
        sum(text.score.nats for text in found.values())
    ) and total.bytes == len("one twothreefourfive six")


def test_a_long_text_is_read_in_windows(here: Path, model: GPT, tokenizer: Tokenizer) -> None:
    (here / "long.py").write_text(gguf_model.TEXT[:2000])
    ids = np.array([BOS, *tokenizer.encode(gguf_model.TEXT[:2000])])
    (found,) = texts.score(model, tokenizer, ["long.py"], column="text", stride=16, key="k")
    nats = 0.0
    for target in range(1, len(ids)):
        start = max(0, -(-(target - 64) // 16)) * 16
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[start:target])[None])[:, -1].double()
        nats += F.cross_entropy(logits, torch.tensor([ids[target]])).item()
    assert len(ids) > 500 and found.score.nats == pytest.approx(nats, rel=1e-5)


def test_a_folder_gives_its_texts_and_tells_what_is_none(
    here: Path, model: GPT, tokenizer: Tokenizer
) -> None:
    said = io.StringIO()
    found = texts.score(
        model, tokenizer, ["folder", "folder/*.txt"], column="text", stride=32, key="k", stream=said
    )
    assert [text.path for text in found] == [
        "folder/a.txt",
        "folder/sub/b.jsonl.gz",
        "folder/sub/c.parquet",
    ]  # each once, nothing hidden
    assert (
        said.getvalue().startswith("left out: folder/picture.png is no UTF-8 text")
        and said.getvalue().count("\n") == 1
    )


def test_progress_is_told_to_who_waits(
    here: Path, model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 31))
    monkeypatch.setattr(texts.time, "monotonic", lambda: next(clock))
    said = io.StringIO()
    texts.score(
        model, tokenizer, ["one.md", "folder/a.txt"], column="text", stride=32, key="k", stream=said
    )
    assert (
        said.getvalue().splitlines()[0].startswith("file 1 of 2, one.md: ")
        and "tokens/s" in said.getvalue()
    )


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
    found = json.loads(capsys.readouterr().out)
    assert found["stride"] == 64 and len(found["files"]) == 4
    assert found["all"]["tokens"] == sum(one["tokens"] for one in found["files"].values())
    assert found["files"]["one.md"]["sha256"] == files.sha256(here / "one.md")
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
        ("empty.txt", b" \n", "empty.txt is empty: "),
        ("empty.jsonl", b"", "empty.jsonl is empty: "),
        ("blank.jsonl", b'{"text": ""}\n', "blank.jsonl is empty: "),
        ("rubbish", bytes(range(128, 256)), "rubbish is no UTF-8 text ("),
        ("zeros.txt", b"\0" * 50, "zeros.txt is no text, it holds zero bytes: "),
        ("half.txt", "é".encode()[:1], "half.txt is no UTF-8 text ("),
        ("other.jsonl", b'{"body": "x"}\n', "other.jsonl, line 1 has no column `text`: "),
        ("bad.parquet", b"PAR1", "bad.parquet cannot be read"),
    ],
)
def test_what_is_no_text_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (here / name).write_bytes(content)
    assert cli.main(["perplexity", "one.md", name]) == 1
    shown = capsys.readouterr()
    assert (
        shown.out == "" and shown.err.startswith(f"error: {words}") and shown.err.count("\n") == 1
    )


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
    shown = capsys.readouterr()
    assert (
        shown.out == "" and shown.err.startswith(f"error: {words}") and shown.err.count("\n") == 1
    )


def test_another_checkpoint_and_column_can_be_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.save(gguf_model.gpt(seed=2), here / "other")
    (here / "x.jsonl").write_text(json.dumps({"body": TEXT}))
    assert cli.main(["perplexity", "x.jsonl", "--text-column", "body"]) == 0
    assert (
        cli.main(
            [
                "perplexity",
                "x.jsonl",
                "--text-column",
                "body",
                "--checkpoint",
                "other",
                "--tokenizer",
                "data/tokenizer/tokenizer.json",
            ]
        )
        == 0
    )
    _, first, _, second = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == second.split()[:3] and first != second
