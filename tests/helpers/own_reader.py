"""Reads own texts, for tests."""

import io

import pytest

from antimatter.data.documents import Document
from antimatter.data.sources import local, paths
from antimatter.data.sources.faults import Report
from antimatter.data.sources.paths import FilesConfig, Reading

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
