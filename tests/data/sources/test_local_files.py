"""Text in a user's files: of each kind, and what is wrong with them as one line."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antimatter.data.documents import Document
from antimatter.data.sources import local, paths
from antimatter.data.sources.paths import FilesConfig
from antimatter.errors import UserError

TEXTS = ["One text.\nOf two lines.", 'Naïve "quotes" \\ and 日本語', "The last"]


def read(pattern: Path, column: str = "text") -> Iterator[Document]:
    config = FilesConfig(pattern=str(pattern), text_column=column, licence="unknown")
    for part in paths.parts([config], 100, "raw.files"):
        yield from local.read(part)


def texts(pattern: Path, column: str = "text") -> list[str]:
    return [document.text for document in read(pattern, column)]


def write_lines(path: Path) -> None:
    content = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in TEXTS).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json.gz"])
def test_lines_of_json_are_read(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / name)
    pattern = tmp_path / "*"
    assert list(read(pattern)) == [
        Document(f"{tmp_path / name}:{number}", text, str(pattern), "unknown")
        for number, text in enumerate(TEXTS, 1)
    ]


def test_parquet_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": TEXTS, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "*.parquet", "content") == TEXTS


def test_a_text_file_is_a_document(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
    assert texts(tmp_path / "*.txt") == TEXTS


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d"}')
    assert texts(tmp_path / "a.jsonl") == ["half ?"]


def test_a_text_of_windows_is_that_of_linux(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffOne line.\r\nAnother, with é.\r\n".encode())
    assert texts(tmp_path / "a.txt") == ["One line.\nAnother, with é.\n"]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n')
    assert texts(tmp_path / "a.jsonl") == ["one", "two"]


GOOD = b'{"text": "good"}\n'
FAULTS = [
    ("a.jsonl", GOOD + b'{"text": \n', r"a\.jsonl, line 2 is not JSON .*: correct the line"),
    ("a.jsonl", GOOD + b'["text"]\n', r"line 2 must be a JSON object .*, got \['text'\]"),
    (
        "a.jsonl",
        b'{"url": "x", "body": "y"}\n',
        r"line 1 has no column `text`: set text_column of raw\.files to one of url, body",
    ),
    (
        "a.jsonl",
        b'{"text": 7}\n',
        r"line 1 has no text in `text`, but 7: .*text_column of raw\.files",
    ),
    ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", r"line 1 is not JSON .*4300 digits"),
    ("a.jsonl", b"[" * 100_000, r"row 1 is not JSON"),
    ("a.jsonl", "größe".encode() * 9 + b"\xff\n" + GOOD, r"a\.jsonl, line 1 is not UTF-8"),
    ("a.jsonl", b"", r"a\.jsonl is empty"),
    ("a.txt", b" \n", r"a\.txt holds no text"),
    ("a.txt", bytes(range(128, 256)), r"a\.txt is not text"),
    ("a.jsonl.gz", b"no gzip at all", r"a\.jsonl\.gz cannot be read"),
    ("a.parquet", b"no parquet at all", r"a\.parquet cannot be read"),
    ("a.docx", b"x", r"a\.docx is of an unknown kind: raw\.files takes \.txt"),
]


@pytest.mark.parametrize(("name", "content", "message"), FAULTS)
def test_a_bad_file_is_named_with_its_fault(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        texts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    write_lines(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz"):
        texts(path)


def test_parquet_without_a_column_of_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": TEXTS, "n": [1, 2, 3]}), path)
    with pytest.raises(UserError, match=r"no column `text`: set text_column .* one of content, n"):
        texts(path)
    with pytest.raises(UserError, match=r"row 1 has no text in `n`, but 1: .*text_column"):
        texts(path, "n")


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raw\.files: .*nothing\*\.jsonl matches no file"):
        texts(tmp_path / "nothing*.jsonl")
