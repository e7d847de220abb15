"""Own texts of every kind: each reader finds the texts that were written."""

import io
import json
import os
import socket
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import own_texts
from helpers.own_texts import ARABIC, CHINESE, ENGLISH, GERMAN, PACKINGS, RUSSIAN, TEXTS

from antimatter.data.documents import Document
from antimatter.data.sources import encodings, json_rows, kinds, local, opened, paths, tables
from antimatter.data.sources.faults import Report
from antimatter.data.sources.paths import FilesConfig, Reading
from antimatter.errors import UserError

PLAIN = Reading()
FILE = {"text_column": "", "licence": "own"}


def read(
    *patterns: object, column: str = "", reading: Reading = PLAIN
) -> tuple[list[Document], Report]:
    """The documents of patterns, and what was read and skipped."""
    sources = [
        FilesConfig(pattern=str(pattern), text_column=column, licence="own") for pattern in patterns
    ]
    report = Report()
    listed = paths.listing(sources, "raw.files")
    documents = [
        document
        for part in paths.cut(listed, 1, "raw.files", reading)
        for document in local.read(part, report)
    ]
    for fault in listed.faults:
        report.skip(fault)
    return documents, report


def texts(*patterns: object, column: str = "") -> list[str]:
    documents, report = read(*patterns, column=column)
    assert report.messages == []
    return [document.text for document in documents]


# ---- encodings


@pytest.mark.parametrize(
    ("text", "codec", "label"),
    [
        (ENGLISH, "ascii", "UTF-8"),
        (CHINESE, "utf-8", "UTF-8"),
        (ARABIC, "utf-8-sig", "UTF-8 with BOM"),
        (GERMAN, "utf-16", "UTF-16 LE"),
        (CHINESE, "utf-16", "UTF-16 LE"),
        (GERMAN, "utf-16-le", "UTF-16 LE without BOM"),
        (ENGLISH, "utf-16-be", "UTF-16 BE without BOM"),
        (GERMAN, "utf-32", "UTF-32"),
        (GERMAN, "cp1252", "cp1252"),
        ("Größe", "latin-1", "cp1252"),
        ("Only one accent, in the word café, in a long English text. " * 9, "latin-1", "cp1252"),
        ("Příliš žluťoučký kůň se zastavil u řeky a čekal na déšť.", "cp1250", "cp1250"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8_r", "koi8_r"),
        (ARABIC, "cp1256", "cp1256"),
        (CHINESE, "gb18030", "gb18030"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_encoding_of_a_text_is_found_and_counted(
    tmp_path: Path, text: str, codec: str, label: str, ending: str
) -> None:
    content = f"{text}\n\n{text}\n"
    (tmp_path / "a.txt").write_bytes(content.replace("\n", ending).encode(codec))
    (document,), report = read(tmp_path / "a.txt")
    assert document.text == content
    assert report.counts[f"encoding {label}"] == 1


def test_the_encoding_is_found_far_into_a_file(tmp_path: Path) -> None:
    """And that of a UTF-8 text with one damaged byte is not that of another language."""
    far = "plain words\n" * 200_000
    (tmp_path / "late.txt").write_bytes((far + GERMAN).encode("cp1252"))
    assert texts(tmp_path / "late.txt") == [far + GERMAN]
    data = (far + GERMAN).encode()
    (tmp_path / "damaged.txt").write_bytes(data + b"\xff" + CHINESE.encode())
    (document,), report = read(tmp_path / "damaged.txt")
    assert document.text == far + GERMAN + "\ufffd" + CHINESE
    assert report.counts["encoding UTF-8, damaged"] == 1


@pytest.mark.parametrize(
    "content",
    [bytes(range(256)) * 9, b"\0" * 9, bytes(range(128, 256)), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"],
)
def test_rubbish_is_no_text(content: bytes) -> None:
    assert encodings.detect(lambda: io.BytesIO(content)) is None


def test_tables_have_encodings_too(tmp_path: Path) -> None:
    files = {
        "a.jsonl": own_texts.json_lines(TEXTS).decode().encode("utf-16"),
        "b.csv": own_texts.table(TEXTS).decode().encode("utf-8-sig"),
        "c.json": own_texts.json_array([GERMAN], 2).decode().encode("cp1252"),
    }
    own_texts.write(tmp_path, files)
    assert texts(tmp_path) == [*TEXTS, *TEXTS, GERMAN]


# ---- rows


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(own_texts.json_lines(TEXTS), id="lines"),
        pytest.param(own_texts.json_array(TEXTS), id="array"),
        pytest.param(own_texts.json_array(TEXTS, 2), id="pretty array"),
        pytest.param(b'{"version": 2, "data": ' + own_texts.json_array(TEXTS, 1) + b"}", id="in"),
        pytest.param(json.dumps({"data": [{"text": t} for t in TEXTS]}).encode(), id="in, a line"),
        pytest.param(json.dumps(TEXTS).encode(), id="texts"),
        pytest.param(
            "\n".join(json.dumps({"text": text}, indent=1) for text in TEXTS).encode(),
            id="pretty objects",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_json_of_any_form_has_the_same_texts(
    tmp_path: Path, content: bytes, packing: str, ending: str
) -> None:
    (tmp_path / f"a.{ending}{packing}").write_bytes(PACKINGS[packing](content))
    assert texts(tmp_path / f"a.{ending}{packing}") == TEXTS


def test_one_object_is_a_document(tmp_path: Path) -> None:
    row = {"text": ENGLISH, "comments": [{"by": "Ines", "text": "short"}]}
    (tmp_path / "a.json").write_text(json.dumps(row, indent=2))
    (tmp_path / "b.json").write_text(json.dumps(row))
    assert texts(tmp_path) == [ENGLISH, ENGLISH]


QUOTED = ['A "quoted" word, with\na line break', "tabs\tand; semicolons | bars", "the last one"]


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "csv"), (";", "csv"), ("|", "csv"), ("\t", "tsv")]
)
def test_csv_has_the_texts_that_pandas_reads(tmp_path: Path, delimiter: str, name: str) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(own_texts.table(QUOTED * 50, delimiter))
    expected = pd.read_csv(path, sep=delimiter)["text"].tolist()
    documents, _ = read(path)
    assert [document.text for document in documents] == expected == QUOTED * 50
    assert documents[3].id == f"{path}:4"


def test_csv_of_one_column_may_hold_any_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\nfirst, second; third\n"quoted, too"\n\nlast\n')
    assert texts(tmp_path / "a.csv") == ["first, second; third", "quoted, too", "last"]


def test_rows_of_csv_that_do_not_fit_are_skipped_and_named(tmp_path: Path) -> None:
    rows = (
        'id,text\n1,good\n2,too,many,fields\n3,"torn" quote\n4,"also\ngood"\n5,"never closed\nx\n'
    )
    (tmp_path / "a.csv").write_text(rows)
    documents, report = read(tmp_path / "a.csv")
    assert [document.text for document in documents] == ["good", "also\ngood"]
    assert [fault["line"] for fault in report.faults] == [3, 4, 7]
    assert report.counts["skipped"] == len(
        '2,too,many,fields\n3,"torn" quote\n5,"never closed\nx\n'
    )


TYPES = {
    "string": pa.array(TEXTS, pa.string()),
    "large": pa.array(TEXTS, pa.large_string()),
    "view": pa.array(TEXTS, pa.string_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "binary": pa.array([text.encode() for text in TEXTS], pa.binary()),
    "list": pa.array([[text] for text in TEXTS]),
}


@pytest.mark.parametrize("name", TYPES)
def test_parquet_of_every_type_of_text_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.parquet").write_bytes(own_texts.parquet(TYPES[name]))
    assert texts(tmp_path) == TEXTS


def test_nested_columns_are_named_by_their_path(tmp_path: Path) -> None:
    body = [
        {"body": {"text": text, "words": 9}, "parts": [{"content": text}] * 2} for text in TEXTS
    ]
    rows = [{"id": n, "data": value} for n, value in enumerate(body)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    own_texts.write(tmp_path, {"b.parquet": own_texts.parquet(pa.array(body), "data")})
    for name in ("a.json", "b.parquet"):
        assert texts(tmp_path / name, column="data.body.text") == TEXTS
        expected = [f"{text}\n\n{text}" for text in TEXTS]
        for path in ("data.parts[].content", "data.parts.content"):
            assert texts(tmp_path / name, column=path) == expected


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"title": "Short title", "content": "x"}, "content"),
        ({"Body": "x", "id": "a b c d e f"}, "Body"),
        (
            {"id": "7", "url": "https://example.org/" + "a" * 50, "beschreibung": GERMAN},
            "beschreibung",
        ),
        (
            {"id": "7", "data": {"body": {"words": ENGLISH}, "date": "2020-01-01"}},
            "data.body.words",
        ),
    ],
)
def test_the_text_column_is_found_by_itself(
    tmp_path: Path, row: dict[str, str], column: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    _, report = read(tmp_path / "a.jsonl")
    assert report.counts[f"column {column}"] == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"question": ENGLISH, "antwort": GERMAN},
            "several columns may be it: question, antwort: ",
        ),
        ({"a": "x", "b": {"c": 1}}, "no column is clearly it: "),
    ],
)
def test_an_unclear_column_is_a_fault_that_lists_the_columns(
    tmp_path: Path, row: dict[str, str], words: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    columns = ", ".join(row).replace("b", "b.c") if "a" in row else ", ".join(row)
    fix = f"set text_column of raw.files to one of {columns}"
    (tmp_path / "b.txt").write_text(ENGLISH)
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == [ENGLISH]
    (message,) = report.messages
    assert message == f"{tmp_path}/a.jsonl does not say where its text is, {words}{fix}"


# ---- pages and books


def test_a_page_gives_its_main_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(own_texts.PAGE)
    (tmp_path / "b.htm.gz").write_bytes(PACKINGS[".gz"](own_texts.PAGE.encode()))
    assert texts(tmp_path) == [own_texts.PAGE_TEXT] * 2


@pytest.mark.parametrize("declared", ["windows-1252", "iso-8859-1", "no-such-name", ""])
def test_a_page_may_declare_its_encoding(tmp_path: Path, declared: str) -> None:
    page = f'<meta http-equiv="x" content="text/html; charset={declared}"><p>{GERMAN}</p>'
    (tmp_path / "a.html").write_bytes(page.encode("cp1252"))
    assert texts(tmp_path) == [GERMAN]


def test_markup_that_is_never_closed_loses_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f"<p>{ENGLISH}<p>one <b>two</i> three<li>four &nosuch; <")
    assert texts(tmp_path) == [f"{ENGLISH}\n\none two three\nfour &nosuch; <"]


def test_what_browsers_take_for_a_comment_is_one(tmp_path: Path) -> None:
    """Python's parser raises an error for it."""
    page = f"<![if x]><p>{ENGLISH}</p><![endif]><![nosuch x]><p>{GERMAN}<!-- never closed"
    (tmp_path / "a.html").write_text(page)
    assert texts(tmp_path)[0].startswith(f"{ENGLISH}\n\n{GERMAN}")


def test_the_chapters_of_an_epub_are_documents_in_the_order_of_reading(tmp_path: Path) -> None:
    pages = [f"<h1>Part {n}</h1><p>{text}</p>" for n, text in enumerate(TEXTS)]
    (tmp_path / "a.epub").write_bytes(own_texts.epub(pages))
    documents, _ = read(tmp_path)
    assert [one.text for one in documents] == [f"Part {n}\n\n{t}" for n, t in enumerate(TEXTS)]
    assert documents[1].id == f"{tmp_path}/a.epub:2"


def pdf(lines: list[str], password: str = "") -> bytes:
    """A page of text; written by hand, as pypdf writes none."""
    pypdf = pytest.importorskip("pypdf")
    moves = "".join(f"({line}) Tj 0 -14 Td\n" for line in lines)
    drawn = f"BT /F1 11 Tf 60 760 Td\n{moves}ET".encode("cp1252")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(data)
    data += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(
        b"%010d 00000 n \n" % at for at in places
    )
    data += b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start
    if password:
        writer, stream = pypdf.PdfWriter(clone_from=io.BytesIO(data)), io.BytesIO()
        writer.encrypt(password, algorithm="RC4-128")
        writer.write(stream)
        data = stream.getvalue()
    return data


def test_a_pdf_gives_its_text_with_joined_lines(tmp_path: Path) -> None:
    text = GERMAN.replace("„", "").replace("“", "")
    (tmp_path / "a.pdf").write_bytes(pdf(textwrap.wrap(text, 60)))
    (document,), report = read(tmp_path, reading=Reading(join_lines=True))
    assert document.text == text
    assert report.messages == []


@pytest.mark.parametrize("fault", ["password", "damaged", "scan"])
def test_a_pdf_without_readable_text_is_named(tmp_path: Path, fault: str) -> None:
    content = {
        "password": lambda: pdf(["secret"], "1234"),
        "damaged": lambda: pdf(["text"])[:200],
        "scan": lambda: pdf([]),
    }[fault]()
    (tmp_path / "a.pdf").write_bytes(content)
    documents, report = read(tmp_path)
    assert documents == [] and report.counts["faults"] == 1
    words = {"password": "is encrypted", "damaged": "cannot be read", "scan": "holds no text"}[
        fault
    ]
    assert report.messages[0].startswith(f"{tmp_path}/a.pdf {words}")


def test_without_the_extra_a_pdf_is_an_error_that_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pdf").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"a\.pdf needs .*pip install .* -e '\.\[documents\]'"):
        read(tmp_path)


def test_markdown_is_kept_without_its_front_matter(tmp_path: Path) -> None:
    body = (
        f"# A title\n\n{ENGLISH}\n\n---\n\n```python\nx = 1\n```\n\n[a link](https://example.org)\n"
    )
    own_texts.write(
        tmp_path,
        {
            "a.md": f"---\ntitle: A\ntags: [b, c]\n---\n\n{body}".encode(),
            "b.markdown": f"+++\ntitle = 'A'\n+++\n{body}".encode(),
            "c.md": body.encode(),
            "d.md": f"---\n{body}".encode().replace(b"\n\n---\n\n", b"\n\n"),
        },
    )
    read_texts = texts(tmp_path)
    assert read_texts[:3] == [body] * 3
    # A ruler, not front matter
    assert read_texts[3].startswith("---\n# A title")


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
