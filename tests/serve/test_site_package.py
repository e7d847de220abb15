"""llama.cpp for the browser comes from one verified archive, downloaded or named."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import fake_wllama
from helpers.fake_release import Behaviour, Member, member, serving, symlink

from antimatter import files
from antimatter.errors import UserError
from antimatter.serve import download
from antimatter.serve.site import wllama

GOOD = fake_wllama.archive()
NAME = f"wllama-{wllama.VERSION}.tgz"


@pytest.fixture
def plan() -> Behaviour:
    return Behaviour({f"/{NAME}": GOOD})


@pytest.fixture(autouse=True)
def _registry(plan: Behaviour, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(wllama, "INTEGRITY", fake_wllama.integrity(GOOD))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(plan) as base:
        monkeypatch.setattr(wllama, "URL", base + "/wllama-{version}.tgz")
        yield


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "state" / "wllama"


def fetch(cache: Path, given: Path | None = None) -> Path:
    return wllama.package(given, lambda _: None, cache)


def refused(cache: Path, given: Path | None = None) -> str:
    """The one line that says why. Nothing that is wrong stays."""
    with pytest.raises(UserError) as caught:
        fetch(cache, given)
    message = str(caught.value)
    assert message and "\n" not in message
    assert not (cache / NAME).exists()
    return message


def test_it_is_downloaded_once(plan: Behaviour, cache: Path) -> None:
    assert fetch(cache).read_bytes() == GOOD
    assert fetch(cache) == cache / NAME
    assert len(plan.requests) == 1
    assert sorted(path.name for path in cache.iterdir()) == [".lock", NAME]


def test_an_interrupted_download_is_resumed_by_the_next(plan: Behaviour, cache: Path) -> None:
    half = len(GOOD) // 2
    plan.cuts = [half, 0, 0, 0, 0, 0]
    assert "run again" in refused(cache)
    plan.requests.clear()
    assert fetch(cache).read_bytes() == GOOD
    assert plan.requests == [(f"/{NAME}", f"bytes={half}-")]


def test_a_wrong_digest_is_refused_and_deleted(plan: Behaviour, cache: Path) -> None:
    plan.files[f"/{NAME}"] = GOOD[:-1] + b"x"
    message = refused(cache)
    assert "wrong digest" in message and "--package" in message
    assert [path.name for path in cache.iterdir()] == [".lock"]
    plan.files[f"/{NAME}"] = GOOD
    assert fetch(cache).read_bytes() == GOOD


def test_a_cached_archive_that_was_damaged_is_downloaded_again(
    plan: Behaviour, cache: Path
) -> None:
    fetch(cache).write_bytes(b"damaged")
    assert fetch(cache).read_bytes() == GOOD
    assert len(plan.requests) == 2


def test_without_a_network_the_error_names_the_option(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wllama, "URL", "http://antimatter.invalid/wllama-{version}.tgz")
    message = refused(cache)
    assert "antimatter.invalid cannot be reached" in message
    assert f"@wllama/wllama@{wllama.VERSION}" in message and "--package" in message


def test_a_given_file_needs_no_network_and_must_be_the_pinned_one(
    plan: Behaviour, cache: Path, tmp_path: Path
) -> None:
    good, other = tmp_path / "any name.tgz", tmp_path / "other.tgz"
    good.write_bytes(GOOD)
    other.write_bytes(GOOD + b"x")
    assert fetch(cache, good) == good
    message = refused(cache, other)
    assert f"--package {other} is not wllama {wllama.VERSION}" in message
    assert fake_wllama.integrity(GOOD)[:19] in message
    assert "npm pack" in refused(cache, tmp_path / "absent.tgz")
    assert "is not a file" in refused(cache, tmp_path)
    assert plan.requests == [] and other.exists()


def test_two_downloads_at_a_time_are_one_error(cache: Path) -> None:
    with files.lock(cache / ".lock", "another"), pytest.raises(files.Locked, match="wllama"):
        fetch(cache)


def unpacked(folder: Path, content: bytes) -> dict[str, bytes]:
    archive = folder / "a.tgz"
    archive.write_bytes(content)
    (folder / "out").mkdir()
    wllama.unpack(archive, folder / "out")
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def test_only_the_files_that_the_page_needs_are_written(tmp_path: Path) -> None:
    expected = {wllama.MEMBERS[name]: content for name, content in fake_wllama.CONTENTS.items()}
    assert unpacked(tmp_path, GOOD) == expected


def test_names_in_the_archive_decide_no_path(tmp_path: Path) -> None:
    evil = [
        *(member("../evil", b"x"), member("/antimatter-evil", b"x")),
        member("package/../../evil", b"x"),
        *(symlink("package/esm", "/etc"), member("package/esm/../evil", b"x")),
        *fake_wllama.members(),
        # A second one of a name does not replace the first
        member("package/LICENCE", b"another"),
    ]
    assert len(unpacked(tmp_path, fake_wllama.archive(evil))) == len(wllama.MEMBERS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "out"]
    assert (tmp_path / "out" / wllama.LICENCE).read_bytes() == fake_wllama.CONTENTS[
        "package/LICENCE"
    ]
    assert not Path("/antimatter-evil").exists()


def replaced(name: str, by: Member) -> list[Member]:
    return [by if info.name == name else (info, data) for info, data in fake_wllama.members()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", "not the package of wllama, or damaged"),
        (GOOD[: len(GOOD) // 2], "damaged"),
        (GOOD[:-4], "damaged"),
        (GOOD[:-6] + bytes(2) + GOOD[-4:], "damaged"),
        (b"", "damaged"),
        (fake_wllama.archive(fake_wllama.members()[:2]), "has no package/esm/single-thread"),
        (
            fake_wllama.archive(replaced("package/LICENCE", symlink("package/LICENCE", "/etc/x"))),
            "'package/LICENCE' is not a file",
        ),
    ],
)
def test_a_damaged_archive_is_one_error(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(UserError) as caught:
        unpacked(tmp_path, content)
    assert words in str(caught.value) and "--package" in str(caught.value)
    assert os.listdir(tmp_path) != []
