"""Archives, and what is wrong with own texts: each fault costs what it is, and is named."""

import os
import socket
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import own_texts
from helpers.own_reader import FILE, read, texts
from helpers.own_texts import CHINESE, ENGLISH, GERMAN, PACKINGS, TEXTS

from antimatter.data.sources import encodings, json_rows, kinds, local, opened, paths, tables
from antimatter.data.sources.faults import Report
from antimatter.data.sources.paths import FilesConfig, Reading
from antimatter.errors import UserError

# ---- archives


def test_the_members_of_a_zip_are_files(tmp_path: Path) -> None:
    members = {
        "b/two.txt": GERMAN.encode("cp1252"),
        "a one.md": f"# One\n\n{ENGLISH}".encode(),
        "rows.jsonl.gz": PACKINGS[".gz"](own_texts.json_lines(TEXTS)),
        "table.parquet": own_texts.parquet(pa.array(TEXTS)),
        "__MACOSX/._a one.md": b"\0",
        ".hidden/x.txt": b"hidden",
        "picture.jpg": b"\xff\xd8",
        "inner.zip": own_texts.archive({"c.txt": b"c"}),
    }
    path = tmp_path / "a.zip"
    path.write_bytes(own_texts.archive(members))
    documents, report = read(tmp_path)
    expected = [f"# One\n\n{ENGLISH}", GERMAN, *TEXTS, *TEXTS]
    assert [document.text for document in documents] == expected
    names = [document.id for document in documents]
    assert names[:3] == [f"{path}/a one.md:1", f"{path}/b/two.txt:1", f"{path}/rows.jsonl.gz:1"]
    assert (report.counts["other .jpg"], report.counts["other .zip"]) == (1, 1)


def test_an_encrypted_member_is_skipped_and_named(tmp_path: Path) -> None:
    data = bytearray(own_texts.archive({"a.txt": b"one", "b.txt": b"two"}))
    # The flag of encryption, in the first header of the archive and in its directory
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == ["two"]
    assert report.messages[0].startswith(f"{tmp_path}/a.zip/a.txt is encrypted: ")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.csv.xz", "a.txt.bz2", "a.zip"])
def test_a_bomb_is_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(opened, "FREE", 1_000_000)
    bomb = b"text\n" + b"x" * 50_000_000
    packing = Path(name).suffix
    content = own_texts.archive({"b.txt": bomb}) if packing == ".zip" else PACKINGS[packing](bomb)
    (tmp_path / name).write_bytes(content)
    documents, report = read(tmp_path)
    assert documents == []
    assert "unpacks to more than 200 times its size" in report.messages[0]


# ---- faults


BROKEN = {
    "truncated.txt.gz": PACKINGS[".gz"](ENGLISH.encode() * 50)[:-20],
    "truncated.jsonl.zst": PACKINGS[".zst"](own_texts.json_lines(TEXTS * 50))[:-20],
    "truncated.csv.xz": PACKINGS[".xz"](own_texts.table(TEXTS * 50))[:-20],
    "truncated.txt.bz2": PACKINGS[".bz2"](ENGLISH.encode() * 50)[:-20],
    "truncated.zip": own_texts.archive({"a.txt": ENGLISH.encode()})[:-30],
    "not.gz.txt.gz": b"plain text",
    "truncated.parquet": own_texts.parquet(pa.array(TEXTS))[:-20],
    "no.parquet": b"PAR1",
    "not.epub": b"plain text",
    "empty.epub": own_texts.archive({"mimetype": b"x"}),
    "rubbish.txt": bytes(range(256)) * 20,
    "rubbish.json": bytes(range(256)),
    "deep.json": b"[" * 200_000,
    "deep.jsonl": b'{"text": "a"}\n' + b'{"a":' * 200_000 + b"\n",
    "cut.json": own_texts.json_array(TEXTS)[:-9],
    "pretty cut.json": own_texts.json_array(TEXTS, 2)[:-9],
    "number.json": b"5",
    "empty.txt": b"",
    "blank.md": b" \n\n",
    "empty.jsonl": b"",
    "empty.json": b"[]",
    "header.csv": b"id,text\n",
    "empty.parquet": own_texts.parquet(pa.array([], pa.string())),
    "empty.html": b"<html><body><script>x</script></body></html>",
    "empty.zip": own_texts.archive({}),
    "zeros.csv": b"id,text\n1,a\0b\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_fault_of_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    own_texts.write(tmp_path, {name: BROKEN[name], "a.txt": ENGLISH.encode()})
    documents, report = read(tmp_path)
    assert (f"{tmp_path}/a.txt:1", ENGLISH) in [(one.id, one.text) for one in documents]
    (message,) = report.messages
    assert message.startswith(f"{tmp_path}/{name}") and "\n" not in message
    assert ": " in message and "raw.files" in message


WHOLE = {
    "a.txt": GERMAN.encode("utf-16"),
    "b.txt": (CHINESE * 5).encode("gb18030"),
    "c.md": own_texts.book(1).encode(),
    "d.html": own_texts.PAGE.encode(),
    "e.csv": own_texts.table(TEXTS * 3),
    "f.jsonl": own_texts.json_lines(TEXTS * 3),
    "g.json": own_texts.json_array(TEXTS, 2),
    "h.parquet": own_texts.parquet(pa.array(TEXTS * 50)),
    "i.epub": own_texts.epub([f"<p>{text}" for text in TEXTS]),
    "k.zip": own_texts.archive({"a.txt": ENGLISH.encode(), "b.json": own_texts.json_lines(TEXTS)}),
    **{f"l.json{name}": pack(own_texts.json_lines(TEXTS * 9)) for name, pack in PACKINGS.items()},
}


@pytest.mark.parametrize("name", WHOLE)
def test_damage_of_any_kind_is_a_fault_and_no_other_error(tmp_path: Path, name: str) -> None:
    random, path = np.random.default_rng(1), tmp_path / name
    for number in range(40):
        data = bytearray(WHOLE[name])
        for at in random.integers(len(data), size=1 + number % 5):
            if number % 3 == 0:
                del data[at : at + 9]
            else:
                data[at] = random.integers(256)
        path.write_bytes(data if number % 4 else data[: random.integers(len(data))])
        documents, report = read(path, reading=Reading(join_lines=True, document_kb=1))
        assert all(document.text.encode().strip() for document in documents)
        assert all("\n" not in message and name in message for message in report.messages)


def test_a_broken_line_costs_no_other(tmp_path: Path) -> None:
    lines = own_texts.json_lines(TEXTS).splitlines(keepends=True)
    lines[1:1] = [b'{"text": "torn\n', b'{"text": "\xff\xfe"}\n', b'{"text": 7}\n', b'{"id": 1}\n']
    lines += [b'{"text": "twice", "text": "last", "n": NaN}\n', b'{"text": null}\n']
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == [*TEXTS, "last"]
    assert [fault["line"] for fault in report.faults] == [2, 3, 4, 5]
    assert report.counts["empty"] == 1
    assert report.counts["skipped"] == sum(map(len, lines[1:5]))


@pytest.mark.parametrize(
    ("name", "start", "read_size"),
    [
        ("a.txt", b"", 40_000_000),
        ("a.jsonl", b'{"text": "good"}\n{"text": "', 4),
        ("a.json", b'["good", "', 4),
        ("a.csv", b'text\ngood\n"', 4),
        ("b.csv", b"text\ngood\n", 4),
    ],
)
def test_a_line_without_end_is_read_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, start: bytes, read_size: int
) -> None:
    for module in (json_rows, encodings):
        monkeypatch.setattr(module, "CHUNK", 100_000)
    for module, limit in ((json_rows, "MAX_RECORD"), (tables, "MAX_FIELD"), (local, "BLOCK")):
        monkeypatch.setattr(module, limit, 1_000_000)
    with open(tmp_path / name, "wb") as file:
        file.write(start)
        for _ in range(40):
            file.write(b"x" * 1_000_000)
    sources = [FilesConfig(pattern=str(tmp_path / name), **FILE)]
    (part,) = paths.cut(
        paths.listing(sources, "k"), 1, "k", Reading(join_lines=True, document_kb=4)
    )
    report = Report()
    tracemalloc.start()
    try:
        assert sum(len(document.text) for document in local.read(part, report)) == read_size
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    assert len(report.messages) == (name != "a.txt")


def test_what_is_no_file_is_counted_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(ENGLISH)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "broken.txt").symlink_to("nowhere")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s.txt"))
    (tmp_path / "code.py").write_text("x = 1")
    listed = paths.listing([FilesConfig(pattern=str(tmp_path), **FILE)], "k")
    listener.close()
    assert [path for _, path in listed.files] == [f"{tmp_path}/a.txt"]
    assert listed.others == {".txt": 3, ".py": 1}
    with pytest.raises(UserError, match=r"pipe\.txt is no file"):
        paths.listing(
            [FilesConfig(pattern=f"{tmp_path}/pipe.txt", text_column="", licence="")], "k"
        )


def test_a_file_that_disappears_while_others_are_read_is_named(tmp_path: Path) -> None:
    own_texts.write(tmp_path, {"a.txt": b"one", "b.txt": b"two"})
    (part,) = paths.parts([FilesConfig(pattern=str(tmp_path), **FILE)], 1, "k")
    report, found = Report(), []
    for document in local.read(part, report):
        found.append(document.text)
        (tmp_path / "b.txt").unlink()
    assert found == ["one"]
    assert report.messages == [f"{tmp_path}/b.txt has disappeared: restore it, or take it out of k"]


def test_other_kinds_are_counted_and_a_folder_without_texts_names_them(tmp_path: Path) -> None:
    own_texts.write(tmp_path, {"a.jpg": b"x", "b.JPG": b"x", "c.py": b"x", "README": b"x"})
    with pytest.raises(UserError, match=r"holds no text, but 2 \.jpg, 1 \.py, 1 without ending: "):
        read(tmp_path)
    (tmp_path / "D.TXT").write_text("text")
    assert texts(tmp_path) == ["text"]
    with pytest.raises(UserError, match=r"c\.py is of an unknown kind: raw\.files takes \.txt"):
        read(tmp_path / "c.py")


def test_every_ending_has_a_reader() -> None:
    for kind, endings in kinds.ENDINGS.items():
        for ending in endings:
            assert kinds.kind_of(f"a.{ending}") == (kind, "")
            packed = None if kind in kinds.PACKED else (kind, ".gz")
            assert kinds.kind_of(f"a.{ending.upper()}.gz") == packed
            assert f".{ending}" in kinds.KNOWN or kind in ("txt", "markdown", "html", "json")
