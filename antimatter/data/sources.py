"""Where text comes from: the documentation inside the pinned packages, local files, or data sets of the hub. All of it becomes parquet files."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from datatrove.data import DocumentsPipeline

from antimatter import files, state
from antimatter.data import engine, hub, local
from antimatter.data.documents import Document, write_parquet
from antimatter.data.embedded import embedded
from antimatter.data.engine import EngineRuntime, Step
from antimatter.data.hub import HubConfig, Lane
from antimatter.data.local import FilesConfig


@dataclass(frozen=True, kw_only=True)
class RawConfig:
    source: Literal["embedded", "files", "hub"]
    file_mb: float  # text in one output file, in megabytes: a file is the unit of work of the stages that follow
    packages: dict[str, str]  # embedded: distribution and version, exactly as installed
    files: tuple[FilesConfig, ...]
    hub: HubConfig

    def __post_init__(self) -> None:
        if self.file_mb <= 0:
            raise ValueError(f"file_mb must exceed 0, got {self.file_mb}")
        if self.source == "embedded" and not self.packages:
            raise ValueError("packages must name at least one distribution when source is embedded, got none")
        if self.source == "files" and not self.files:
            raise ValueError("files must hold at least one pattern when source is files, got none")


@dataclass(frozen=True)
class Tally:
    documents: int
    bytes: int  # of UTF-8 text


def write(config: RawConfig, folder: Path, runtime: EngineRuntime) -> dict[str, Tally]:
    """Writes the documents of the configured source to folder/*.parquet; what each source gave, the largest first.

    The bytes depend on `config` and the source alone. A killed call that is made again goes on where it was (embedded takes seconds and starts over).
    """
    if config.source == "embedded":
        with files.replacing(folder) as partial:
            return _tallies(_write(embedded(config.packages, runtime.workers), partial, config.file_mb))
    step: Step
    if config.source == "files":
        parts = local.parts(config.files, config.file_mb, "raw.files")
        found = [[(path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in part.paths] for part in parts]
        with state.kept("raw", raw=asdict(config), files=found) as work:
            step = ReadFiles(parts, work / "raw", config.file_mb)
            counts = engine.run([step], [part.bytes for part in parts], work / "read", runtime, "raw")
            files.remove(work / "read")  # its marks speak of files that now move away
            files.publish(work / "raw", folder)
    else:
        lanes = hub.lanes(config.hub)
        with state.kept("raw", raw=asdict(config)) as work:
            step = ReadLanes(lanes, work / "raw", config.file_mb)
            counts = engine.run([step], [lane.bytes for lane in lanes], work / "read", runtime, "raw")
            for place in (work / "raw").glob("*.json"):
                place.unlink()
            files.remove(work / "read")
            files.publish(work / "raw", folder)
        for name in sorted({lane.data_set.name for lane in lanes}):
            asked, got = sum(lane.bytes for lane in lanes if lane.data_set.name == name), counts[f"bytes {name}"]
            if got < 0.99 * asked:
                print(f"raw: {name} gave {got / 1e6:,.1f} MB of the {asked / 1e6:,.1f} asked for: some lanes hold no more", file=sys.stderr)
    return _tallies(counts)


class ReadFiles(Step):
    """Task n reads the n-th of `parts`. A part that was killed is read again."""

    def __init__(self, parts: list[local.Part], folder: Path, file_mb: float) -> None:
        super().__init__()
        self.parts, self.folder, self.file_mb = parts, folder, file_mb

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self.count(_write(local.read(self.parts[rank]), self.folder, self.file_mb, f"{rank:05d}-"))
        yield from ()


class ReadLanes(Step):
    """Task n reads the n-th of `lanes`. A lane that was killed goes on after its last whole file."""

    def __init__(self, lanes: list[Lane], folder: Path, file_mb: float) -> None:
        super().__init__()
        self.lanes, self.folder, self.file_mb = lanes, folder, file_mb

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        lane = self.lanes[rank]
        report = hub.read_lane(lane, self.folder, self.file_mb, lambda done: self.tell(rank, done))
        self.count(Counter({f"documents {lane.data_set.name}": report.documents, f"bytes {lane.data_set.name}": report.bytes}))
        yield from ()


def _write(documents: Iterable[Document], folder: Path, file_mb: float, prefix: str = "") -> Counter[str]:
    counts = Counter[str]()

    def counted() -> Iterator[Document]:
        for document in documents:
            counts[f"documents {document.source}"] += 1
            counts[f"bytes {document.source}"] += len(document.text.encode())
            yield document

    write_parquet(counted(), folder, file_mb, prefix)
    return counts


def _tallies(counts: Counter[str]) -> dict[str, Tally]:
    sources = [(n, label.removeprefix("documents ")) for label, n in counts.items() if label.startswith("documents ")]
    return {source: Tally(n, counts[f"bytes {source}"]) for n, source in sorted(sources, reverse=True)}
