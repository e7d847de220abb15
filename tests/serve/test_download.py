import io
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.fake_release import Behaviour, serving

from antimatter.errors import UserError
from antimatter.serve import download

CONTENT = os.urandom(600_000)
OFFLINE = "name a file"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(download, "STALL", 5.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def plan() -> Behaviour:
    return Behaviour({"/a/file": CONTENT})


@pytest.fixture
def url(plan: Behaviour) -> Iterator[str]:
    with serving(plan) as base:
        yield f"{base}/a/file"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.partial"


def fetch(url: str, path: Path) -> list[str]:
    """Downloads the file whole, and returns what was logged."""
    logged: list[str] = []
    download.file(url, path, logged.append, lambda _: None, OFFLINE)
    assert path.read_bytes() == CONTENT
    return logged


def refused(url: str, path: Path) -> str:
    """The one line that says why."""
    with pytest.raises(UserError) as caught:
        fetch(url, path)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def ranges(plan: Behaviour) -> list[str]:
    return [wanted for _, wanted in plan.requests]


@pytest.mark.parametrize(
    ("cuts", "resumed_at"),
    [
        ([100_000, 200_000, 50_000], [100_000, 300_000, 350_000]),
        ([-100_000], [100_000]),  # stalls
        ([0], None),
    ],
)
def test_a_broken_connection_is_resumed_where_it_broke(
    plan: Behaviour,
    url: str,
    path: Path,
    cuts: list[int],
    resumed_at: list[int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "STALL", 0.3)
    plan.cuts = cuts
    fetch(url, path)
    expected = [f"bytes={start}-" for start in resumed_at] if resumed_at else [""]
    assert ranges(plan) == ["", *expected]


def test_a_download_that_was_given_up_is_resumed_by_the_next(
    plan: Behaviour, url: str, path: Path
) -> None:
    plan.cuts = [150_000, 0, 0, 0, 0, 0]
    message = refused(url, path)
    assert "failed 5 times in a row" in message and "run again" in message
    plan.requests.clear()
    fetch(url, path)
    assert ranges(plan) == ["bytes=150000-"]


def test_a_server_that_cannot_continue_sends_the_whole_again(
    plan: Behaviour, url: str, path: Path
) -> None:
    plan.ranges, plan.cuts = False, [100_000]
    fetch(url, path)
    assert ranges(plan) == ["", "bytes=100000-"]
    path.write_bytes(CONTENT[:1000])
    plan.ranges, plan.content_range, plan.requests = True, "bytes 0-599999/600000", []
    fetch(url, path)
    assert ranges(plan) == ["bytes=1000-", ""]


@pytest.mark.parametrize(("more", "requests"), [(b"", 1), (b"more", 2)])
def test_a_complete_file_is_not_downloaded_again_but_one_that_is_too_long_is(
    plan: Behaviour, url: str, path: Path, more: bytes, requests: int
) -> None:
    path.write_bytes(CONTENT + more)
    fetch(url, path)
    assert len(plan.requests) == requests  # the first is answered by 416


def test_a_slow_connection_does_not_count_as_broken(
    plan: Behaviour, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL", 0.5)
    plan.pace = 0.02  # 0.7 s in all
    fetch(url, path)
    assert len(plan.requests) == 1


def test_a_redirection_keeps_the_range(plan: Behaviour, url: str, path: Path) -> None:
    plan.redirect, plan.cuts = "/objects", [100_000]
    fetch(f"{url}?download=1", path)
    assert plan.requests[-1] == ("/objects/a/file?download=1", "bytes=100000-")


@pytest.mark.parametrize(
    ("status", "words", "requests"),
    [
        (404, "404 Not Found", 1),
        (403, "403 Forbidden", 1),
        (503, "503 Service Unavailable; failed 5 times in a row", 5),
        (429, "429 Too Many Requests; failed 5 times in a row", 5),
    ],
)
def test_only_a_busy_server_is_asked_again(
    plan: Behaviour, url: str, path: Path, status: int, words: str, requests: int
) -> None:
    plan.status = status
    message = refused(url, path)
    assert words in message and "cannot be reached" not in message
    assert len(plan.requests) == requests


def test_a_server_that_is_busy_at_first_gets_the_time_that_it_asks_for(
    plan: Behaviour, url: str, path: Path
) -> None:
    plan.refusals = [(503, ""), (429, "1"), (502, "")]
    began = time.monotonic()
    (line,) = fetch(url, path)
    assert "429 Too Many Requests" in line and "1 seconds" in line
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("retry_after", "words"), [("90000", "25 hours"), ("Fri, 31 Dec 2199 23:59:59 GMT", "hours")]
)
def test_a_server_that_asks_for_a_long_pause_ends_the_download(
    plan: Behaviour, url: str, path: Path, retry_after: str, words: str
) -> None:
    plan.refusals = [(503, retry_after)]
    message = refused(url, path)
    assert "503 Service Unavailable" in message and words in message and "run again" in message
    assert len(plan.requests) == 1


def test_connections_that_bring_next_to_nothing_count_as_failures(
    plan: Behaviour, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.cuts = [1] * 50
    assert "failed 5 times in a row" in refused(url, path)
    assert len(plan.requests) == 5
    # After progress the count starts again, but there is still a pause
    monkeypatch.setattr(download, "BACKOFF", 0.05)
    plan.cuts, plan.requests = [80_000] * 6, []
    began = time.monotonic()
    fetch(url, path)
    assert len(plan.requests) == 7 and time.monotonic() - began > 6 * 0.05


def test_no_network_is_reported_at_once(path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        message = refused(f"http://{address}/file", path)
    assert message.startswith(address) and "Connection refused" in message
    assert OFFLINE in message and time.monotonic() - began < 20
    assert "cannot be reached" in refused("http://antimatter.invalid/file", path)


def test_tls_must_be_valid_and_is_not_left(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "TLS" in refused(url.replace("http://", "https://"), path)

    class Answer(io.BytesIO):
        url = "http://example.org/file"

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer())
    message = refused("https://example.org/file", path)
    assert "http://example.org/file" in message and "not encrypted" in message


def test_the_caller_learns_the_bytes_to_come_before_they_do(
    plan: Behaviour, url: str, path: Path
) -> None:
    path.write_bytes(CONTENT[:1000])

    def refuse(remaining: int) -> None:
        raise UserError(f"no room for {remaining}")

    with pytest.raises(UserError, match=f"no room for {len(CONTENT) - 1000}"):
        download.file(url, path, lambda _: None, refuse, OFFLINE)
    assert path.read_bytes() == CONTENT[:1000]


def test_the_progress_ends_at_the_whole(
    url: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(url, path)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("file: 0.6 MB of 0.6 MB (100%), ") and last.endswith("/s")


def test_a_small_file_is_text_or_absent(plan: Behaviour, url: str) -> None:
    plan.files |= {"/a/text": b"words\n", "/a/large": bytes(2_000_000)}
    plan.cuts, plan.refusals = [3], [(503, "")]
    address = url.removesuffix("file")
    assert download.small_file(f"{address}text", print, OFFLINE) == "words\n"
    assert len(plan.requests) == 3
    assert download.small_file(f"{address}absent", print, OFFLINE) is None
    with pytest.raises(UserError, match="more than 1 MB"):
        download.small_file(f"{address}large", print, OFFLINE)
