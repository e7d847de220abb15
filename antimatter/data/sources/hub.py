"""Text from data sets of the Hugging Face hub, streamed: only the text is stored on the disk.

The files of a data set are distributed over lanes. A lane reads its files in order until it has its
share of the bytes, and does not depend on the others: any number of readers, on any machines,
leaves the same files. After each output file a lane saves its cursor, so a killed one resumes from
there.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.data.documents import Document, write_file
from antimatter.data.sources.config import HubConfig, HubDataSet, page_of
from antimatter.data.sources.hub_dataset import open_data_set, permanent_error
from antimatter.data.sources.hub_http import HubClient, first_line
from antimatter.errors import UserError
from antimatter.progress import StatusLine

CURSOR_ROWS = 1000  # rows between two cursors to which a second reading goes back


@dataclass(frozen=True, kw_only=True)
class Lane:
    """All that a reader needs to know."""

    data_set: HubDataSet
    data_set_index: int
    shard: int  # which part of the data set's files this is ...
    num_shards: int  # ... of how many
    bytes: int  # of UTF-8 text to read; the last document may exceed it
    documents: int = sys.maxsize  # to read at most

    @property
    def name(self) -> str:
        """Begins the names of its files."""
        return f"{self.data_set_index:03d}-{self.shard:05d}"


@dataclass(frozen=True, kw_only=True)
class LaneReport:
    files: int
    documents: int
    bytes: int  # fewer than the lane asks for if its files hold no more


def lanes(config: HubConfig) -> list[Lane]:
    """The lanes of all data sets, in the order of their output files. Asks the hub for the number
    of files.

    Raises:
        UserError: there is no such data set, revision, config, split or text column; its terms are
            not accepted; or the hub cannot be reached.
    """
    if not config.data_sets:
        must = "must name at least one data set when source is hub"
        raise UserError(f"raw.hub.data_sets {must}, got none")
    weights = sum(data_set.weight for data_set in config.data_sets)
    result = []
    for index, data_set in enumerate(config.data_sets):
        num_shards = min(config.lanes, num_files(data_set))
        share = round(config.total_mb * 1e6 * data_set.weight / weights / num_shards)
        result += [
            Lane(
                data_set=data_set,
                data_set_index=index,
                shard=shard,
                num_shards=num_shards,
                bytes=share,
            )
            for shard in range(num_shards)
        ]
    return result


def num_files(data_set: HubDataSet) -> int:
    """The number of files of a data set, which is the largest number of its lanes.

    Raises:
        UserError: as lanes() does.
    """
    number: int = open_data_set(data_set).num_shards
    return number


def read_lane(
    lane: Lane, folder: Path, file_mb: float, on_progress: Callable[[int], None]
) -> LaneReport:
    """Writes the text of a lane to folder/{data set}-{shard}-{file}.parquet, and resumes where an
    earlier call was killed.

    Args:
        folder: also keeps {data set}-{shard}.json, the state of the lane.
        file_mb: megabytes of text in one file.
        on_progress: called every few megabytes with the bytes of text that the lane has, including
            those of earlier calls.

    Raises:
        UserError: the data cannot be read as text, or the network does not recover. What was read
            is kept.
    """
    # lanes() has reached the hub, perhaps in another process: what fails now may be temporary
    HubClient.reached = True
    path = folder / f"{lane.name}.json"
    state = _read_state(path, lane, file_mb)
    report, ended = LaneReport(**state["report"]), state["ended"]
    if ended:
        return report
    shard = open_data_set(lane.data_set).shard(lane.num_shards, lane.shard)
    dataset = shard.select_columns([lane.data_set.text_column])
    documents = _documents(dataset, lane, state["place"], report.documents)
    documents = islice(documents, lane.documents - report.documents)

    def on_written(size: int) -> None:
        on_progress(report.bytes + size)

    while not ended:
        number, size = write_file(
            documents,
            folder / f"{lane.name}-{report.files:05d}.parquet",
            min(file_mb * 1e6, lane.bytes - report.bytes),
            on_written,
        )
        report = LaneReport(
            files=report.files + (number > 0),
            documents=report.documents + number,
            bytes=report.bytes + size,
        )
        ended = number == 0 or report.bytes >= lane.bytes
        state |= {"ended": ended, "place": dataset.state_dict(), "report": asdict(report)}
        files.write_json(path, state)
    return report


def _read_state(path: Path, lane: Lane, file_mb: float) -> dict[str, Any]:
    """The state of a lane as it was left, or as it is at first."""
    # The keys of this file keep their names, so that work in progress survives a new version
    identity = {
        "data_set": asdict(lane.data_set),
        "number": lane.data_set_index,
        "index": lane.shard,
        "of": lane.num_shards,
        "bytes": lane.bytes,
        "documents": lane.documents,
        "file_mb": file_mb,
    }
    if not path.exists():
        report = LaneReport(files=0, documents=0, bytes=0)
        return {"identity": identity, "ended": False, "place": None, "report": asdict(report)}
    state: dict[str, Any] = files.read_json(path)
    if state["identity"] != identity:
        raise UserError(f"{path} was left by a run with other parameters: delete {path.parent}")
    return state


def _documents(dataset: Any, lane: Lane, cursor: Any, row: int) -> Iterator[Document]:
    """The documents of a lane from `cursor` on, before which there are `row` others.

    After an error the rows are read once more, from the last cursor: a fault of the transfer
    passes, and one of the file remains.
    """
    data_set = lane.data_set
    prefix = f"{data_set.name}/{data_set.config}/{data_set.split}/{lane.shard}"
    key, cursor_row, failed_row = f"{data_set.stage}.hub", row, -1
    HubClient.begin(data_set)
    while True:
        try:
            dataset.load_state_dict(cursor)
            for values in islice(dataset, row - cursor_row, None):
                value = values[data_set.text_column]
                text = data_set.text(value)
                if text is None:
                    fault = data_set.rejection(f"{value!r:.60}")
                    raise UserError(f"{key}: {data_set.name}: {fault}")
                row += 1
                yield Document(f"{prefix}:{row}", text, data_set.name, data_set.licence)
                if row % CURSOR_ROWS == 0:
                    cursor, cursor_row = dataset.state_dict(), row
            return
        except UserError:
            raise
        except Exception as error:
            if permanent := permanent_error(error, data_set):
                raise permanent from None
            where = f"{HubClient.requested} cannot be read after row {row:,} of lane {lane.shard}"
            fault = f"{where} ({first_line(error)})"
            if failed_row == row:
                discussions = f"{page_of(data_set.name)}/discussions"
                fix = f"take another revision, or report it at {discussions}"
                raise UserError(f"{key}: {fault}, twice: the file is damaged; {fix}") from None
            failed_row = row
            StatusLine().log(f"{data_set.stage}: {fault}; reading it once more")
