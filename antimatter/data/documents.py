"""A document, and the parquet files of documents that the first stages write."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from antimatter import files

Kind = Literal["text", "conversation"]
CONVERSATION: Kind = "conversation"
SEPARATOR = "\n\n"  # between the turns of a conversation
BATCH_BYTES = 1 << 22  # of text in one row group: what a reader and a writer hold in memory


class Document(NamedTuple):
    id: str  # unique within its source
    text: str
    source: str  # as one would cite it
    licence: str
    # The text of a conversation is its turns with SEPARATOR between them; no turn holds a line
    # break. The first is the user's, and they alternate
    kind: Kind = "text"


COLUMNS = pa.schema([(name, pa.string()) for name in Document._fields])


def write_parquet(documents: Iterable[Document], folder: Path, file_mb: float) -> None:
    """Writes documents to folder/00000.parquet, ... with `file_mb` megabytes of text in each. The
    bytes depend on the documents and on `file_mb` only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remaining = iter(documents)
    number = 0
    while write_file(remaining, folder / f"{number:05d}.parquet", file_mb * 1e6)[0]:
        number += 1


def write_file(
    documents: Iterator[Document],
    path: Path,
    limit: float,
    on_progress: Callable[[int], None] = lambda size: None,
) -> tuple[int, int]:
    """Writes documents until they hold `limit` bytes of text or end, and returns their number and
    bytes. Writes no file if there are no documents.

    Args:
        limit: no document is cut, so the last one may exceed it.
        on_progress: called with the bytes written so far, every few megabytes.
    """
    first = next(documents, None)
    if first is None:
        return 0, 0
    rows, row_bytes, count, size = [first], len(first.text.encode()), 0, 0
    with (
        files.replacing(path) as partial,
        pq.ParquetWriter(partial, COLUMNS, compression="zstd") as writer,
    ):
        while rows:
            document = next(documents, None) if size + row_bytes < limit else None
            if document is None or row_bytes >= BATCH_BYTES:
                writer.write_table(_table(rows))
                count, size, rows, row_bytes = count + len(rows), size + row_bytes, [], 0
                on_progress(size)
            if document is not None:
                rows.append(document)
                row_bytes += len(document.text.encode())
    return count, size


def _table(rows: list[Document]) -> pa.Table:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.Table.from_arrays(columns, schema=COLUMNS)


def text_bytes(path: Path) -> int:
    """The size of the text in a parquet file, to within its dictionary, from its footer alone. For
    an unreadable file, the size of the file.
    """
    try:
        meta = pq.ParquetFile(path).metadata
    except (pa.ArrowException, OSError):
        return path.stat().st_size
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    columns = [group.column(j) for group in groups for j in range(meta.num_columns)]
    texts = [column for column in columns if column.path_in_schema == "text"]
    return sum(column.total_uncompressed_size for column in texts)
