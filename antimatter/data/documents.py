"""A document, and the parquet files of documents that the first stages leave."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from antimatter import files

BATCH_BYTES = 1 << 22  # of text in one row group: what a reader and a writer hold in memory


class Document(NamedTuple):
    id: str  # unique within its source
    text: str
    source: str  # where it was found, as people would cite it
    licence: str


COLUMNS = pa.schema([(name, pa.string()) for name in Document._fields])


def write_parquet(documents: Iterable[Document], folder: Path, file_mb: float, prefix: str = "") -> Iterator[Document]:
    """Writes documents to folder/{prefix}00000.parquet, ... and passes each one on. The bytes depend on nothing but the documents.

    Args:
        file_mb: megabytes of text in a file; a document is never cut, so the last one may exceed them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    documents = iter(documents)
    number, ended = 0, False
    while not ended:
        first = next(documents, None)
        if first is None:
            return
        with files.replacing(folder / f"{prefix}{number:05d}.parquet") as partial, pq.ParquetWriter(partial, COLUMNS, compression="zstd") as writer:
            rows, held, written = [first], len(first.text.encode()), 0
            yield first
            while written + held < file_mb * 1e6:
                document = next(documents, None)
                if document is None:
                    ended = True
                    break
                rows.append(document)
                held += len(document.text.encode())
                if held >= BATCH_BYTES:
                    writer.write_table(table(rows))
                    rows, written, held = [], written + held, 0
                yield document
            if rows:
                writer.write_table(table(rows))
        number += 1


def table(rows: list[Document]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=COLUMNS)


def text_bytes(path: Path) -> int:
    """The size of the text in a parquet file, to within its dictionary, from its footer alone. An unreadable file has the size of the file."""
    try:
        meta = pq.ParquetFile(path).metadata
    except (pa.ArrowException, OSError):
        return path.stat().st_size
    columns = (meta.row_group(i).column(j) for i in range(meta.num_row_groups) for j in range(meta.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "text")
