"""`datasets` streams from a hub on loopback: everything once and in order, with any
number of readers, however often they are killed.
"""

import contextlib
import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.hub_data import C4, C4_TEXTS, ROWS, WEB, WEB_TEXTS, config, parquet
from helpers.hub_reader import FILE_MB, Reader, contents, read, texts
from helpers.hub_server import Hub, Repository

from antimatter.data.sources import hub
from antimatter.data.sources.config import HubConfig
from antimatter.data.sources.hub import Lane
from antimatter.errors import UserError

Undisturbed = tuple[list[Lane], dict[str, bytes]]
# Of a data set of our own
OWN = replace(C4, config="default", revision="1" * 40)

pytestmark = pytest.mark.usefixtures("no_faults")


def test_the_rows_of_both_layouts_come_whole_and_in_order(reader: Reader, tmp_path: Path) -> None:
    lanes = reader.lanes(C4, WEB, lanes=2)
    assert [lane.name for lane in lanes] == ["000-00000", "000-00001", "001-00000", "001-00001"]
    assert [lane.num_shards for lane in lanes] == [2] * 4
    reports = reader.read_all(lanes, tmp_path)
    assert texts(tmp_path) == C4_TEXTS + WEB_TEXTS
    rows = pq.read_table(tmp_path / "001-00001-00001.parquet").to_pylist()
    assert rows[0].keys() == {"id", "text", "source", "licence", "kind"}
    assert {(row["source"], row["licence"]) for row in rows} == {(WEB.name, "odc-by")}
    ids = [
        name
        for path in tmp_path.glob("*.parquet")
        for name in pq.read_table(path)["id"].to_pylist()
    ]
    assert len(set(ids)) == len(ids) and "allenai/c4/en/train/1:400" in ids
    # The 4 and 5 files are dealt as numpy.array_split deals them
    files = [len(part) for number in (4, 5) for part in np.array_split(range(number), 2)]
    assert [report.documents for report in reports] == [number * ROWS for number in files]
    assert files == [2, 2, 3, 2]


def test_lanes_are_no_more_than_files(reader: Reader) -> None:
    assert [lane.num_shards for lane in reader.lanes(C4, lanes=100)] == [4] * 4


def test_each_lane_gets_its_share_within_a_document(reader: Reader, tmp_path: Path) -> None:
    lanes = reader.lanes(C4, replace(WEB, weight=3.0), total_mb=0.16, lanes=2)
    assert [lane.bytes for lane in lanes] == [20_000, 20_000, 60_000, 60_000]
    longest = max(map(len, C4_TEXTS + WEB_TEXTS))
    for lane, report in zip(lanes, reader.read_all(lanes, tmp_path), strict=True):
        assert lane.bytes <= report.bytes < lane.bytes + longest
        paths = sorted(tmp_path.glob(f"{lane.name}-*.parquet"))
        sizes = [sum(map(len, pq.read_table(path)["text"].to_pylist())) for path in paths]
        assert sum(sizes) == report.bytes and len(sizes) == report.files
        assert all(FILE_MB * 1e6 <= size < FILE_MB * 1e6 + longest for size in sizes[:-1])


def test_a_small_data_set_ends_early_and_reports_its_size(reader: Reader, tmp_path: Path) -> None:
    (lane,) = reader.lanes(replace(C4, config="realnewslike"), total_mb=1.0)
    report = reader(read, lane, tmp_path)
    assert (lane.bytes, report.documents) == (1_000_000, ROWS)
    assert report.bytes == sum(map(len, texts(tmp_path))) < lane.bytes


def test_text_that_json_can_write_and_utf8_cannot(
    server: Hub, reader: Reader, tmp_path: Path
) -> None:
    """As in antimatter.data.sources.local: half a surrogate pair becomes a question mark, and a
    missing text an empty one.
    """
    lines = [
        r'{"text": "caf\u00e9 \ud83d\ude00"}',
        r'{"text": "a \ud83d b"}',
        r'{"text": "c \\ud83d \\\ude00"}',
        '{"text": null}',
        '{"url": "x"}',
    ]
    content = {"train.jsonl": "\n".join(lines).encode()}
    server.repositories["owner/odd"] = Repository(OWN.revision, content)
    (lane,) = reader.lanes(replace(OWN, name="owner/odd"))
    reader(read, lane, tmp_path)
    assert texts(tmp_path) == ["café 😀", "a ? b", r"c \ud83d \?", "", ""]


def lanes_from(folder: Path, config: HubConfig) -> list[Lane]:
    with contextlib.chdir(folder):
        return hub.lanes(config)


def test_a_folder_of_the_same_name_is_not_taken_for_the_data_set(
    reader: Reader, tmp_path: Path
) -> None:
    (tmp_path / C4.name).mkdir(parents=True)
    (tmp_path / C4.name / "en.jsonl").write_text('{"text": "a trap"}')
    # Another licence, so that the reader opens the data set again
    given = config(replace(C4, licence="another"), lanes=4)
    assert len(reader(lanes_from, tmp_path, given)) == 4


def test_two_revisions_are_two_data_sets(server: Hub, reader: Reader, tmp_path: Path) -> None:
    for revision, words in (("1" * 40, "before"), ("2" * 40, "after")):
        content = {"train.parquet": parquet("text", [words])}
        server.repositories["owner/moves"] = Repository(revision, content)
        (lane,) = reader.lanes(replace(OWN, name="owner/moves", revision=revision))
        reader(read, lane, tmp_path / words)
        assert texts(tmp_path / words) == [words]


def test_parquet_is_not_fetched_ahead(server: Hub, reader: Reader, tmp_path: Path) -> None:
    """`datasets` itself would, in threads that can abort the process when it ends."""
    rows = [hashlib.sha512(f"{row}".encode()).hexdigest() for row in range(10_000)]
    content = parquet("text", rows)
    server.repositories["owner/long"] = Repository(OWN.revision, {"train.parquet": content})
    (lane,) = reader.lanes(replace(OWN, name="owner/long"), total_mb=0.1)
    server.requests.clear()
    assert reader(read, lane, tmp_path).documents == 782
    requests = [request for request in server.requests if request.startswith("GET /cdn")]
    ranges = [request.split("bytes=")[1].split("-") for request in requests]
    assert 0 < sum(int(end) + 1 - int(start) for start, end in ranges) < len(content) / 3


# ---- who reads, and how often it is killed, changes nothing


def test_readers_do_not_change_the_bytes(
    start: Callable[[], Reader], reader: Reader, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lanes, expected = undisturbed
    other = start()
    for mine, others in zip(lanes[2:], lanes[1::-1], strict=True):
        reader.ask(read, mine, tmp_path)
        other.ask(read, others, tmp_path)
        reader.answer()
        other.answer()
    assert contents(tmp_path) == expected


@pytest.mark.parametrize(("data_set", "deaths"), [(0, [7, 5]), (1, [7])], ids=["json", "parquet"])
def test_a_killed_lane_resumes_and_leaves_the_same_bytes(
    server: Hub,
    start: Callable[[], Reader],
    reader: Reader,
    undisturbed: Undisturbed,
    tmp_path: Path,
    data_set: int,
    deaths: list[int],
) -> None:
    """A file is four steps of text and one of the lane's state. The first death is within the
    second file; the other is after it, but before the state is written.
    """
    lanes, expected = undisturbed
    lane = lanes[2 * data_set + 1]
    expected = {name: data for name, data in expected.items() if name.startswith(lane.name)}
    files_left = []
    for doomed, dies in [(start(), dies) for dies in deaths]:
        doomed.ask(read, lane, tmp_path, dies)
        doomed.process.join(60)
        assert doomed.process.exitcode == -signal.SIGKILL
        files_left.append(len(contents(tmp_path)))
    assert files_left == [1, 2][: len(deaths)]
    report = reader(read, lane, tmp_path)
    assert contents(tmp_path) == expected
    assert not list(tmp_path.glob(".*"))
    # A finished lane does not ask the hub
    server.requests.clear()
    assert reader(read, lane, tmp_path) == report and not server.requests


def progress(lane: Lane, folder: Path) -> list[int]:
    sizes: list[int] = []
    hub.read_lane(lane, folder, FILE_MB, sizes.append)
    return sizes


def test_progress_is_that_of_the_whole_lane(
    reader: Reader, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lane = undisturbed[0][0]
    whole = reader(progress, lane, tmp_path / "whole")
    assert whole == sorted(set(whole)) and len(whole) == 3 * 4
    assert whole[-1] == reader(read, lane, tmp_path / "whole").bytes
    with pytest.raises(InterruptedError):
        reader(read, lane, tmp_path / "part", 0, 6)
    assert reader(progress, lane, tmp_path / "part") == whole[4:]


def test_the_state_of_a_lane_keeps_its_keys(
    reader: Reader, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """So that a new version resumes the work of an older one."""
    lane = undisturbed[0][1]
    reader(read, lane, tmp_path)
    state = json.loads((tmp_path / "000-00001.json").read_text())
    assert list(state) == ["identity", "ended", "place", "report"]
    identity = state["identity"]
    assert {key: identity[key] for key in ("number", "index", "of", "bytes", "file_mb")} == {
        "number": 0,
        "index": 1,
        "of": 2,
        "bytes": lane.bytes,
        "file_mb": FILE_MB,
    }
    assert identity["data_set"]["name"] == C4.name and identity["documents"] == lane.documents


def test_the_work_of_other_parameters_is_not_mixed_in(
    reader: Reader, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lane = undisturbed[0][0]
    reader(read, lane, tmp_path)
    with pytest.raises(UserError, match=rf"000-00000\.json .* delete {tmp_path}"):
        reader(read, replace(lane, bytes=5), tmp_path)
