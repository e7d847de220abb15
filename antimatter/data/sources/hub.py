"""Text from data sets of the Hugging Face hub, streamed: of what is fetched, only the text stays on the disk.

The files of a data set are dealt to lanes. A lane reads its files in order until it has its share of the bytes, and knows nothing of the others: any
number of readers, on any machines, leaves the same files. After each output file a lane notes its place, so a killed one goes on from there.

The network is mended in one place, the HTTP client: above it `datasets` sees answers that are whole, or one error after many tries.
"""

import codecs
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, httpx, parse_ratelimit_headers  # type: ignore[attr-defined]

from antimatter import files, retries
from antimatter.data.documents import Document, write_file
from antimatter.data.sources.config import LIST, HubConfig, HubDataSet, page_of
from antimatter.errors import UserError

TRIES = 20  # of one request, then the run ends: about a quarter of an hour
# As long as the hub has never answered: that is rather a wrong setting than a fault that passes
FIRST_TRIES = 3
FIRST_PAUSE = 1.0  # seconds before the second try; each pause is twice the one before ...
LONGEST_PAUSE = 60.0  # ... up to this, unless the hub asks for more, up to retries.LONGEST
TIMEOUT = 30.0  # seconds without a byte
PASSING = {408, 429, 500, 502, 503, 504}  # HTTP statuses that another try may mend
PLACE_ROWS = 1000  # rows between two notes of the place to which a second reading goes back


@dataclass(frozen=True, kw_only=True)
class Lane:
    """All that a reader needs to know."""

    data_set: HubDataSet
    number: int  # of the data set
    index: int  # of this lane among those of the data set ...
    of: int  # ... and how many they are
    bytes: int  # of UTF-8 text to read; the last document may exceed it
    documents: int = sys.maxsize  # to read at most


@dataclass(frozen=True, kw_only=True)
class LaneReport:
    files: int
    documents: int
    bytes: int  # fewer than the lane asks for if its files hold no more


def lanes(config: HubConfig) -> list[Lane]:
    """The lanes of all data sets, in the order of their output files. Asks the hub how many files there are.

    Raises:
        ValueError: there is no such data set, revision, config, split or text column; PermissionError: its terms are not accepted.
        OSError: the hub cannot be reached.
    """
    if not config.data_sets:
        raise UserError(
            "raw.hub.data_sets must name at least one data set when source is hub, got none"
        )
    weights = sum(data_set.weight for data_set in config.data_sets)
    found = []
    for number, data_set in enumerate(config.data_sets):
        of = min(config.lanes, files_of(data_set))
        share = round(config.total_mb * 1e6 * data_set.weight / weights / of)
        found += [
            Lane(data_set=data_set, number=number, index=index, of=of, bytes=share)
            for index in range(of)
        ]
    return found


def files_of(data_set: HubDataSet) -> int:
    """How many files a data set has: its lanes can be as many.

    Raises:
        ValueError, PermissionError, OSError: as lanes() does.
    """
    number: int = _open(data_set).num_shards
    return number


def read_lane(lane: Lane, folder: Path, file_mb: float, say: Callable[[int], None]) -> LaneReport:
    """Writes the text of a lane to folder/{data set}-{lane}-{file}.parquet and goes on where an earlier call was killed.

    Args:
        folder: also keeps {data set}-{lane}.json, the lane's place.
        file_mb: megabytes of text in one file.
        say: is told every few megabytes how many bytes of text the lane has so far, those of earlier calls among them.

    Raises:
        ValueError: the data cannot be read as text.
        OSError: the network does not recover. What was read is kept.
    """
    _Client.reached = True  # lanes() has reached it: whatever fails now may pass
    name = f"{lane.number:03d}-{lane.index:05d}"
    identity = {**asdict(lane), "file_mb": file_mb}
    note: dict[str, Any] = {
        "identity": identity,
        "ended": False,
        "place": None,
        "report": {"files": 0, "documents": 0, "bytes": 0},
    }
    path = folder / f"{name}.json"
    if path.exists():
        note = files.read_json(path)
        if note["identity"] != identity:
            raise UserError(f"{path} was left by a run with other parameters: delete {folder}")
    report = LaneReport(**note["report"])
    if note["ended"]:
        return report
    dataset = (
        _open(lane.data_set).shard(lane.of, lane.index).select_columns([lane.data_set.text_column])
    )
    left = lane.documents - report.documents
    documents = islice(_documents(dataset, lane, note["place"], report.documents), left)
    ended = False
    while not ended:
        limit = min(file_mb * 1e6, lane.bytes - report.bytes)
        number, size = write_file(
            documents,
            folder / f"{name}-{report.files:05d}.parquet",
            limit,
            partial(_say_sum, say, report.bytes),
        )
        report = LaneReport(
            files=report.files + (number > 0),
            documents=report.documents + number,
            bytes=report.bytes + size,
        )
        ended = number == 0 or report.bytes >= lane.bytes
        files.write_json(
            path,
            {
                "identity": identity,
                "ended": ended,
                "place": dataset.state_dict(),
                "report": asdict(report),
            },
        )
    return report


def _say_sum(say: Callable[[int], None], before: int, size: int) -> None:
    say(before + size)


def _documents(dataset: Any, lane: Lane, place: Any, before: int) -> Iterator[Document]:
    """The documents of a lane from `place` on, where it has given `before` documents already.

    What cannot be read is read once more, from the last place noted: a fault on the way passes, one in the file stays.
    """
    data_set = lane.data_set
    begin = f"{data_set.name}/{data_set.config}/{data_set.split}/{lane.index}"
    row = noted = before
    failed = -1
    _Client.begin(data_set)
    while True:
        try:
            dataset.load_state_dict(place)
            for values in islice(dataset, row - noted, None):
                value = values[data_set.text_column]
                text = data_set.text(value)
                if text is None:
                    raise _Refusal(data_set.refused(f"{value!r:.60}"))
                row += 1
                yield Document(f"{begin}:{row}", text, data_set.name, data_set.licence)
                if row % PLACE_ROWS == 0:
                    place, noted = dataset.state_dict(), row
            return
        except Exception as error:
            if refused := _refusal(error, data_set):
                raise refused from None
            fault = f"{_Client.asked} cannot be read after row {row:,} of lane {lane.index} ({_line(error)})"
            if failed == row:
                fix = f"take another revision, or tell its owner at {page_of(data_set.name)}/discussions"
                raise UserError(
                    f"{data_set.stage}.hub: {fault}, twice: the file is broken; {fix}"
                ) from None
            failed = row
            print(f"{data_set.stage}: {fault}; reading it once more", file=sys.stderr, flush=True)


@cache
def _open(data_set: HubDataSet) -> Any:
    """The data set as a datasets.IterableDataset.

    Raises:
        ValueError, PermissionError, OSError: as lanes() does.
    """
    import datasets  # type: ignore[import-untyped] # takes half a second, which the other sources need not pay

    datasets.disable_progress_bars()
    disable_progress_bars()
    for chatter in (datasets.logging, huggingface_hub.logging):
        chatter.set_verbosity(logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request to another host
    codecs.register(_codec)
    hooks = huggingface_hub.get_session().event_hooks
    huggingface_hub.set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True))

    _Client.begin(data_set)
    api = huggingface_hub.HfApi()
    column = data_set.text_column
    try:
        if api.dataset_info(data_set.name, revision=data_set.revision).gated:
            api.auth_check(data_set.name, repo_type="dataset")
        # Else, when the hub fails, it takes whatever revision its cache holds
        with TemporaryDirectory() as empty:
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{data_set.name}",  # never a folder of that name
                data_set.config,
                revision=data_set.revision,
                cache_dir=empty,
            )
        if builder.name == "json":
            builder.config.encoding = MENDED
        dataset = builder.as_streaming_dataset(data_set.split)
        if features := dataset.features:  # unknown for some JSON; then the rows tell
            if column not in features:
                raise _Refusal(
                    f"has no column `{column}`: set {data_set.column_key} to one of {', '.join(features)}"
                )
            if not data_set.takes(held := getattr(features[column], "dtype", LIST)):
                raise _Refusal(data_set.refused(held))
        if builder.name == "parquet":
            builder.config.columns = [column]
            builder._generate_tables = lambda files, **_: _tables(files, column)
            dataset = builder.as_streaming_dataset(data_set.split)
        return dataset
    except Exception as error:
        raise _refusal(error, data_set) or ValueError(
            f"{data_set.stage}.hub: {data_set.name} cannot be streamed: {_line(error)}"
        ) from None


def _tables(paths: list[str], column: str) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    """The text in parquet files, with (file, batch), read in this thread.

    What it replaces in `datasets` fetches and decodes whole files ahead in threads. They outlive the reading and abort a process that ends meanwhile
    (https://github.com/apache/arrow/issues/45214).
    """
    for number, path in enumerate(paths):
        with huggingface_hub.HfFileSystem().open(path, "rb") as file:
            for index, batch in enumerate(
                pq.ParquetFile(file, pre_buffer=False).iter_batches(
                    1000, columns=[column], use_threads=False
                )
            ):
                yield (number, index), pa.Table.from_batches([batch])


class _Refusal(Exception):
    """What we find wrong with a data set."""


def _refusal(error: Exception, data_set: HubDataSet) -> Exception | None:
    """What no further try mends, as one line with the way out."""
    key, name, page, words = (
        f"{data_set.stage}.hub",
        data_set.name,
        page_of(data_set.name),
        str(error),
    )
    known = ", ".join(re.findall(r"'([^']+)'", words.partition("vailable")[2]))
    if _Client.failed:  # whatever was made of it on the way
        return _Client.failed
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{key}: {name} is gated: accept its terms at {page} and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return ValueError(
            f"{key}: {name} has no revision {data_set.revision}: take a commit from {page}/commits/main"
        )
    if isinstance(error, RepositoryNotFoundError):
        return ValueError(
            f"{key}: {name} does not exist, or is private: correct the name, or set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return PermissionError(
            f"{key}: the hub refuses {_Client.asked} (HTTP {error.response.status_code}): renew or unset HF_TOKEN, see https://huggingface.co/settings/tokens"
        )
    if isinstance(error, HfHubHTTPError):
        return OSError(
            f"{key}: the hub answers HTTP {error.response.status_code} for {_Client.asked}: check name and revision, and HF_ENDPOINT"
        )
    if words.startswith("BuilderConfig"):
        return ValueError(
            f"{key}: {name} has no config {data_set.config}: set config to one of {known}"
        )
    if words.startswith("Bad split"):
        return ValueError(
            f"{key}: {name} has no split {data_set.split}: set split to one of {known}"
        )
    if isinstance(error, _Refusal):
        return ValueError(f"{key}: {name}: {words}")
    return None


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class _Client(httpx.Client):
    """The HTTP client of huggingface_hub, with patience. The body is read here too, where a break in it can be mended."""

    reached: ClassVar[bool] = False  # the hub has answered
    # What it gave up with; kept because the layers above may swallow it
    failed: ClassVar[OSError | None] = None
    asked: ClassVar[str] = ""  # the file of the last request
    stage: ClassVar[str] = HubDataSet.stage  # for whom it asks ...
    instead: ClassVar[str] = HubDataSet.instead  # ... and what else that one can do

    @classmethod
    def begin(cls, data_set: HubDataSet) -> None:
        """Begins with a data set: no request of it has failed yet."""
        cls.failed, cls.stage, cls.instead = None, data_set.stage, data_set.instead

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        asked = _Client.asked = re.sub(
            r"^/(api/)?datasets/|/(resolve|tree|revision)/[0-9a-f]{40}", "", request.url.path
        )
        request.extensions["timeout"] = httpx.Timeout(TIMEOUT).as_dict()
        key = f"{_Client.stage}.hub"
        tries = 0
        while _Client.failed is None:
            tries += 1
            wish = 0.0
            try:
                response = super().send(request, **{**options, "stream": False})
                _Client.reached = True
                fault = _fault(request, response)
                if not fault:
                    return response
                wish = _wish(response)
            except OfflineModeIsEnabled:
                _Client.failed = OSError(
                    f"{key}: HF_HUB_OFFLINE forbids the network: unset it, or {_Client.instead}"
                )
                break
            except (httpx.TransportError, httpx.DecodingError) as error:
                fault = f"{type(error).__name__}: {_line(error)}"
            if not _Client.reached and tries >= FIRST_TRIES:
                _Client.failed = OSError(
                    f"{key}: {request.url.host} cannot be reached ({fault}): check the network and HF_ENDPOINT, or {_Client.instead}"
                )
            elif wish > retries.LONGEST:
                fix = "what was read is kept, run again after that to go on"
                wait = f"the hub asks to wait {retries.span(wish)}"
                _Client.failed = OSError(f"{key}: {asked}: {fault}; {wait}: {fix}")
            elif tries >= TRIES:
                _Client.failed = OSError(
                    f"{key}: {asked} failed {tries} times ({fault}): what was read is kept, run again to go on"
                )
            else:
                pause = max(wish, min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE))
                print(
                    f"{_Client.stage}: {asked}: {fault}; try {tries + 1} of {TRIES} in {pause:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
                time.sleep(pause)
        raise _Client.failed


def _fault(request: httpx.Request, response: httpx.Response) -> str:
    """What is wrong with an answer that another try may mend."""
    if response.status_code in PASSING:
        return f"HTTP {response.status_code} {response.reason_phrase}"
    wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if (
        wanted
        and response.is_success
        and len(response.content) != (length := int(wanted[2]) - int(wanted[1]) + 1)
    ):
        return f"{len(response.content):,} bytes came instead of {length:,}"
    return ""


def _wish(response: httpx.Response) -> float:
    """Seconds that the hub asks to wait."""
    if after := response.headers.get("retry-after"):
        return retries.asked(after, time.time())
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit and not limit.remaining else 0.0


# ---- JSON can escape half a surrogate pair, "\ud83d", which is no text and stops Arrow

MENDED = "json_without_half_surrogates"
# The last is the half
ESCAPES = re.compile(
    r"\\\\|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u[dD][89a-fA-F][\da-fA-F]{2}"
)


def _codec(name: str) -> codecs.CodecInfo | None:
    if name != MENDED:
        return None
    return codecs.CodecInfo(
        codecs.utf_8_encode,
        _mend,
        incrementaldecoder=codecs.getincrementaldecoder("utf-8"),
        name=MENDED,
    )


def _mend(content: Any, errors: str = "strict") -> tuple[str, int]:
    text = bytes(content).decode("utf-8", errors)
    if "\\ud" in text or "\\uD" in text:
        text = ESCAPES.sub(lambda escape: "?" if len(escape[0]) == 6 else escape[0], text)
    return text, len(content)
