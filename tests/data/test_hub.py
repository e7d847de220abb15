"""`datasets` streams from a hub on loopback, which fails as a real one does. Readers are processes: the hub's address is read once, at import."""

import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import hub_server
from helpers.hub_server import Fault, Repository

from antimatter.data import documents
from antimatter.data.sources import hub
from antimatter.data.sources.config import HubConfig, HubDataSet
from antimatter.data.sources.hub import Lane, LaneReport

ROWS = 200  # of each file
FILE_MB = (
    0.02  # about 100 rows of C4 and 60 of RefinedWeb: most output files end within an input file
)
C4_CARD = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
  - split: validation
    path: en/c4-validation.*.json.gz
- config_name: realnewslike
  data_files:
  - split: train
    path: realnewslike/c4-train.*.json.gz
dataset_info:
- config_name: en
  features:
  - {name: text, dtype: string}
  - {name: timestamp, dtype: string}
  - {name: url, dtype: string}
---
"""
WEB_CARD = """---
dataset_info:
  features:
  - {name: content, dtype: string}
  - {name: url, dtype: string}
  - {name: timestamp, dtype: 'timestamp[s]'}
  - {name: dump, dtype: string}
  - {name: segment, dtype: string}
  - name: image_urls
    sequence:
      sequence: string
---
"""


def text(part: str, file: int, row: int) -> str:
    """200 or 350 characters, of which compression spares half: so that a file takes several requests."""
    row_of = f"row {row} of file {file} of {part}"
    digests = [
        hashlib.sha256(f"{row_of}{n}".encode()).hexdigest()[: 50 + row % 9]
        for n in range(6 if part == "web" else 3)
    ]
    return " ".join([f"This is {row_of}:", *digests])


def json_gz(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def c4_rows(part: str, file: int) -> list[dict[str, Any]]:
    return [
        {
            "text": text(part, file, row),
            "timestamp": "2019-04-25T12:57:54Z",
            "url": f"https://example.org/{row}",
        }
        for row in range(ROWS)
    ]


def parquet(column: str, texts: list[str]) -> bytes:
    n = len(texts)
    columns = {
        column: texts,
        "url": ["https://example.org"] * n,
        "timestamp": pa.array([0] * n, pa.timestamp("s")),
        "dump": ["CC"] * n,
    }
    out = io.BytesIO()
    pq.write_table(
        pa.table({**columns, "segment": ["1"] * n, "image_urls": [[["a", "b"]]] * n}),
        out,
        row_group_size=60,
    )
    return out.getvalue()


def c4(files: int) -> Repository:
    train = {
        f"en/c4-train.{file:05d}-of-{files:05d}.json.gz": json_gz(c4_rows("en", file))
        for file in range(files)
    }
    validation = {"en/c4-validation.00000-of-00001.json.gz": json_gz(c4_rows("validation", 0))}
    news = {"realnewslike/c4-train.00000-of-00001.json.gz": json_gz(c4_rows("news", 0))}
    return Repository(
        "c" * 40,
        {"README.md": C4_CARD.encode(), ".gitattributes": b"", **train, **validation, **news},
    )


def refinedweb(files: int) -> Repository:
    pages = {file: [text("web", file, row) for row in range(ROWS)] for file in range(files)}
    train = {
        f"data/train-{file:05d}-of-{files:05d}-b8fc.parquet": parquet("content", texts)
        for file, texts in pages.items()
    }
    return Repository("d" * 40, {"README.md": WEB_CARD.encode(), **train})


C4 = HubDataSet(
    name="allenai/c4",
    config="en",
    split="train",
    revision="c" * 40,
    text_column="text",
    licence="odc-by",
    weight=1.0,
)
WEB = HubDataSet(
    name="tiiuae/falcon-refinedweb",
    config="default",
    split="train",
    revision="d" * 40,
    text_column="content",
    licence="odc-by",
    weight=1.0,
)
C4_TEXTS = [text("en", file, row) for file in range(4) for row in range(ROWS)]
WEB_TEXTS = [text("web", file, row) for file in range(5) for row in range(ROWS)]


def config(*data_sets: HubDataSet, total_mb: float = 1.0, lanes: int = 2) -> HubConfig:
    return HubConfig(total_mb=total_mb, lanes=lanes, data_sets=data_sets)


# ---- readers


def serve(pipe: Connection, stderr: Path) -> None:
    """A reader: does what it is asked for until the pipe closes."""
    import fsspec.config
    from datasets.packaged_modules.json.json import JsonConfig

    fsspec.config.conf["hf"] = {"block_size": 1000}  # else a file would be one request
    begin = JsonConfig.__post_init__
    JsonConfig.__post_init__ = lambda self: (begin(self), setattr(self, "chunksize", 10_000))[
        0
    ]  # else one chunk
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    for name, value in {
        "FIRST_PAUSE": 0.01,
        "LONGEST_PAUSE": 0.02,
        "TIMEOUT": 1.0,
        "PLACE_ROWS": 64,
    }.items():
        setattr(hub, name, value)
    documents.BATCH_BYTES = 6000
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            with contextlib.redirect_stderr(io.StringIO()) as said:
                try:
                    answer = function(*arguments)
                except Exception as error:
                    answer = error
            pipe.send((answer, said.getvalue()))


def read(lane: Lane, folder: Path, dies: int = 0, stops: int = 0) -> LaneReport:
    """Reads a lane and, if asked to, kills itself or stops at a step: text has been written, or a place is to be noted."""
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if steps == stops:
            raise InterruptedError

    note = hub.files.write_json
    hub.files.write_json = lambda path, value: (step(), note(path, value))[1]
    try:
        return hub.read_lane(lane, folder, FILE_MB, step)
    finally:
        hub.files.write_json = note


@dataclass
class Reader:
    process: Any
    pipe: Connection
    stderr: Path
    said: str = ""  # by the last call

    def ask(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.pipe.send((function, arguments))

    def answer(self) -> Any:
        assert self.pipe.poll(60), "the reader hangs"
        answer, self.said = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.ask(function, *arguments)
        return self.answer()

    def lanes(self, *data_sets: HubDataSet, **options: Any) -> list[Lane]:
        return self(hub.lanes, config(*data_sets, **options))

    def all(self, lanes: list[Lane], folder: Path) -> list[LaneReport]:
        return [self(read, lane, folder) for lane in lanes]


@pytest.fixture(scope="module")
def server():
    with hub_server.running({C4.name: c4(4), WEB.name: refinedweb(5)}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(server):
    yield
    server.faults.clear()


@pytest.fixture(scope="module")
def start(server, tmp_path_factory):
    readers = []

    def start(endpoint: str = server.url) -> Reader:
        home = tmp_path_factory.mktemp("home")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, home / "stderr"), daemon=True
        )
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
                patch.delenv(name)
            for name, value in {
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(home),
                "HF_TOKEN": "hf_secret",
            }.items():
                patch.setenv(name, value)
            process.start()
        theirs.close()
        readers.append(Reader(process, ours, home / "stderr"))
        return readers[-1]

    yield start
    for reader in readers:
        reader.pipe.close()
        reader.process.join()


@pytest.fixture(scope="module")
def reader(start):
    return start()


def texts(folder: Path) -> list[str]:
    return [
        row["text"]
        for path in sorted(folder.glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


# ---- what is read


def test_the_rows_of_both_layouts_come_whole_and_in_order(reader, tmp_path):
    lanes = reader.lanes(C4, WEB, lanes=2)
    assert [(lane.number, lane.index, lane.of) for lane in lanes] == [
        (0, 0, 2),
        (0, 1, 2),
        (1, 0, 2),
        (1, 1, 2),
    ]
    reports = reader.all(lanes, tmp_path)
    assert texts(tmp_path) == C4_TEXTS + WEB_TEXTS
    rows = pq.read_table(tmp_path / "001-00001-00001.parquet").to_pylist()
    assert rows[0].keys() == {"id", "text", "source", "licence", "kind"}
    assert {row["source"] for row in rows} == {WEB.name} and {row["licence"] for row in rows} == {
        "odc-by"
    }
    ids = [
        row["id"] for path in tmp_path.glob("*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    assert len(set(ids)) == len(ids) and "allenai/c4/en/train/1:400" in ids
    assert [report.documents for report in reports] == [
        400,
        400,
        600,
        400,
    ]  # as numpy.array_split deals 4 and 5 files
    assert [len(part) * ROWS for files in (4, 5) for part in np.array_split(range(files), 2)] == [
        400,
        400,
        600,
        400,
    ]


def test_lanes_are_no_more_than_files(reader):
    assert [lane.of for lane in reader.lanes(C4, lanes=100)] == [4] * 4


def test_each_lane_gets_its_share_within_a_document(reader, tmp_path):
    lanes = reader.lanes(replace(C4, weight=1.0), replace(WEB, weight=3.0), total_mb=0.16, lanes=2)
    assert [lane.bytes for lane in lanes] == [20_000, 20_000, 60_000, 60_000]
    longest = max(map(len, C4_TEXTS + WEB_TEXTS))
    for lane, report in zip(lanes, reader.all(lanes, tmp_path), strict=True):
        assert lane.bytes <= report.bytes < lane.bytes + longest
        parts = [
            sum(map(len, pq.read_table(path)["text"].to_pylist()))
            for path in sorted(tmp_path.glob(f"{lane.number:03d}-{lane.index:05d}-*.parquet"))
        ]
        assert sum(parts) == report.bytes and len(parts) == report.files
        assert all(FILE_MB * 1e6 <= part < FILE_MB * 1e6 + longest for part in parts[:-1])


def test_a_small_data_set_ends_early_and_says_so(reader, tmp_path):
    (lane,) = reader.lanes(replace(C4, config="realnewslike"), total_mb=1.0)
    report = reader(read, lane, tmp_path)
    assert (lane.bytes, report.documents) == (1_000_000, ROWS)
    assert report.bytes == sum(map(len, texts(tmp_path))) < lane.bytes


def test_text_that_json_can_write_and_utf8_cannot(server, reader, tmp_path):
    """As antimatter.data.sources.local has it: half a surrogate pair becomes a question mark, no text an empty one."""
    lines = [
        r'{"text": "caf\u00e9 \ud83d\ude00"}',
        r'{"text": "a \ud83d b"}',
        r'{"text": "c \\ud83d \\\ude00"}',
        '{"text": null}',
        '{"url": "x"}',
    ]
    server.repositories["owner/odd"] = Repository(
        "1" * 40, {"train.jsonl": "\n".join(lines).encode()}
    )
    (lane,) = reader.lanes(replace(C4, name="owner/odd", config="default", revision="1" * 40))
    reader(read, lane, tmp_path)
    assert texts(tmp_path) == ["café 😀", "a ? b", r"c \ud83d \?", "", ""]


def lanes_from(folder: Path, config: HubConfig) -> list[Lane]:
    with contextlib.chdir(folder):
        return hub.lanes(config)


def test_a_folder_of_the_same_name_is_not_taken_for_the_data_set(reader, tmp_path):
    (tmp_path / C4.name).mkdir(parents=True)
    (tmp_path / C4.name / "en.jsonl").write_text('{"text": "a trap"}')
    assert len(reader(lanes_from, tmp_path, config(replace(C4, licence="another"), lanes=4))) == 4


def test_two_revisions_are_two_data_sets(server, reader, tmp_path):
    for revision, words in (("1" * 40, "before"), ("2" * 40, "after")):
        server.repositories["owner/moves"] = Repository(
            revision, {"train.parquet": parquet("text", [words])}
        )
        (lane,) = reader.lanes(replace(C4, name="owner/moves", config="default", revision=revision))
        reader(read, lane, tmp_path / words)
        assert texts(tmp_path / words) == [words]


def test_parquet_is_not_fetched_ahead(server, reader, tmp_path):
    """As `datasets` would have it, in threads that can abort the process when it ends."""
    content = parquet(
        "text", [hashlib.sha512(f"{row}".encode()).hexdigest() for row in range(10_000)]
    )
    server.repositories["owner/long"] = Repository("1" * 40, {"train.parquet": content})
    (lane,) = reader.lanes(
        replace(C4, name="owner/long", config="default", revision="1" * 40), total_mb=0.1
    )
    server.requests.clear()
    assert reader(read, lane, tmp_path).documents == 782
    ranges = [
        request.split("bytes=")[1].split("-")
        for request in server.requests
        if request.startswith("GET /cdn")
    ]
    assert sum(int(end) + 1 - int(start) for start, end in ranges) < len(content) / 3


# ---- who reads, and how often it is killed, changes nothing


@pytest.fixture(scope="module")
def undisturbed(reader, tmp_path_factory):
    """The files of two lanes of each layout."""
    folder = tmp_path_factory.mktemp("undisturbed")
    lanes = reader.lanes(C4, replace(WEB, weight=2.0), total_mb=0.36)
    reader.all(lanes, folder)
    assert len(contents(folder)) == 2 * 3 + 2 * 6
    return lanes, contents(folder)


def test_readers_do_not_change_the_bytes(start, reader, undisturbed, tmp_path):
    lanes, expected = undisturbed
    other = start()
    for mine, others in zip(lanes[2:], lanes[1::-1], strict=True):
        reader.ask(read, mine, tmp_path)
        other.ask(read, others, tmp_path)
        reader.answer(), other.answer()
    assert contents(tmp_path) == expected


@pytest.mark.parametrize(("number", "deaths"), [(0, [7, 5]), (1, [7])], ids=["json", "parquet"])
def test_a_killed_lane_goes_on_and_leaves_the_same_bytes(
    start, reader, undisturbed, tmp_path, number, deaths
):
    """A file is four steps of text and a note: the first death is within the second file, the other after it, but before its note."""
    lanes, expected = undisturbed
    lane = lanes[2 * number + 1]
    expected = {
        name: content
        for name, content in expected.items()
        if name.startswith(f"{lane.number:03d}-00001")
    }
    reached = []
    for doomed, dies in [(start(), dies) for dies in deaths]:
        doomed.ask(read, lane, tmp_path, dies)
        doomed.process.join(60)
        assert doomed.process.exitcode == -signal.SIGKILL
        reached.append(len(contents(tmp_path)))
    assert reached == [1, 2][: len(deaths)]
    report = reader(read, lane, tmp_path)
    assert contents(tmp_path) == expected
    assert not list(tmp_path.glob(".*"))
    assert reader(read, lane, tmp_path) == report  # and does not ask the hub


def told(lane: Lane, folder: Path) -> list[int]:
    said: list[int] = []
    hub.read_lane(lane, folder, FILE_MB, said.append)
    return said


def test_progress_is_told_of_the_whole_lane(reader, undisturbed, tmp_path):
    lane = undisturbed[0][0]
    whole = reader(told, lane, tmp_path / "whole")
    assert (
        whole == sorted(set(whole))
        and len(whole) == 3 * 4
        and whole[-1] == reader(read, lane, tmp_path / "whole").bytes
    )
    with pytest.raises(InterruptedError):
        reader(read, lane, tmp_path / "part", 0, 6)
    assert reader(told, lane, tmp_path / "part") == whole[4:]


def test_what_other_parameters_left_is_not_mixed_in(reader, undisturbed, tmp_path):
    lane = undisturbed[0][0]
    reader(read, lane, tmp_path)
    with pytest.raises(
        ValueError, match=r"000-00000\.json was left by a run with other parameters: delete"
    ):
        reader(read, replace(lane, bytes=5), tmp_path)


# ---- faults that pass

DATA = "GET /(datasets|cdn)/(allenai|tiiuae)/.*(gz|parquet) bytes=[1-9]"
FAULTS = {
    "too many requests": (
        Fault(DATA, 1, status=429, headers={"Retry-After": "1"}),
        "HTTP 429 Too Many Requests; try 2 of 20 in 1 s",
    ),
    "rate limit": (
        Fault(DATA, 1, status=429, headers={"RateLimit": '"api";r=0;t=1'}),
        "HTTP 429 Too Many Requests; try 2 of 20 in 1 s",
    ),
    "internal error": (
        Fault(DATA, 3, status=500),
        "HTTP 500 Internal Server Error; try 4 of 20 in 0 s",
    ),
    "bad gateway": (Fault(DATA, 1, status=502), "HTTP 502 Bad Gateway; try 2 of 20"),
    "unavailable": (Fault(DATA, 1, status=503), "HTTP 503 Service Unavailable; try 2 of 20"),
    "reset": (Fault(DATA, 2, reset=True), "ReadError: "),
    "time-out": (Fault(DATA, 1, hang=True), "ReadTimeout: "),
    "cut": (
        Fault("GET /cdn/.*(gz|parquet)", 3, cut=50),
        "RemoteProtocolError: peer closed connection without sending complete message body",
    ),
    "no range": (Fault(DATA, 1, status=200), "0 bytes came instead of "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_leaves_no_trace(server, reader, undisturbed, tmp_path, name):
    lanes, expected = undisturbed
    fault, words = FAULTS[name]
    for lane in (
        lanes[:1] if fault.headers else lanes[::2]
    ):  # a wish for a pause is granted, and takes a second
        server.faults = [replace(fault)]
        reader(read, lane, tmp_path)
        assert server.faults[0].times == 0
        assert len(reader.said.splitlines()) == fault.times
        assert all(
            line.startswith(f"raw: {lane.data_set.name}/") and "try " in line
            for line in reader.said.splitlines()
        )
        assert words in reader.said
    assert contents(tmp_path).keys() >= {f"000-00000-{file:05d}.parquet" for file in range(3)}
    assert contents(tmp_path).items() <= expected.items()


def test_progress_earns_new_tries(server, reader, undisturbed, tmp_path):
    lanes, expected = undisturbed
    requests = ("00000-of.*=0-", "00000-of.*=[1-9]", "00001-of.*=0-")
    server.faults = [
        Fault(f"GET /datasets/allenai/.*{request}", 15, status=503) for request in requests
    ]
    reader(read, lanes[0], tmp_path)
    assert len(reader.said.splitlines()) == 45 > hub.TRIES
    assert len(contents(tmp_path)) == 3 and contents(tmp_path).items() <= expected.items()


def test_faults_while_a_data_set_is_opened_pass(server, reader, tmp_path):
    server.repositories["owner/fresh"] = c4(4)
    server.faults = [
        Fault("GET /api/datasets/owner/fresh/revision", 1, status=503),
        Fault("HEAD /datasets/owner/fresh/.*README", 1, reset=True),
        Fault("GET /datasets/owner/fresh/.*README", 1, cut=10),
        Fault("HEAD /datasets/owner/fresh/.*yaml", 1, status=500),
        Fault("GET /api/datasets/owner/fresh/tree/[^/]*/en", 1, hang=True),
        Fault("GET /api/datasets/owner/fresh/tree", 1, cut=100),
    ]
    lanes = reader.lanes(replace(C4, name="owner/fresh"))
    assert not any(fault.times for fault in server.faults) and len(reader.said.splitlines()) == len(
        server.faults
    )
    reader.all(lanes, tmp_path)
    assert texts(tmp_path) == C4_TEXTS


def test_a_lane_gives_up_after_many_tries_and_keeps_what_it_has(
    server, reader, undisturbed, tmp_path
):
    lanes, expected = undisturbed
    server.faults = [
        Fault("GET /datasets/allenai/.*00001-of-00004.json.gz bytes=[1-9]", 10_000, status=503)
    ]
    with pytest.raises(
        OSError,
        match=r"en/c4-train\.00001-of-00004\.json\.gz failed 20 times \(HTTP 503 Service Unavailable\).* is kept, run again",
    ):
        reader(read, lanes[0], tmp_path)
    assert 0 < len(contents(tmp_path)) < 3
    server.faults = []
    server.requests.clear()
    reader(read, lanes[0], tmp_path)
    assert contents(tmp_path) == {
        file: content for file, content in expected.items() if file.startswith("000-00000")
    }


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Retry-After": "90000"}, "25 hours"),
        ({"Retry-After": "Fri, 31 Dec 2199 23:59:59 GMT"}, "hours"),
        ({"RateLimit": '"api";r=0;t=3600'}, "60 minutes"),
    ],
)
def test_a_wish_for_a_long_pause_ends_the_run_and_keeps_what_was_read(
    server, reader, undisturbed, tmp_path, headers, words
):
    lanes, expected = undisturbed
    where = "GET /datasets/allenai/.*00001-of-00004.json.gz bytes=[1-9]"
    server.faults = [Fault(where, 1, status=429, headers=headers)]
    line = rf"^raw\.hub: .*HTTP 429 .*asks to wait \S* ?{words}.* kept.* run again"
    with pytest.raises(OSError, match=line) as caught:
        reader(read, lanes[0], tmp_path)
    assert "\n" not in str(caught.value) and not reader.said
    assert 0 < len(contents(tmp_path)) < 3
    reader(read, lanes[0], tmp_path)
    assert contents(tmp_path).items() <= expected.items() and len(contents(tmp_path)) == 3


def test_what_comes_garbled_is_read_once_more(server, reader, undisturbed, tmp_path):
    lanes, expected = undisturbed
    server.faults = [Fault("GET /cdn/allenai/.*00001-of-00004.json.gz bytes=[1-9]", 1, garble=True)]
    reader(read, lanes[0], tmp_path)
    assert "reading it once more" in reader.said
    assert len(contents(tmp_path)) == 3 and contents(tmp_path).items() <= expected.items()


# ---- errors that no further try mends

REFUSED = {
    "another data set": (
        {"name": "owner/none"},
        "owner/none does not exist, or is private: correct the name, or set HF_TOKEN",
    ),
    "another revision": (
        {"revision": "e" * 40},
        f"allenai/c4 has no revision {'e' * 40}: take a commit from https://huggingface.co/datasets/allenai/c4",
    ),
    "another config": (
        {"config": "klingon"},
        "allenai/c4 has no config klingon: set config to one of en, realnewslike",
    ),
    "another split": (
        {"split": "test"},
        "allenai/c4 has no split test: set split to one of train, validation",
    ),
    "another column": (
        {"text_column": "content"},
        "allenai/c4: has no column `content`: set text_column to one of text, timestamp, url",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_does_not_have_is_named_with_what_it_has(reader, name):
    change, words = REFUSED[name]
    with pytest.raises(ValueError, match=f"^raw.hub: {words}") as caught:
        reader.lanes(replace(C4, **change))
    assert "\n" not in str(caught.value) and not reader.said


def test_a_column_that_is_no_text_is_refused(reader):
    with pytest.raises(
        ValueError,
        match=r"falcon-refinedweb: column `timestamp` holds timestamp\[s\], which is no text: set text_column to another",
    ):
        reader.lanes(replace(WEB, text_column="timestamp"))
    with pytest.raises(ValueError, match="column `image_urls` holds a list, which is no text"):
        reader.lanes(replace(WEB, text_column="image_urls"))


def test_a_value_that_is_no_text_is_refused(server, reader, tmp_path):
    """A JSON array tells its types only when it is read."""
    server.repositories["owner/numbers"] = Repository("1" * 40, {"train.json": b'[{"text": 5}]'})
    (lane,) = reader.lanes(replace(C4, name="owner/numbers", config="default", revision="1" * 40))
    with pytest.raises(ValueError, match="owner/numbers: column `text` holds 5, which is no text"):
        reader(read, lane, tmp_path)


def test_terms_must_be_accepted(server, reader):
    server.repositories["owner/gated"] = replace(c4(1), gated=True)
    with pytest.raises(
        PermissionError,
        match=r"owner/gated is gated: accept its terms at https://huggingface\.co/datasets/owner/gated and set HF_TOKEN",
    ):
        reader.lanes(replace(C4, name="owner/gated"))


def test_a_token_that_the_hub_does_not_know(server, reader):
    server.faults = [
        Fault(
            "",
            100,
            status=401,
            headers={"X-Error-Message": "Invalid credentials in Authorization header"},
        )
    ]
    with pytest.raises(
        PermissionError, match=r"refuses owner/any \(HTTP 401\): renew or unset HF_TOKEN"
    ) as caught:
        reader.lanes(replace(C4, name="owner/any"))
    assert "hf_secret" not in f"{caught.value}{reader.said}"


@pytest.mark.parametrize("path", ["train-1.json.gz", "train-1.parquet"])
def test_a_broken_file_is_named_and_what_was_before_it_kept(server, reader, tmp_path, path):
    good, broken = path.replace("1", "0"), path
    content = (
        json_gz(c4_rows("en", 0))
        if path.endswith("gz")
        else parquet("text", [row["text"] for row in c4_rows("en", 0)])
    )
    name, half = f"owner/broken-{Path(path).suffix[1:]}", len(content) // 2
    server.repositories[name] = Repository(
        "1" * 40, {good: content, broken: content[:half] + bytes(half)}
    )
    (lane,) = reader.lanes(replace(C4, name=name, config="default", revision="1" * 40), lanes=1)
    with pytest.raises(
        ValueError,
        match=rf"{name}/{path} cannot be read after row 2\d\d of lane 0 \(.+\), twice: the file is broken",
    ) as caught:
        reader(read, lane, tmp_path)
    assert "\n" not in str(caught.value)
    whole = [row["text"] for row in c4_rows("en", 0)] * 2
    assert len(texts(tmp_path)) > 0 and texts(tmp_path) == whole[: len(texts(tmp_path))]


def test_no_network_is_told_after_few_tries(start, undisturbed, tmp_path):
    nowhere = start(endpoint="http://127.0.0.1:9")
    with pytest.raises(
        OSError,
        match=r"127\.0\.0\.1 cannot be reached \(ConnectError: .*check the network and HF_ENDPOINT, or set raw\.source to files",
    ):
        nowhere.lanes(C4)
    assert len(nowhere.said.splitlines()) == hub.FIRST_TRIES - 1
    with pytest.raises(
        OSError, match=r"allenai/c4 failed 20 times \(ConnectError: .*run again to go on"
    ):  # what once was reached may come back
        nowhere(read, undisturbed[0][0], tmp_path)


def lanes_offline(config: HubConfig) -> list[Lane]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "huggingface_hub.constants.HF_HUB_OFFLINE", True
        )  # as the environment variable does
        return hub.lanes(config)


def test_the_offline_mode_is_obeyed(reader):
    with pytest.raises(
        OSError, match=r"HF_HUB_OFFLINE forbids the network: unset it, or set raw\.source to files"
    ):
        reader(lanes_offline, config(replace(C4, licence="unknown")))


def test_another_revision_in_the_cache_is_no_way_out(server, reader):
    server.repositories["owner/cached"] = c4(1)
    (reader.stderr.parent / "datasets" / "owner___cached" / "en" / "0.0.0" / ("1" * 40)).mkdir(
        parents=True
    )
    server.faults = [Fault("owner/cached/.*README", 100, status=403)]
    with pytest.raises(
        ValueError,
        match=r"owner/cached cannot be streamed: .* Couldn't find 'owner/cached' on the Hugging Face Hub",
    ):
        reader.lanes(replace(C4, name="owner/cached"))


def test_nothing_else_is_said(server, reader, tmp_path):
    server.repositories["owner/quiet"] = c4(1)
    reader.all(reader.lanes(replace(C4, name="owner/quiet")), tmp_path)
    assert reader.said == ""
    server.repositories["owner/prose"] = Repository(
        "1" * 40, {"train.jsonl": b'{"text": "a"}\nThis is no JSON.\n'}
    )
    (lane,) = reader.lanes(replace(C4, name="owner/prose", config="default", revision="1" * 40))
    with pytest.raises(
        ValueError,
        match=r"owner/prose/train\.jsonl cannot be read after row 0 of lane 0 \(JSON parse error: Invalid value",
    ):
        reader(read, lane, tmp_path / "prose")
    assert reader.said.endswith("; reading it once more\n") and reader.said.count("\n") == 1
    assert reader.stderr.read_text() == ""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(C4, name="c4"), "name must be owner/name .* got 'c4'"),
        (
            lambda: replace(C4, revision="main"),
            "revision of allenai/c4 must be a whole commit, 40 hexadecimal digits, .* got 'main'",
        ),
        (lambda: replace(C4, revision="C" * 40), "40 hexadecimal digits"),
        (lambda: replace(C4, weight=0.0), "weight of allenai/c4 must exceed 0, got 0"),
        (lambda: replace(C4, split=""), "split of allenai/c4 must not be empty"),
        (lambda: config(C4, total_mb=0.0), "total_mb must exceed 0"),
        (lambda: config(C4, lanes=0), "lanes must be at least 1"),
        (
            lambda: config(C4, replace(C4, weight=2.0)),
            "data_sets names allenai/c4, en, train twice",
        ),
        (lambda: hub.lanes(config()), "data_sets must name at least one data set"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
