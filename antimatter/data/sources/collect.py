"""Where text comes from: the documentation inside the pinned packages, local files, or data sets of the hub. All of it becomes parquet files."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from datatrove.data import DocumentsPipeline

from antimatter import files
from antimatter.data.documents import Document, write_parquet
from antimatter.data.sources import hub, local, paths
from antimatter.data.sources.config import RawConfig
from antimatter.data.sources.embedded import embedded
from antimatter.data.sources.hub import Lane
from antimatter.tasks import executor
from antimatter.tasks.config import EngineRuntime
from antimatter.tasks.executor import Step

COUNTS = "counts.json"  # beside the parquet files of a part


@dataclass(frozen=True)
class Tally:
    documents: int
    bytes: int  # of UTF-8 text


def write(config: RawConfig, folder: Path, work: Path, runtime: EngineRuntime) -> dict[str, Tally]:
    """Writes the documents of the configured source to folder/*.parquet; what each source gave, the largest first.

    The bytes depend on `config` and the source alone. What a killed call has read in `work` the
    next call does not read again (embedded takes seconds and starts over).
    """
    if config.source == "embedded":
        with files.replacing(folder) as partial:
            return _tallies(
                _write(embedded(config.packages, runtime.workers), partial, config.file_mb)
            )
    return _tallies(
        (_read_files if config.source == "files" else _read_hub)(config, folder, work, runtime)
    )


def _read_files(
    config: RawConfig, folder: Path, work: Path, runtime: EngineRuntime
) -> Counter[str]:
    """A part that was read is known by its files, so after one of them was corrected only its part
    is read again.
    """
    parts = paths.parts(config.files, config.file_mb, "raw.files")
    places = [work / "parts" / _identity(part) for part in parts]
    missing = {place: part for place, part in zip(places, parts, strict=True) if not place.exists()}
    if done := len(parts) - len(missing):
        print(
            f"raw: resuming, {done:,} of {len(parts):,} parts were read",
            file=sys.stderr,
            flush=True,
        )
    files.remove(work / "read")  # its marks are by number, and the numbers may mean other parts now
    if missing:
        step = ReadFiles(list(missing.values()), list(missing), config.file_mb)
        executor.run(
            [step], [part.bytes for part in missing.values()], work / "read", runtime, "raw"
        )
    files.link(
        {
            f"{i:05d}-{path.name}": path
            for i, place in enumerate(places)
            for path in sorted(place.glob("*.parquet"))
        },
        folder,
    )
    return sum((Counter(files.read_json(place / COUNTS)) for place in places), Counter[str]())


def _identity(part: paths.Part) -> str:
    """A hash of a part: its files as they are on the disk, and how they are read."""
    found = [
        (path, status.st_size, status.st_mtime_ns)
        for path in part.paths
        for status in [paths.located(path).stat()]
    ]
    return hashlib.sha256(json.dumps([found, asdict(part.config)]).encode()).hexdigest()[:16]


def _read_hub(config: RawConfig, folder: Path, work: Path, runtime: EngineRuntime) -> Counter[str]:
    lanes = hub.lanes(config.hub)
    step = ReadLanes(lanes, work / "raw", config.file_mb)
    counts = executor.run([step], [lane.bytes for lane in lanes], work / "read", runtime, "raw")
    files.link({path.name: path for path in (work / "raw").glob("*.parquet")}, folder)
    for name in sorted({lane.data_set.name for lane in lanes}):
        asked, got = (
            sum(lane.bytes for lane in lanes if lane.data_set.name == name),
            counts[f"bytes {name}"],
        )
        if got < 0.99 * asked:
            print(
                f"raw: {name} gave {got / 1e6:,.1f} MB of the {asked / 1e6:,.1f} asked for: some lanes hold no more",
                file=sys.stderr,
            )
    return counts


class ReadFiles(Step):
    """Task n reads the n-th of `parts` to the n-th of `places`: a folder that is whole or absent,
    with the counts of its documents.
    """

    def __init__(self, parts: list[paths.Part], places: list[Path], file_mb: float) -> None:
        super().__init__()
        self.parts, self.places, self.file_mb = parts, places, file_mb

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with files.replacing(self.places[rank]) as partial:
            files.write_json(
                partial / COUNTS, _write(local.read(self.parts[rank]), partial, self.file_mb)
            )
        yield from ()


class ReadLanes(Step):
    """Task n reads the n-th of `lanes`. A lane that was killed resumes after its last whole file."""

    def __init__(self, lanes: list[Lane], folder: Path, file_mb: float) -> None:
        super().__init__()
        self.lanes, self.folder, self.file_mb = lanes, folder, file_mb

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        lane = self.lanes[rank]
        report = hub.read_lane(lane, self.folder, self.file_mb, lambda done: self.tell(rank, done))
        self.count(
            Counter(
                {
                    f"documents {lane.data_set.name}": report.documents,
                    f"bytes {lane.data_set.name}": report.bytes,
                }
            )
        )
        yield from ()


def _write(documents: Iterable[Document], folder: Path, file_mb: float) -> Counter[str]:
    counts = Counter[str]()

    def counted() -> Iterator[Document]:
        for document in documents:
            counts[f"documents {document.source}"] += 1
            counts[f"bytes {document.source}"] += len(document.text.encode())
            yield document

    write_parquet(counted(), folder, file_mb)
    return counts


def _tallies(counts: Counter[str]) -> dict[str, Tally]:
    sources = [
        (n, label.removeprefix("documents "))
        for label, n in counts.items()
        if label.startswith("documents ")
    ]
    return {
        source: Tally(n, counts[f"bytes {source}"]) for n, source in sorted(sources, reverse=True)
    }
