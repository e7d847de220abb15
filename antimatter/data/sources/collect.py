"""The source of the raw text: the documentation inside the pinned packages, local files, or data
sets of the hub. Each becomes parquet files.
"""

import hashlib
import json
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
from antimatter.progress import StatusLine
from antimatter.tasks import executor
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.task import Step

COUNTS = "counts.json"  # beside the parquet files of a part


@dataclass(frozen=True)
class Tally:
    documents: int
    bytes: int  # of UTF-8 text


def write(config: RawConfig, folder: Path, work: Path, runtime: TasksRuntime) -> dict[str, Tally]:
    """Writes the documents of the configured source to folder/*.parquet and returns the tally of
    each source, the largest first.

    The bytes depend on `config` and the source alone. What a killed call has read is kept in `work`
    for the next call (embedded takes seconds and starts over).
    """
    if config.source == "embedded":
        with files.replacing(folder) as partial:
            documents = embedded(config.packages, runtime.workers)
            return _tallies(_write(documents, partial, config.file_mb))
    read = _read_files if config.source == "files" else _read_hub
    return _tallies(read(config, folder, work, runtime))


def _read_files(config: RawConfig, folder: Path, work: Path, runtime: TasksRuntime) -> Counter[str]:
    """Finished parts are named by their files, so after a file was corrected only its part is read
    again.
    """
    parts = paths.parts(config.files, config.file_mb, "raw.files")
    part_folders = [work / "parts" / _identity(part) for part in parts]
    missing = {
        part_folder: part
        for part_folder, part in zip(part_folders, parts, strict=True)
        if not part_folder.exists()
    }
    if done := len(parts) - len(missing):
        StatusLine().log(f"raw: resuming, {done:,} of {len(parts):,} parts were read")
    # Its completions are by number, and the numbers may be those of other parts now
    files.remove(work / "read")
    if missing:
        step = ReadFiles(list(missing.values()), list(missing), config.file_mb)
        sizes = [part.bytes for part in missing.values()]
        executor.run([step], sizes, work / "read", runtime, "raw")
    output: dict[str, Path] = {}
    counts = Counter[str]()
    for i, part_folder in enumerate(part_folders):
        output |= {f"{i:05d}-{path.name}": path for path in part_folder.glob("*.parquet")}
        counts += Counter(files.read_json(part_folder / COUNTS))
    files.link(output, folder)
    return counts


def _identity(part: paths.Part) -> str:
    """A hash of a part: its files as they are on the disk, and how they are read."""
    stats = [(path, paths.located(path).stat()) for path in part.paths]
    on_disk = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    text = json.dumps([on_disk, asdict(part.config)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_hub(config: RawConfig, folder: Path, work: Path, runtime: TasksRuntime) -> Counter[str]:
    lanes = hub.lanes(config.hub)
    step = ReadLanes(lanes, work / "raw", config.file_mb)
    counts = executor.run([step], [lane.bytes for lane in lanes], work / "read", runtime, "raw")
    files.link({path.name: path for path in (work / "raw").glob("*.parquet")}, folder)
    for name in sorted({lane.data_set.name for lane in lanes}):
        requested = sum(lane.bytes for lane in lanes if lane.data_set.name == name)
        size = counts[f"bytes {name}"]
        if size < 0.99 * requested:
            amounts = f"{size / 1e6:,.1f} MB of the {requested / 1e6:,.1f} asked for"
            StatusLine().log(f"raw: {name} gave {amounts}: some lanes hold no more")
    return counts


class ReadFiles(Step):
    """Task n reads the n-th of `parts` to the n-th of `folders`, which is whole or absent and holds
    the counts of its documents too.
    """

    def __init__(self, parts: list[paths.Part], folders: list[Path], file_mb: float) -> None:
        super().__init__()
        self.parts, self.folders, self.file_mb = parts, folders, file_mb

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with files.replacing(self.folders[rank]) as partial:
            counts = _write(local.read(self.parts[rank]), partial, self.file_mb)
            files.write_json(partial / COUNTS, counts)
        yield from ()


class ReadLanes(Step):
    """Task n reads the n-th of `lanes`. A killed lane resumes after its last whole file."""

    def __init__(self, lanes: list[Lane], folder: Path, file_mb: float) -> None:
        super().__init__()
        self.lanes, self.folder, self.file_mb = lanes, folder, file_mb

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        lane = self.lanes[rank]

        def on_progress(done: int) -> None:
            self.report_progress(rank, done)

        report = hub.read_lane(lane, self.folder, self.file_mb, on_progress)
        counts = {"documents": report.documents, "bytes": report.bytes}
        self.count(Counter({f"{key} {lane.data_set.name}": n for key, n in counts.items()}))
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
