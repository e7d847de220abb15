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
from antimatter.data.sources.faults import Report
from antimatter.data.sources.hub import Lane
from antimatter.data.sources.paths import Reading
from antimatter.errors import UserError
from antimatter.progress import StatusLine
from antimatter.tasks import executor
from antimatter.tasks.config import TasksRuntime
from antimatter.tasks.task import Step

COUNTS = "counts.json"  # beside the parquet files of a part
NAMED = 5  # faults in an error
NO_TEXT = "raw.files: no file holds any text: name others"


@dataclass(frozen=True)
class Tally:
    documents: int
    bytes: int  # of UTF-8 text


def write(
    config: RawConfig,
    folder: Path,
    work: Path,
    runtime: TasksRuntime,
    report: Report | None = None,
) -> dict[str, Tally]:
    """Writes the documents of the configured source to folder/*.parquet and returns the tally of
    each source, the largest first.

    The bytes depend on `config` and the source alone. What a killed call has read is kept in `work`
    for the next call (embedded takes seconds and starts over).

    Args:
        report: receives what was read and skipped of files.

    Raises:
        UserError: a setting or the source is wrong, or more of the files is unreadable than
            `max_skipped`.
    """
    report = Report() if report is None else report
    if config.source == "embedded":
        with files.replacing(folder) as partial:
            documents = embedded(config.packages, runtime.workers)
            return _tallies(_write(documents, partial, config.file_mb))
    if config.source == "hub":
        return _tallies(_read_hub(config, folder, work, runtime))
    return _tallies(_read_files(config, folder, work, runtime, report))


def _read_files(
    config: RawConfig, folder: Path, work: Path, runtime: TasksRuntime, report: Report
) -> Counter[str]:
    """Finished parts are named by their files, so after a file was corrected only its part is read
    again. Faults are judged at the end, so that one error names all of them.
    """
    listed = paths.listing(config.files, "raw.files")
    reading = Reading(config.join_lines, config.document_kb)
    parts = paths.cut(listed, config.file_mb, "raw.files", reading)
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
    for fault in listed.faults:
        report.skip(fault)
    report.counts.update({f"other {ending}": n for ending, n in listed.others.items()})
    for i, part_folder in enumerate(part_folders):
        output |= {f"{i:05d}-{path.name}": path for path in part_folder.glob("*.parquet")}
        saved = files.read_json(part_folder / COUNTS)
        counts += Counter(saved["sources"])
        report.add(Report(**saved["report"]))
    _judge(report, config.max_skipped, work)
    files.link(output, folder)
    return counts


def _judge(report: Report, max_skipped: float, work: Path) -> None:
    """Raises UserError if too much could not be read, with the first faults."""
    n, share = report.counts["faults"], report.share()
    if report.counts["documents"] and (not n or (max_skipped and share <= max_skipped)):
        return
    files.write_json(work / "skipped.json", report.faults)
    listed = "\nerror: ".join(report.messages[:NAMED])
    more = f"; the first {len(report.faults)} are in {work / 'skipped.json'}" if n > NAMED else ""
    if not report.counts["documents"]:
        raise UserError("\nerror: ".join(filter(None, (listed, f"{NO_TEXT}{more}"))))
    fault = f"faults: {n:,}, {share:.2%} of the bytes, and raw.max_skipped is {max_skipped:g}"
    fix = "correct the files, then only their parts are read again, or raise raw.max_skipped"
    raise UserError(f"{listed}\nerror: raw: {fault}: {fix}{more}")


def _identity(part: paths.Part) -> str:
    """A hash of a part: its files as they are on the disk, and how they are read."""
    on_disk: list[tuple[str, int, int]] = []
    for path in part.paths:
        try:
            stat = paths.located(path).stat()
            on_disk.append((path, stat.st_size, stat.st_mtime_ns))
        # Its reader reports what is wrong
        except OSError:
            on_disk.append((path, -1, 0))
    text = json.dumps([on_disk, asdict(part.config), asdict(part.reading)])
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
    the counts of its documents and its faults too.
    """

    def __init__(self, parts: list[paths.Part], folders: list[Path], file_mb: float) -> None:
        super().__init__()
        self.parts, self.folders, self.file_mb = parts, folders, file_mb

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        report, done = Report(), 0

        def documents() -> Iterator[Document]:
            nonlocal done
            for document in local.read(self.parts[rank], report):
                done += len(document.text)
                self.report_progress(rank, done)
                yield document

        with files.replacing(self.folders[rank]) as partial:
            counts = _write(documents(), partial, self.file_mb)
            files.write_json(partial / COUNTS, {"sources": counts, "report": vars(report)})
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
