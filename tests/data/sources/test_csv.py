"""CSV as programs and people write it: no form of it costs a text."""

import csv
import io
import json
from pathlib import Path

import pytest
from helpers import own_texts
from helpers.own_reader import read, texts

SOME = own_texts.prose(12)
SHORT = ["Was ist das?", "Ein Hund, sagt man.", "Nein, eine Katze."] * 4


def rows(header: list[str], delimiter: str = ",", **options: object) -> str:
    """SOME with a number each, as Python writes it."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, **options)  # type: ignore[arg-type]
    writer.writerows(filter(None, [header]))
    writer.writerows([n, text] for n, text in enumerate(SOME))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        "\r\n\r\n" + rows(["id", "text"], ";"),
        "sep=;\r\n" + rows(["id", "text"], ";"),
        '\n"sep=|"\n' + rows(["id", "text"], "|"),
        rows(["id", "text, long"], "|"),
        rows(["id, or number", "text; the long one"], "\t"),
        rows(["id; or number", "text"]),
    ],
)
def test_the_texts_are_found_whatever_the_first_lines_are(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content, newline="")
    assert texts(tmp_path / "a.csv") == SOME


def test_commas_in_a_header_and_in_every_row_are_no_delimiters(tmp_path: Path) -> None:
    pairs = [(f"Sagt er, {text}", f"Ja, {text}") for text in SHORT]
    lines = ["Frage, kurz; Antwort", *("; ".join(pair) for pair in pairs)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert texts(tmp_path / "a.csv", column="Frage, kurz") == [pair[0] for pair in pairs]


@pytest.mark.parametrize(("delimiter", "name"), [(",", "csv"), (";", "csv"), ("\t", "tsv")])
def test_a_first_row_of_text_is_a_row(tmp_path: Path, delimiter: str, name: str) -> None:
    (tmp_path / f"a.{name}").write_text(rows([], delimiter), newline="")
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == SOME
    assert documents[0].id.endswith(f"a.{name}:1")
    assert report.summary()["columns"] == {"2": 1}


@pytest.mark.parametrize(
    ("first", "has_names"),
    [
        (["id", "text"], True),
        (["1", "The ferry left at noon"], False),
        (["7", "8"], False),
        (["name", "We all went home again."], False),
        (["name", "how satisfied are you"], True),
        (["name", "2020"], True),
        (["name", "x" * 61], False),
        (["2019", "2020", "Body"], True),
    ],
)
def test_a_row_of_names_is_told_from_one_of_text(
    tmp_path: Path, first: list[str], has_names: bool
) -> None:
    others = [[f"{n}"] * (len(first) - 1) + [text] for n, text in enumerate(SOME)]
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([first, *others])
    (tmp_path / "a.csv").write_text(stream.getvalue(), newline="")
    found = texts(tmp_path)
    assert found == (SOME if has_names else [first[-1], *SOME])


def test_quotes_after_a_backslash_are_read_as_csv_does(tmp_path: Path) -> None:
    quoted = [text.replace(" ", ' "so", ', 2) for text in SOME] + ['"all of it"', "C:\\folder"]
    lines = ["id,text"]
    lines += ['{},"{}"'.format(n, text.replace('"', '\\"')) for n, text in enumerate(quoted)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    expected = [row[1] for row in csv.reader(lines, escapechar="\\", doublequote=False)]
    # csv drops every backslash, which are text where no quote follows
    assert expected[1:-1] == quoted[:-1]
    assert texts(tmp_path / "a.csv") == quoted


def test_a_backslash_before_the_last_quote_is_text(tmp_path: Path) -> None:
    lines = "".join(f'{n},"C:\\folder {n} of the archive\\"\r\n' for n in range(9))
    (tmp_path / "a.csv").write_text("id,text\r\n" + lines, newline="")
    assert texts(tmp_path) == [f"C:\\folder {n} of the archive\\" for n in range(9)]


def test_stray_quotes_of_a_file_of_tabs_are_text(tmp_path: Path) -> None:
    stray = ['"Stop, he said', '"Hello" she said', 'a 5" pipe', "plain", '"whole"'] * 50
    content = "id\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(stray))
    (tmp_path / "a.tsv").write_text(content)
    reader = csv.reader(content.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    assert texts(tmp_path) == [row[1] for row in reader][1:] == stray


def test_texts_of_several_lines_in_a_file_of_tabs_are_quoted(tmp_path: Path) -> None:
    many = [f"{text}\n{text}" for text in SOME] + ['a "quoted" word']
    (tmp_path / "a.tsv").write_bytes(own_texts.table(many, "\t"))
    assert texts(tmp_path) == many


def test_no_text_becomes_a_name_in_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"k" * 500: SOME[0]}))
    _, report = read(tmp_path)
    assert max(map(len, report.summary()["columns"])) <= 60
