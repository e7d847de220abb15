"""The rows of CSV and parquet files."""

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from antimatter.data.sources import csv_form, encodings
from antimatter.data.sources.csv_form import SAMPLE, Form, are_stray
from antimatter.data.sources.faults import Fault, Report
from antimatter.data.sources.json_rows import Row
from antimatter.data.sources.opened import Source, whole

MAX_FIELD = 1 << 23  # characters of a field of CSV, which takes four bytes for each
MAX_TABLE = 1 << 30  # bytes of a parquet file within a .zip file
BATCH_ROWS = 256


def csv_rows(
    source: Source, report: Report, column: str = "", known: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a CSV file as {column: text}. The first row names the columns, unless it is a row
    of text itself; then they are 1, 2 and so on. Rows that do not fit are reported.

    Args:
        column: of the text, if its name is known.
        known: usual names of columns, in lower case.

    Raises:
        Fault: the file is no text.
    """
    encoding = encodings.of(source, report)
    csv.field_size_limit(MAX_FIELD)

    def opened() -> TextIO:
        return io.TextIOWrapper(source.open(), encoding.codec, "replace", newline="")

    with opened() as stream:
        form = csv_form.form(stream.read(SAMPLE), source.kind.name == "tsv", column, known)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    if form.delimiter == "\t":
        with opened() as stream:
            quoting = csv.QUOTE_NONE if are_stray(stream, 2 * MAX_FIELD) else csv.QUOTE_MINIMAL
    with opened() as stream:
        for _ in range(form.skipped):
            stream.readline(MAX_FIELD)
        counted = _Lines(stream, form.has_escapes)
        # Strict: otherwise a quote that is never closed makes the rest of the file one text
        reader = csv.reader(counted, delimiter=form.delimiter, quoting=quoting, strict=True)
        yield from _records(reader, counted, source, report, form)


def _records(
    reader: Any, counted: "_Lines", source: Source, report: Report, form: Form
) -> Iterator[Row]:
    header = list(form.names)
    number, fix = 0, f"correct it, or take the file out of {source.key}"
    while True:
        line, begun = form.skipped + reader.line_num + 1, counted.characters
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            size, reason = counted.characters - begun, f"is not CSV ({error})"
            report.skip(Fault(source.path, reason, fix, line=line, size=size))
            continue
        size = counted.characters - begun
        if not any(map(str.strip, fields)):
            continue
        if not header:
            header = [name.strip() for name in fields]
            continue
        number += 1
        if len(fields) > len(header) and any(fields[len(header) :]):
            reason = f"has {len(fields)} fields, and the first row has {len(header)}"
            report.skip(Fault(source.path, reason, fix, line=line, size=size))
            continue
        yield Row(number, "row", dict(zip(header, fields, strict=False)), size)


class _Lines:
    """The lines of a stream, with a count of their characters. A line that is too long is cut, so
    that csv refuses it.
    """

    def __init__(self, stream: TextIO, has_escapes: bool) -> None:
        self._stream, self._has_escapes, self.characters = stream, has_escapes, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._stream.readline(2 * MAX_FIELD)
        if not line:
            raise StopIteration
        more = line if len(line) == 2 * MAX_FIELD else ""
        while more and not more.endswith("\n"):
            more = self._stream.readline(MAX_FIELD)
            self.characters += len(more)
        self.characters += len(line)
        return csv_form.doubled(line) if self._has_escapes else line


def parquet_rows(source: Source, column: str = "") -> Iterator[Row]:
    """The rows of a parquet file, or of a member of a .zip file.

    Args:
        column: the path of the one to read; empty, or not there: all of them.

    Raises:
        Fault: it is damaged.
    """
    number = 0
    try:
        table = pq.ParquetFile(source.located or pa.BufferReader(whole(source, MAX_TABLE)))
        names = table.schema_arrow.names
        top = re.split(r"\[|\.", column)[0]
        wanted = [name for name in (column, top) if name in names][:1] or None
        for batch in table.iter_batches(BATCH_ROWS, columns=wanted):
            for value in batch.to_pylist():
                number += 1
                yield Row(number, "row", value, sys.getsizeof(value))
    # A damaged file may hold texts that are not UTF-8
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = f"cannot be read after row {number:,} ({str(error).splitlines()[0]})"
        fix = f"fetch it again, or take it out of {source.key}"
        raise Fault(source.path, reason, fix, size=source.size) from None
