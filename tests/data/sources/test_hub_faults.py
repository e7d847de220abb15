"""A hub on loopback fails as a real one does: a temporary fault leaves no trace, and a permanent
one is an error of one line.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_data import C4, C4_TEXTS, WEB, c4, c4_rows, config, json_gz, parquet
from helpers.hub_reader import Reader, contents, read, texts
from helpers.hub_server import Fault, Hub, Repository

from antimatter.data.sources import hub, hub_http
from antimatter.data.sources.config import HubConfig, HubDataSet
from antimatter.data.sources.hub import Lane
from antimatter.errors import UserError

Undisturbed = tuple[list[Lane], dict[str, bytes]]
# Of a data set of our own
OWN = replace(C4, config="default", revision="1" * 40)
# Of the second file of the first lane, when the first one is written
SECOND_FILE = "GET /datasets/allenai/.*00001-of-00004.json.gz bytes=[1-9]"

pytestmark = pytest.mark.usefixtures("no_faults")


# ---- temporary faults

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
def test_a_temporary_fault_leaves_no_trace(
    server: Hub, reader: Reader, undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    lanes, expected = undisturbed
    fault, words = FAULTS[name]
    # One lane where the hub asks for a pause, which takes a second
    for lane in lanes[:1] if fault.headers else lanes[::2]:
        server.faults = [replace(fault)]
        reader(read, lane, tmp_path)
        assert server.faults[0].times == 0
        lines = reader.output.splitlines()
        assert len(lines) == fault.times and words in reader.output
        assert all(line.startswith(f"raw: {lane.data_set.name}/") for line in lines)
        assert all("try " in line for line in lines)
    assert contents(tmp_path).keys() >= {f"000-00000-{file:05d}.parquet" for file in range(3)}
    assert contents(tmp_path).items() <= expected.items()


def test_each_request_has_all_tries(
    server: Hub, reader: Reader, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lanes, expected = undisturbed
    requests = ("00000-of.*=0-", "00000-of.*=[1-9]", "00001-of.*=0-")
    server.faults = [Fault(f"GET /datasets/allenai/.*{path}", 15, status=503) for path in requests]
    reader(read, lanes[0], tmp_path)
    assert len(reader.output.splitlines()) == 45 > hub_http.TRIES
    assert len(contents(tmp_path)) == 3 and contents(tmp_path).items() <= expected.items()


def test_faults_while_a_data_set_is_opened_pass(
    server: Hub, reader: Reader, tmp_path: Path
) -> None:
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
    assert not any(fault.times for fault in server.faults)
    assert len(reader.output.splitlines()) == len(server.faults)
    reader.read_all(lanes, tmp_path)
    assert texts(tmp_path) == C4_TEXTS


def test_a_lane_gives_up_after_many_tries_and_keeps_what_it_has(
    server: Hub, reader: Reader, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lanes, expected = undisturbed
    server.faults = [Fault(SECOND_FILE, 10_000, status=503)]
    line = r"^raw\.hub: .*/c4-train\.00001-of-00004\.json\.gz: HTTP 503 .* 20 times .* kept, run ag"
    with pytest.raises(UserError, match=line) as caught:
        reader(read, lanes[0], tmp_path)
    assert "\n" not in str(caught.value)
    assert 0 < len(contents(tmp_path)) < 3
    server.faults = []
    reader(read, lanes[0], tmp_path)
    assert len(contents(tmp_path)) == 3 and contents(tmp_path).items() <= expected.items()


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Retry-After": "90000"}, "25 hours"),
        ({"Retry-After": "Fri, 31 Dec 2199 23:59:59 GMT"}, "hours"),
        ({"RateLimit": '"api";r=0;t=3600'}, "60 minutes"),
    ],
)
def test_a_request_for_a_long_pause_ends_the_run_and_keeps_what_was_read(
    server: Hub,
    reader: Reader,
    undisturbed: Undisturbed,
    tmp_path: Path,
    headers: dict[str, str],
    words: str,
) -> None:
    lanes, expected = undisturbed
    server.faults = [Fault(SECOND_FILE, 1, status=429, headers=headers)]
    line = rf"^raw\.hub: .*HTTP 429 .*asks to wait \S* ?{words}.* kept.* run again"
    with pytest.raises(UserError, match=line) as caught:
        reader(read, lanes[0], tmp_path)
    assert "\n" not in str(caught.value) and not reader.output
    assert 0 < len(contents(tmp_path)) < 3
    reader(read, lanes[0], tmp_path)
    assert contents(tmp_path).items() <= expected.items() and len(contents(tmp_path)) == 3


def test_a_garbled_response_is_read_once_more(
    server: Hub, reader: Reader, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    lanes, expected = undisturbed
    server.faults = [Fault("GET /cdn/allenai/.*00001-of-00004.json.gz bytes=[1-9]", 1, garble=True)]
    reader(read, lanes[0], tmp_path)
    assert "reading it once more" in reader.output
    assert len(contents(tmp_path)) == 3 and contents(tmp_path).items() <= expected.items()


# ---- permanent faults

REFUSED = {
    "another data set": (
        {"name": "owner/none"},
        "owner/none does not exist, or is private: correct the name, or set HF_TOKEN",
    ),
    "another revision": (
        {"revision": "e" * 40},
        f"allenai/c4 has no revision {'e' * 40}: .*https://huggingface.co/datasets/allenai/c4",
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
        "allenai/c4 has no column `content`: set text_column to one of text, timestamp, url",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unknown_name_is_reported_with_the_known_ones(reader: Reader, name: str) -> None:
    change, words = REFUSED[name]
    with pytest.raises(UserError, match=f"^raw.hub: {words}") as caught:
        reader.lanes(replace(C4, **change))
    assert "\n" not in str(caught.value) and not reader.output


@pytest.mark.parametrize(
    ("column", "content"), [("timestamp", r"timestamp\[s\]"), ("image_urls", "a list")]
)
def test_a_column_that_is_not_text_is_refused(reader: Reader, column: str, content: str) -> None:
    line = rf"falcon-refinedweb: column `{column}` holds {content}, .*: set text_column"
    with pytest.raises(UserError, match=line):
        reader.lanes(replace(WEB, text_column=column))


def test_a_value_that_is_not_text_is_refused(server: Hub, reader: Reader, tmp_path: Path) -> None:
    """The types of a JSON array are known only when it is read."""
    content = {"train.json": b'[{"text": 5}]'}
    server.repositories["owner/numbers"] = Repository(OWN.revision, content)
    (lane,) = reader.lanes(replace(OWN, name="owner/numbers"))
    with pytest.raises(UserError, match=r"owner/numbers: column `text` holds 5, .*: set text_col"):
        reader(read, lane, tmp_path)


def test_terms_must_be_accepted(server: Hub, reader: Reader) -> None:
    server.repositories["owner/gated"] = replace(c4(1), gated=True)
    page = r"https://huggingface\.co/datasets/owner/gated"
    with pytest.raises(UserError, match=rf"owner/gated is gated: .* {page} .* HF_TOKEN"):
        reader.lanes(replace(C4, name="owner/gated"))


def test_a_token_that_the_hub_does_not_know(server: Hub, reader: Reader) -> None:
    headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
    server.faults = [Fault("", 100, status=401, headers=headers)]
    with pytest.raises(
        UserError, match=r"owner/any \(HTTP 401\): renew or unset HF_TOKEN"
    ) as error:
        reader.lanes(replace(C4, name="owner/any"))
    assert "hf_secret" not in f"{error.value}{reader.output}"


@pytest.mark.parametrize("path", ["train-1.json.gz", "train-1.parquet"])
def test_a_damaged_file_is_named_and_what_was_before_it_kept(
    server: Hub, reader: Reader, tmp_path: Path, path: str
) -> None:
    rows = c4_rows("en", 0)
    expected = [row["text"] for row in rows]
    content = json_gz(rows) if path.endswith("gz") else parquet("text", expected)
    name, half = f"owner/damaged-{Path(path).suffix[1:]}", len(content) // 2
    damaged = content[:half] + bytes(half)
    given = {path.replace("1", "0"): content, path: damaged}
    server.repositories[name] = Repository(OWN.revision, given)
    (lane,) = reader.lanes(replace(OWN, name=name), lanes=1)
    line = rf"{name}/{path} cannot be read after row 2\d\d of lane 0 \(.+\), twice"
    with pytest.raises(UserError, match=line) as caught:
        reader(read, lane, tmp_path)
    assert "\n" not in str(caught.value)
    kept = texts(tmp_path)
    assert len(kept) > 0 and kept == (expected * 2)[: len(kept)]


def test_a_missing_network_is_reported_after_few_tries(
    start: Callable[..., Reader], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    nowhere = start(endpoint="http://127.0.0.1:9")
    line = r"127\.0\.0\.1 cannot be reached \(ConnectError: .*HF_ENDPOINT, or set raw\.source to f"
    with pytest.raises(UserError, match=line):
        nowhere.lanes(C4)
    assert len(nowhere.output.splitlines()) == hub_http.FIRST_TRIES - 1
    assert f"try 2 of {hub_http.FIRST_TRIES} in" in nowhere.output
    # A hub that other processes have reached may come back
    with pytest.raises(UserError, match=r"allenai/c4: ConnectError: .* 20 times .*run again"):
        nowhere(read, undisturbed[0][0], tmp_path)


def test_an_endpoint_that_is_no_address_is_named(start: Callable[..., Reader]) -> None:
    with pytest.raises(UserError, match=r"nowhere/api/\S+ does not begin .*correct HF_ENDPOINT"):
        start(endpoint="nowhere").lanes(C4)


def lanes_behind_a_proxy(config: HubConfig) -> list[Lane]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", "gopher://127.0.0.1")
        return hub.lanes(config)


def test_a_proxy_that_is_no_address_is_named(start: Callable[..., Reader]) -> None:
    with pytest.raises(UserError, match=r"allenai/c4 cannot be streamed: .*proxy.*gopher"):
        start()(lanes_behind_a_proxy, config(C4))


def lanes_offline(config: HubConfig) -> list[Lane]:
    with pytest.MonkeyPatch.context() as patch:
        # As the environment variable does when huggingface_hub is imported
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return hub.lanes(config)


def test_the_offline_mode_is_obeyed(reader: Reader) -> None:
    with pytest.raises(
        UserError, match=r"HF_HUB_OFFLINE .*: unset it, or set raw\.source to files"
    ):
        # Another licence, so that the reader opens the data set again
        reader(lanes_offline, config(replace(C4, licence="unknown")))


def test_another_revision_in_the_cache_is_not_used(server: Hub, reader: Reader) -> None:
    server.repositories["owner/cached"] = c4(1)
    cache = reader.stderr.parent / "datasets" / "owner___cached" / "en" / "0.0.0"
    (cache / ("1" * 40)).mkdir(parents=True)
    server.faults = [Fault("owner/cached/.*README", 100, status=403)]
    with pytest.raises(
        UserError, match=r"owner/cached cannot be streamed: .* Couldn't find 'owner/c"
    ):
        reader.lanes(replace(C4, name="owner/cached"))


def test_nothing_else_is_written_to_the_terminal(
    server: Hub, reader: Reader, tmp_path: Path
) -> None:
    server.repositories["owner/quiet"] = c4(1)
    reader.read_all(reader.lanes(replace(C4, name="owner/quiet")), tmp_path)
    assert reader.output == ""
    content = {"train.jsonl": b'{"text": "a"}\nThis is no JSON.\n'}
    server.repositories["owner/prose"] = Repository(OWN.revision, content)
    (lane,) = reader.lanes(replace(OWN, name="owner/prose"))
    line = r"owner/prose/train\.jsonl cannot be read after row 0 of lane 0 \(JSON parse error: Inva"
    with pytest.raises(UserError, match=line):
        reader(read, lane, tmp_path / "prose")
    assert reader.output.endswith("; reading it once more\n") and reader.output.count("\n") == 1
    assert reader.stderr.read_text() == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "c4"}, "name must be owner/name .* got 'c4'"),
        ({"revision": "main"}, "revision of allenai/c4 must .* 40 hexadecimal digits.* got 'main'"),
        ({"revision": "C" * 40}, "40 hexadecimal digits"),
        ({"weight": 0.0}, "weight must be above 0, got 0"),
        ({"split": ""}, "split of allenai/c4 must not be empty"),
    ],
)
def test_bad_parameters_of_a_data_set_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(C4, **change)


@pytest.mark.parametrize(
    ("data_sets", "options", "words"),
    [
        ([C4], {"total_mb": 0.0}, "total_mb must be above 0"),
        ([C4], {"lanes": 0}, "lanes must be at least 1"),
        ([C4, replace(C4, weight=2.0)], {}, "data_sets names allenai/c4, en, train twice"),
    ],
)
def test_bad_parameters_of_the_hub_are_refused(
    data_sets: list[HubDataSet], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        config(*data_sets, **options)


def test_a_hub_without_data_sets_is_refused() -> None:
    with pytest.raises(UserError, match="data_sets must name at least one data set"):
        hub.lanes(config())
