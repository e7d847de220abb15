"""Own texts of every kind: each reader finds the texts that were written."""

import io
import json
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from helpers import own_texts
from helpers.own_reader import pdf, read, texts
from helpers.own_texts import ARABIC, CHINESE, ENGLISH, GERMAN, PACKINGS, RUSSIAN, TEXTS

from antimatter.data.sources import encodings
from antimatter.data.sources.paths import Reading
from antimatter.errors import UserError

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
def test_csv_has_the_texts_that_pyarrow_reads(tmp_path: Path, delimiter: str, name: str) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(own_texts.table(QUOTED * 50, delimiter))
    options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    expected = pyarrow.csv.read_csv(path, parse_options=options)["text"].to_pylist()
    documents, _ = read(path)
    assert [document.text for document in documents] == expected == QUOTED * 50
    assert documents[3].id == f"{path}:4"


def test_line_endings_within_rows_are_those_of_linux(tmp_path: Path) -> None:
    rows = json.dumps([{"text": "one\r\ntwo"}]).encode()
    own_texts.write(tmp_path, {"a.csv": b'id,text\r\n1,"one\r\ntwo"\r\n', "b.json": rows})
    assert texts(tmp_path) == ["one\ntwo"] * 2


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
