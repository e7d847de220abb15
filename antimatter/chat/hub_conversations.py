"""Conversations from data sets of the Hugging Face hub, streamed like text in
antimatter.data.sources.hub. Only the column of messages is stored, as JSON in parquet files.
"""

import hashlib
import itertools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline

from antimatter import files
from antimatter.chat import formats
from antimatter.chat.config import ConversationHub, Messages
from antimatter.chat.conversation import Conversation
from antimatter.data.sources import hub
from antimatter.data.sources.config import HubDataSet
from antimatter.data.sources.hub import Lane
from antimatter.errors import UserError
from antimatter.tasks import executor
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.task import Step

LANES = 16  # of a data set, or as many as it has files
FILE_MB = 16.0  # JSON in one output file, in megabytes: a killed lane loses its unfinished file
PROGRESS_SECONDS = 30  # between two lines of a lane
ENDED = "ended"  # beside the files of a complete data set


def fetch(
    data_sets: Sequence[ConversationHub],
    folder: Path,
    runtime: TasksRuntime,
) -> list[list[Path]]:
    """The files of each data set, in order, for read(). Skips files that an earlier call fetched.

    The bytes depend on `data_sets` alone. A complete data set in `folder` needs no network.

    Args:
        folder: kept if the call is killed; the next one resumes after the last complete file of
            each lane.

    Raises:
        UserError: a data set is named twice, does not exist or has no rows, its column holds no
            lists, its terms are not accepted, or the network does not recover. Fetched files are
            kept.
    """
    names = [f"{config.name}, {config.config}, {config.split}" for config in data_sets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"conversations.hub names {name} twice: leave one of them out")
    return [_fetch(config, folder, runtime) for config in data_sets]


def read(paths: Sequence[Path], dropped: Counter[str]) -> Iterator[Conversation]:
    """The conversations in the files of a data set, as fetch() returned them.

    A user cannot correct the rows of a public data set, so a row that is not a conversation is left
    out and counted.

    Args:
        dropped: the counts of rows left out, by reason, are added to it at the end.

    Raises:
        UserError: no row is a conversation.
    """
    count, source, reasons = 0, "", Counter[str]()
    for row in _rows(paths):
        source = row["source"]
        try:
            messages = formats.messages({"messages": json.loads(row["text"])})
        except formats.NotAConversation as error:
            reasons[_reason(error)] += 1
            continue
        count += 1
        yield Conversation(row["id"], source, "open", messages, row["licence"])
    if not count:
        (reason, _), rows = reasons.most_common(1)[0], reasons.total()
        fault = f"none of {rows:,} rows of {source} is a conversation, mostly because {reason}"
        raise UserError(f"conversations.hub: {fault}: set column to another, or take it out")
    dropped.update(reasons)


def _rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(1000):
            yield from batch.to_pylist()


def _reason(error: ValueError) -> str:
    """A reason without its number and values, so that few different ones are counted."""
    return re.sub(r" \d+|, got .*|; known .*", "", str(error))


def _fetch(config: ConversationHub, folder: Path, runtime: TasksRuntime) -> list[Path]:
    data_set = Messages.of(config)
    # A change of any of these values fetches to another folder
    identity = {**asdict(data_set), "most": config.most, "lanes": LANES, "file_mb": FILE_MB}
    text = json.dumps(identity, sort_keys=True)
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (place / ENDED).exists():
        lanes = _lanes(data_set, config.most)
        # The bytes of a column are unknown before it is read: each lane reports its own
        sizes = [0] * len(lanes)
        step = ReadConversations(lanes, place)
        rows = executor.run([step], sizes, place / "read", runtime, data_set.stage)["rows"]
        if not rows:
            fix = "set split to another, or take it out"
            raise UserError(f"conversations.hub: {config.name} holds no row: {fix}")
        if rows < config.most:
            note = f"{config.name} has {rows:,} of the {config.most:,} rows in `most`"
            print(f"conversations: {note}: some files hold fewer", file=sys.stderr)
        files.write_text(place / ENDED, "")
    return sorted(place.glob("*.parquet"))


def _lanes(data_set: HubDataSet, most: int) -> list[Lane]:
    """Lanes with equal numbers of conversations, to within one."""
    num_shards = min(LANES, hub.num_files(data_set))
    shares = [sys.maxsize] * num_shards
    if most:
        ends = [most * shard // num_shards for shard in range(num_shards + 1)]
        shares = [end - start for start, end in itertools.pairwise(ends)]
    # Rows are counted, not bytes
    common = partial(Lane, data_set=data_set, data_set_index=0, bytes=sys.maxsize)
    return [
        common(shard=shard, num_shards=num_shards, documents=share)
        for shard, share in enumerate(shares)
    ]


class ReadConversations(Step):
    """Task n reads the n-th of `lanes`. A killed one resumes after the lane's last whole file."""

    def __init__(self, lanes: list[Lane], folder: Path) -> None:
        super().__init__()
        self.lanes, self.folder = lanes, folder

    def run(
        self,
        data: DocumentsPipeline,
        rank: int = 0,
        world_size: int = 1,
    ) -> DocumentsPipeline:
        lane = self.lanes[rank]
        shown = time.monotonic()

        def show(done: int) -> None:
            nonlocal shown
            if time.monotonic() >= shown + PROGRESS_SECONDS:
                shown = time.monotonic()
                where = f"{lane.data_set.name}, lane {lane.shard + 1} of {lane.num_shards}"
                print(f"conversations: {where}: {done / 1e6:,.0f} MB", file=sys.stderr, flush=True)

        report = hub.read_lane(lane, self.folder, FILE_MB, show)
        self.count(Counter({"rows": report.documents}))
        yield from ()
