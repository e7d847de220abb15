"""Text in a user's files, as documents. The modules beside this one read each kind:

    text, Markdown, rst     encodings (as text), wrapping (paragraphs), pieces (documents)
    JSON, CSV, parquet      json_rows and tables (rows), columns (the text of a row), chats
    HTML, EPUB, PDF         webpage, books
    .gz, .zip and others    opened

A row is a document, and so is a chapter of an EPUB; a file of another kind is one. Each is cut if
it is longer than `document_kb`. Markdown is kept as it is, since its marks are text that a model
may learn to write; only front matter is left out.
"""

import io
import re
import tomllib
from collections.abc import Iterator

import yaml

from antimatter.data.documents import Document
from antimatter.data.sources import (
    books,
    chats,
    columns,
    encodings,
    json_rows,
    opened,
    pieces,
    tables,
    webpage,
    wrapping,
)
from antimatter.data.sources.columns import encodable
from antimatter.data.sources.faults import Fault, Report, Strict, shown
from antimatter.data.sources.kinds import TABLES
from antimatter.data.sources.opened import Source
from antimatter.data.sources.paths import Part, located

# Characters of a text file that are in memory at a time, if it may be cut
BLOCK = 1 << 23
# ... and if it may not
MAX_TEXT = 1 << 29
# What may be YAML between lines of `---`, or TOML between lines of `+++`
_FRONT_MATTER = re.compile(r"\A(---|\+\+\+) *\n((?:.*\n){0,200}?)(?:\1|\.\.\.) *(?:\n|\Z)")
_KEY = re.compile(r"[\w.-]+")
# A line of front matter that is not quite YAML: `title: Part 1: The ferry`
_ENTRY = re.compile(r"[a-z][\w-]*:(?: .*)?|- .*|  +\S.*")


def plain(text: str) -> str:
    """A text without what Windows adds to it: a byte-order mark, and a carriage return in each line
    ending. `cleaned` removes both too.
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def without_front_matter(text: str) -> str:
    """A text of Markdown without the fields before it. A text may also begin with a ruler (`---`),
    and have others further on: what is between them is text if it is no mapping of keys.
    """
    found = _FRONT_MATTER.match(text)
    if not found:
        return text
    try:
        value = tomllib.loads(found[2]) if found[1] == "+++" else yaml.safe_load(found[2])
        is_mapping = isinstance(value, dict) and all(_KEY.fullmatch(str(key)) for key in value)
        # A comment of TOML alone may be a heading
        is_mapping = (is_mapping and bool(value)) or not found[2].strip()
    # ValueError alone is that of a date such as 2020-02-30
    except (yaml.YAMLError, ValueError, RecursionError):
        lines = found[2].splitlines()
        is_mapping = found[1] == "---" and all(_ENTRY.fullmatch(line) for line in lines)
    return text[found.end() :].lstrip("\n") if is_mapping else text


def read(part: Part, report: Report | None = None) -> Iterator[Document]:
    """The documents of a part.

    Args:
        report: counts what is read and receives what cannot be read; None: the first fault is
            raised.

    Raises:
        Fault: a file or a record cannot be read, without a report.
        UserError: a package is missing that a member of a .zip file needs.
    """
    report = Strict() if report is None else report
    for path in part.paths:
        before = _outcomes(report)
        try:
            for source in opened.sources(
                path, located(path), part.key, report, part.config.encoding
            ):
                yield from _documents(source, part, report)
        except Fault as fault:
            report.skip(fault)
        except opened.ERRORS as error:
            report.skip(opened.unreadable(path, error, part.key, 0))
        if before == _outcomes(report):
            report.skip(_nothing(path, located(path).stat().st_size, part.key))


def _outcomes(report: Report) -> int:
    return report.counts["documents"] + report.counts["faults"]


def _nothing(path: str, size: int, key: str) -> Fault:
    """The fault of a file from which nothing was read.

    Args:
        size: bytes on disk, all of which are lost.
    """
    reason = "holds no text" if size else "is empty"
    return Fault(path, reason, f"delete it, or take it out of {key}", size=size)


def _documents(source: Source, part: Part, report: Report) -> Iterator[Document]:
    kind, config = source.kind.name, part.config
    report.counts[f"files {kind}"] += 1
    before = _outcomes(report)
    try:
        for name, text in _texts(source, part, report):
            if not text.strip():
                report.counts["empty"] += 1
                continue
            report.counts["documents"] += 1
            report.counts[f"documents {kind}"] += 1
            report.counts[f"bytes {kind}"] += len(text.encode())
            yield Document(f"{shown(source.path)}:{name}", text, config.pattern, config.licence)
        # A packed member has a few bytes even if it is empty
        if source.located is None and before == _outcomes(report):
            report.skip(_nothing(source.path, source.size, part.key))
    except Fault as fault:
        report.skip(fault)
    except opened.ERRORS as error:
        report.skip(opened.unreadable(source.path, error, part.key, source.size))


def _texts(source: Source, part: Part, report: Report) -> Iterator[tuple[str, str]]:
    """The texts of a file, with the end of the id of each."""
    kind, limit = source.kind.name, part.reading.document_kb
    if kind in TABLES:
        for number, text in columns.texts(
            _rows(source, part.config.text_column, report),
            part.config.text_column,
            source,
            report,
        ):
            cut = list(pieces.split(plain(text), limit))
            names = [f".{i}" for i in range(1, len(cut) + 1)] if len(cut) > 1 else [""]
            yield from ((f"{number}{name}", piece) for name, piece in zip(names, cut, strict=True))
        return
    number = 0
    for text in _prose(source, part, report):
        for piece in pieces.split(text, limit):
            number += 1
            yield str(number), piece


def _rows(source: Source, column: str, report: Report) -> Iterator[json_rows.Row]:
    if source.kind.name == "json":
        rows = json_rows.rows(source, report)
        return rows if column else chats.joined(rows)
    if source.kind.name == "parquet":
        return tables.parquet_rows(source, column)
    return tables.csv_rows(source, report, column, columns.NAMES)


def _prose(source: Source, part: Part, report: Report) -> Iterator[str]:
    """The texts of a file that is no table, before long ones are cut."""
    kind = source.kind.name
    if kind == "epub":
        yield from map(encodable, books.epub(source))
    elif kind == "pdf":
        text = encodable(books.pdf(source))
        yield wrapping.join(text, to) if (to := _width(text, part)) else text
    elif kind == "html":
        page = webpage.decoded(opened.whole(source, webpage.MAX_PAGE), source.encoding)
        if page is None:
            raise encodings.no_text(source)
        encodings.counted(page[1], source, report)
        yield encodable(webpage.text_of(page[0]))
    else:
        yield from _plain_text(source, part, report)


def _plain_text(source: Source, part: Part, report: Report) -> Iterator[str]:
    encoding = encodings.of(source, report)
    to = None
    # With newline=None each kind of line ending is read as "\n"
    with io.TextIOWrapper(source.open(), encoding.codec, encoding.errors) as stream:
        for block in _blocks(stream, source, part.reading.document_kb > 0):
            if to is None:
                to = _width(block, part)
                if source.kind.name == "markdown":
                    block = without_front_matter(block.lstrip("\n"))
            yield encodable(wrapping.join(block, to) if to else block)


def _width(text: str, part: Part) -> int:
    return wrapping.width(text) if part.reading.join_lines else 0


def _blocks(stream: io.TextIOWrapper, source: Source, may_cut: bool) -> Iterator[str]:
    """A text in blocks that end with a line, or whole."""
    if not may_cut:
        text = stream.read(MAX_TEXT + 1)
        if len(text) > MAX_TEXT:
            fix = "set raw.document_kb above 0, or cut the file"
            reason = f"is longer than {MAX_TEXT:,} characters"
            raise Fault(source.path, reason, fix, size=source.size)
        yield text
        return
    while block := stream.read(BLOCK):
        line = "-"
        # To the end of the paragraph, if it is near
        while line.strip() and len(block) < 1.5 * BLOCK:
            line = stream.readline(BLOCK // 2)
            block += line
        yield block
