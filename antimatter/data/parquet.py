"""Reads the parquet files that the stages leave for one another."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from antimatter.errors import UserError


def read_rows(path: Path, columns: Sequence[str], stage: str) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a file in batches of up to 1,000, each a tuple of those columns.

    Args:
        stage: the stage that writes the file, for the error message.

    Raises:
        UserError: the file is damaged, or lacks a column.
    """
    try:
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=list(columns)):
            values = (batch.column(name).to_pylist() for name in columns)
            yield list(zip(*values, strict=True))
    except (pa.ArrowException, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        fix = f"run `dvc repro --force {stage}`"
        raise UserError(f"{path} is not readable ({reason}): {fix}") from None
