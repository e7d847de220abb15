"""Own texts through the pipeline: a book trains and validates, and faults cost what they are."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from helpers import own_texts
from helpers.own_texts import ENGLISH, GERMAN, PACKINGS, TEXTS
from helpers.prose import PROSE

from antimatter import params
from antimatter.data.cleaning import pipeline
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.sources import collect, local
from antimatter.data.sources.config import RawConfig
from antimatter.data.sources.faults import Report
from antimatter.data.sources.paths import FilesConfig
from antimatter.errors import UserError
from antimatter.tasks.config import TasksRuntime

ROOT = Path(__file__).parents[3]
Collect = Callable[..., tuple[list[dict[str, str]], Report]]


@pytest.fixture
def read(tmp_path: Path, runtime: TasksRuntime, monkeypatch: pytest.MonkeyPatch) -> Collect:
    """Collects tmp_path/corpus, and returns the rows and what was read."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def collected(name: str = "raw", workers: int = 1, **changes: Any) -> Any:
        values = params.load(ROOT / "params.yaml")["raw"] | {"source": "files", "file_mb": 0.02}
        config = params.build(RawConfig, values | changes, "params.yaml: raw")
        report = Report()
        folder, work = tmp_path / name, tmp_path / f"work {name}"
        many = dataclasses.replace(runtime, workers=workers)
        collect.write(config, folder, work, many, report)
        paths = sorted(folder.glob("*.parquet"))
        return [row for path in paths for row in pq.read_table(path).to_pylist()], report

    return collected


def test_a_book_becomes_hundreds_of_documents_of_whole_paragraphs(
    tmp_path: Path, read: Collect
) -> None:
    book = own_texts.book(chapters=110)
    assert 1e6 < len(book) < 1.1e6
    own_texts.write(tmp_path, {"corpus/book.txt": book.encode()})
    rows, _ = read()
    assert len(rows) > 250
    assert [row["id"] for row in rows[:2]] == ["corpus/book.txt:1", "corpus/book.txt:2"]
    assert max(len(row["text"].encode()) for row in rows) <= 4000
    # The words of the book in its order, and no line that is wrapped
    assert " ".join(row["text"] for row in rows).split() == book.split()
    for row in rows:
        for line in filter(None, row["text"].split("\n")):
            assert line.endswith(".") or line.startswith("CHAPTER")
    assert sum(row["text"].startswith("CHAPTER") for row in rows) == 110


def test_wrapped_prose_survives_the_cleaning_as_its_paragraphs_do(
    tmp_path: Path, read: Collect, runtime: TasksRuntime
) -> None:
    """The rules for lines of web pages would drop most of the wrapped text."""
    paragraphs = [" ".join(text.split()) for text in PROSE for text in text.split("\n\n")]
    good = [text for text in paragraphs if len(text) > 300 and "  " not in text][:150]
    wrapped = "\n\n".join(textwrap.fill(text, 72) for text in good).encode()
    own_texts.write(tmp_path, {"wrapped/a.txt": wrapped, "whole/a.txt": "\n\n".join(good).encode()})
    config = params.read(CleanConfig, "cleaned", ROOT / "params.yaml")
    sizes = {}
    for name, files, join in (
        ("whole", "whole", True),
        ("joined", "wrapped", True),
        ("wrapped", "wrapped", False),
    ):
        read(name, files=[files], join_lines=join)
        sizes[name] = pipeline.clean(
            tmp_path / name, tmp_path / f"c {name}", config, runtime
        ).bytes_out
    assert sizes["joined"] > 0.94 * sizes["whole"] > 30_000
    assert sizes["wrapped"] < 0.4 * sizes["whole"]


MIXED = {
    "corpus/a book.txt": own_texts.book(3).encode("utf-16"),
    "corpus/notes [2020]/one.md": f"# One\n\n{ENGLISH}".encode(),
    "corpus/notes [2020]/zwei.txt": GERMAN.replace("„", '"').replace("“", '"').encode("latin-1"),
    "corpus/page.html": own_texts.PAGE.encode(),
    "corpus/rows.csv": own_texts.table(TEXTS, ";"),
    "corpus/rows.json.gz": PACKINGS[".gz"](own_texts.json_array(TEXTS, 2)),
    "corpus/lines.jsonl.zst": PACKINGS[".zst"](own_texts.json_lines(TEXTS * 30)),
    "corpus/some.zip": own_texts.archive({"x/a.txt": b"one", "b.epub": own_texts.epub(["<p>two"])}),
    "corpus/picture.png": b"\x89PNG",
}


def test_the_bytes_are_the_same_with_any_number_of_workers(tmp_path: Path, read: Collect) -> None:
    own_texts.write(tmp_path, MIXED)
    one, report = read("one")
    two, again = read("two", workers=2)
    assert one == two and report == again
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert first == second and len(first) == 5
    kinds = {kind: counts["files"] for kind, counts in report.summary()["kinds"].items()}
    assert kinds == {"csv": 1, "epub": 1, "html": 1, "json": 2, "markdown": 1, "txt": 3}


BROKEN = own_texts.json_lines(TEXTS) + b'{"text": "torn\n' + own_texts.json_lines(TEXTS)


def test_faults_are_skipped_up_to_a_share_and_named(tmp_path: Path, read: Collect) -> None:
    own_texts.write(
        tmp_path,
        {
            "corpus/a.jsonl": BROKEN,
            "corpus/b.txt": b"",
            "corpus/c.txt": bytes(range(256)),
            "corpus/good.jsonl": own_texts.json_lines(TEXTS * 10),
            "corpus/photo.jpg": b"",
        },
    )
    rows, report = read(max_skipped=0.05)
    assert [row["text"] for row in rows] == TEXTS * 12
    skipped = report.summary()["skipped"]
    assert {fault["file"]: fault["line"] for fault in skipped["listed"]} == {
        "corpus/a.jsonl": 5,
        "corpus/b.txt": 0,
        "corpus/c.txt": 0,
    }
    assert skipped["bytes"] == len('{"text": "torn\n') + 256
    assert skipped["other_kinds"] == {".jpg": 1}
    assert json.loads(json.dumps(report.summary())) == report.summary()
    for limit in (0, 0.001):
        with pytest.raises(UserError) as error:
            read(max_skipped=limit)
        *faults, last = str(error.value).split("\nerror: ")
        assert len(faults) == 3 and faults[0].startswith("corpus/a.jsonl, line 5 is not JSON")
        assert last.startswith("raw: faults: 3, 1.35% of the bytes, ")
        assert f"raw.max_skipped is {limit:g}: " in last


def test_another_limit_or_a_corrected_file_reads_nothing_twice(
    tmp_path: Path, read: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = own_texts.json_lines(TEXTS * 10)
    files = {f"corpus/{n}.jsonl": lines for n in range(4)} | {"corpus/2.jsonl": lines + BROKEN}
    own_texts.write(tmp_path, files)
    with pytest.raises(UserError, match=r"2\.jsonl, line 45 is not JSON"):
        read(max_skipped=0)
    opened, read_part = list[str](), local.read

    def spy(part: Any, report: Report) -> Any:
        opened.extend(part.paths)
        return read_part(part, report)

    monkeypatch.setattr(local, "read", spy)
    rows, report = read(max_skipped=0.5)
    assert opened == [] and report.counts["faults"] == 1
    own_texts.write(tmp_path, {"corpus/2.jsonl": lines})
    rows, report = read(max_skipped=0)
    assert opened == ["corpus/2.jsonl"] and len(rows) == 4 * 40


def test_files_without_any_text_are_an_error(tmp_path: Path, read: Collect) -> None:
    own_texts.write(tmp_path, {"corpus/a.jsonl": b'{"text": ""}\n'})
    with pytest.raises(UserError, match=r"raw\.files: no file holds any text"):
        read(max_skipped=0.5)


def test_lines_and_documents_may_be_kept_as_they_are(tmp_path: Path, read: Collect) -> None:
    book = own_texts.book(3)
    own_texts.write(tmp_path, {"corpus/book.txt": book.encode()})
    ((row,), _) = read(join_lines=False, document_kb=0)
    assert row["text"] == book


def test_a_long_row_is_cut_and_its_pieces_are_named(tmp_path: Path, read: Collect) -> None:
    long = "\n\n".join(own_texts.prose(60))
    own_texts.write(tmp_path, {"corpus/a.jsonl": own_texts.json_lines([ENGLISH, long])})
    rows, _ = read()
    assert [row["id"] for row in rows[:3]] == [f"corpus/a.jsonl:{n}" for n in ("1", "2.1", "2.2")]
    assert "\n\n".join(row["text"] for row in rows[1:]) == long


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["corpus"], ("corpus", "", "unknown")),
        ([{"pattern": "corpus"}], ("corpus", "", "unknown")),
        ([{"pattern": "corpus", "licence": "MIT"}], ("corpus", "", "MIT")),
        (
            [{"pattern": "a/*.csv", "text_column": "body", "licence": "MIT"}],
            ("a/*.csv", "body", "MIT"),
        ),
    ],
)
def test_a_source_is_a_pattern_or_a_section(files: list[Any], expected: tuple[str, ...]) -> None:
    values = params.load(ROOT / "params.yaml")["raw"] | {"files": files}
    (config,) = params.build(RawConfig, values, "raw").files
    assert config == FilesConfig(
        **dict(zip(("pattern", "text_column", "licence"), expected, strict=True))
    )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([3], r"raw\.files\[0\] must be a section of `key: value`, got 3"),
        ([{"licence": "MIT"}], r"raw\.files\[0\]\.pattern is missing"),
        (
            [{"pattern": "a", "text_colum": "b"}],
            r"text_colum \(.*`text_column`\?\) is not a parameter",
        ),
        ("corpus", r"raw\.files must be a list, got 'corpus'"),
    ],
)
def test_other_forms_of_a_source_are_refused(files: Any, words: str) -> None:
    values = params.load(ROOT / "params.yaml")["raw"] | {"files": files}
    with pytest.raises(UserError, match=words):
        params.build(RawConfig, values, "raw")


def test_the_stage_prints_and_records_what_it_read(tmp_path: Path) -> None:
    own_texts.write(tmp_path, MIXED | {"corpus/empty.txt": b""})
    values = params.load(ROOT / "params.yaml")
    values["raw"]["source"] = "files"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    for name in ("antimatter", "prompts", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "stages.raw", "corpus", "data/raw", "metrics", "plots"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "raw: json: files 2, documents 124, 0.1 MB" in lines
    assert "raw: csv: files 1, documents 4, 1.7 kB" in lines
    assert "raw: epub: files 1, documents 1, 3 bytes" in lines
    assert "raw: encodings besides UTF-8: 1 UTF-16 LE, 1 cp1252" in lines
    assert any(line.startswith("raw: guessed encodings: corpus/notes") for line in lines)
    assert "raw: not read, of other kinds: 1 .png" in lines
    assert any(line.startswith("raw: skipped 0.00% of the bytes, faults: 1; ") for line in lines)
    metrics = json.loads((tmp_path / "metrics/summary.json").read_text())
    assert metrics["kinds"]["csv"]["documents"] == len(TEXTS)
    assert metrics["skipped"]["listed"][0]["file"] == "corpus/empty.txt"
    assert metrics["documents"] == sum(one["documents"] for one in metrics["kinds"].values())


def test_other_sources_record_what_they_did_before() -> None:
    assert Report().summary() == {} and list(Report().lines()) == []
