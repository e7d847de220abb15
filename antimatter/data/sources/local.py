"""Text in local files: .jsonl and .json (one object a line), plain, .gz or .zst; .parquet; .txt (a file is a document)."""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from antimatter.data.documents import Document
from antimatter.data.sources.paths import Part, kind_of, located
from antimatter.errors import UserError


def plain(text: str) -> str:
    """A text without what Windows adds to it: a byte-order mark, and a carriage return in each line
    ending. `cleaned` removes both too.
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def whole(text: str) -> str:
    """A text that UTF-8 can write: JSON can escape half of a surrogate pair, which becomes "?"."""
    return text.encode(errors="replace").decode()


class Position:
    """Where a reader is in a file, for errors."""

    number = 0  # line of JSON or row of parquet, from 1; 0 before the first


@contextmanager
def faults(path: str, key: str, at: Position) -> Iterator[None]:
    """Turns what is wrong with a file into an error of one line.

    Raises:
        ValueError: it is not JSON, not UTF-8, or broken.
    """
    try:
        yield
    except json.JSONDecodeError as error:
        fix = f"correct the line, or take the file out of {key}"
        raise UserError(f"{path}, line {at.number} is not JSON ({error}): {fix}") from None
    except UnicodeDecodeError as error:
        where = f" in line {at.number}" if at.number else ""
        fix = f"convert it, or take it out of {key}"
        raise UserError(f"{path} is not UTF-8 text{where} ({error}): {fix}") from None
    except (pa.ArrowException, OSError) as error:
        fault = str(error).splitlines()[0]
        fix = "it is broken; fetch it again"
        raise UserError(f"{path} cannot be read after row {at.number} ({fault}): {fix}") from None


def unpacked(path: str, packing: str) -> pa.NativeFile:
    """The bytes of a file without their compression.

    Args:
        packing: ".gz", ".zst", or "".
    """
    compression = {".gz": "gzip", ".zst": "zstd"}.get(packing)
    return pa.input_stream(str(located(path)), compression=compression)


def read(part: Part) -> Iterator[Document]:
    """The documents of a part.

    Raises:
        ValueError: an empty or broken file, or one without the text column.
    """
    config = part.config
    for path in part.paths:
        found = False
        for number, text in _read(path, config.text_column, part.key):
            found = True
            yield Document(f"{path}:{number}", text, config.pattern, config.licence)
        if not found:
            raise UserError(f"{path} is empty: delete it, or take it out of {part.key}")


def _read(path: str, column: str, key: str) -> Iterator[tuple[int, str]]:
    """The texts of a file with their numbers: lines of JSON, rows of parquet; both from 1."""
    kind, packed = kind_of(path, key)
    at = Position()
    with faults(path, key, at):
        if kind == "parquet":
            table = pq.ParquetFile(located(path))
            _require(column, table.schema_arrow.names, path, key)
            if not pa.types.is_string(
                held := table.schema_arrow.field(column).type
            ) and not pa.types.is_large_string(held):
                raise UserError(
                    f"{path}: `{column}` must be text, it holds {held}: set text_column of {key} to another"
                )
            for batch in table.iter_batches(1000, columns=[column]):
                for text in batch.column(0).to_pylist():
                    at.number += 1
                    yield at.number, text or ""
            return
        with unpacked(path, packed) as stream:
            if kind == "txt":
                yield from ((1, text) for text in [plain(stream.read().decode())] if text.strip())
                return
            for line in io.BufferedReader(stream, 1 << 20):
                at.number += 1
                if line.strip():
                    row = json.loads(line)
                    _require(
                        column,
                        row if isinstance(row, dict) else (),
                        f"{path}, line {at.number}",
                        key,
                    )
                    if not isinstance(row[column], str | None):
                        raise UserError(
                            f"{path}, line {at.number}: `{column}` must be text, got {row[column]!r:.60}"
                        )
                    yield at.number, whole(row[column] or "")


def _require(column: str, names: Iterable[str], where: str, key: str) -> None:
    if column not in names:
        raise UserError(
            f"{where} has no column `{column}`: set text_column of {key} to one of {', '.join(names) or '(it holds no columns)'}"
        )
