"""Text in local files: .jsonl and .json (one object a line), plain, .gz or .zst; .parquet; .txt (a
file is a document).
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from antimatter.data.documents import Document
from antimatter.data.sources.paths import Part, column_setting, kind_of, located
from antimatter.errors import UserError


def plain(text: str) -> str:
    """A text without what Windows adds to it: a byte-order mark, and a carriage return in each line
    ending. `cleaned` removes both too.
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def encodable(text: str) -> str:
    """A text that UTF-8 can encode: JSON can escape half of a surrogate pair, which becomes "?"."""
    return text.encode(errors="replace").decode()


class Position:
    """Where a reader is in a file, for errors."""

    number = 0  # line of JSON or row of parquet, from 1; 0 before the first


@contextmanager
def user_errors(path: str, key: str, at: Position) -> Iterator[None]:
    """Turns what is wrong with a file into an error of one line.

    Args:
        key: where params.yaml names the file.

    Raises:
        UserError: the file is not JSON, not UTF-8, or damaged.
    """
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        where = f" in line {at.number}" if at.number else ""
        fix = f"convert it, or take it out of {key}"
        raise UserError(f"{path} is not UTF-8 text{where} ({error}): {fix}") from None
    except (pa.ArrowException, OSError) as error:
        # The system's own error, such as a missing permission, says what to do
        if isinstance(error, OSError) and error.errno:
            raise
        fault, fix = str(error).splitlines()[0], "it is damaged; fetch it again"
        raise UserError(f"{path} cannot be read after row {at.number} ({fault}): {fix}") from None
    # Besides its own error, `json` raises ValueError for a number of more than 4,300 digits
    except (ValueError, RecursionError) as error:
        fix = f"correct the line, or take the file out of {key}"
        if at.number == 1:
            fix += "; a file of JSON holds one object a line, as `jq -c` writes them"
        raise UserError(f"{path}, line {at.number} is not JSON ({error}): {fix}") from None


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
        UserError: a file is empty or damaged, or lacks the text column.
    """
    config = part.config
    for path in part.paths:
        is_empty = True
        for number, text in _read(path, config.text_column, part.key):
            is_empty = False
            yield Document(f"{path}:{number}", text, config.pattern, config.licence)
        if is_empty:
            raise UserError(f"{path} is empty: delete it, or take it out of {part.key}")


def _read(path: str, column: str, key: str) -> Iterator[tuple[int, str]]:
    """The texts of a file with their numbers: lines of JSON, rows of parquet; both from 1."""
    kind, packing = kind_of(path, key)
    at = Position()
    with user_errors(path, key, at):
        if kind == "parquet":
            yield from _read_parquet(path, column, key, at)
            return
        with unpacked(path, packing) as stream:
            if kind == "txt":
                text = plain(stream.read().decode())
                if text.strip():
                    yield 1, text
                return
            for line in io.BufferedReader(stream, 1 << 20):
                at.number += 1
                if line.strip():
                    yield at.number, _json_text(line, column, f"{path}, line {at.number}", key)


def _read_parquet(path: str, column: str, key: str, at: Position) -> Iterator[tuple[int, str]]:
    table = pq.ParquetFile(located(path))
    _require(column, table.schema_arrow.names, path, key)
    kind = table.schema_arrow.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        fix = f"set {column_setting(key)} to another"
        raise UserError(f"{path}: `{column}` must be text, it holds {kind}: {fix}")
    for batch in table.iter_batches(1000, columns=[column]):
        for text in batch.column(0).to_pylist():
            at.number += 1
            yield at.number, text or ""


def _json_text(line: bytes, column: str, where: str, key: str) -> str:
    row = json.loads(line)
    if not isinstance(row, dict):
        fix = "write one object a line; `jq -c '.[]'` makes them of an array"
        raise UserError(f"{where} must be a JSON object, got {row!r:.60}: {fix}")
    _require(column, row, where, key)
    if not isinstance(row[column], str | None):
        fix = f"correct it, or set {column_setting(key)} to another"
        raise UserError(f"{where}: `{column}` must be text, got {row[column]!r:.60}: {fix}")
    return encodable(row[column] or "")


def _require(column: str, names: Iterable[str], where: str, key: str) -> None:
    if column not in names:
        known = ", ".join(names) or "(it holds no columns)"
        fix = f"set {column_setting(key)} to one of {known}"
        raise UserError(f"{where} has no column `{column}`: {fix}")
