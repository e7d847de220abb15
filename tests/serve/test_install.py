import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import fake_release
from helpers.fake_release import GPU, NAME, VERSION, Behaviour, member

from antimatter.serve.ollama import download, install

TGZ = "ollama-linux-amd64.tgz"
GOOD = fake_release.archive(fake_release.members())
PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(download, "STALL", 5.0)
    monkeypatch.setattr(install, "_architecture", lambda: "amd64")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def plan() -> Behaviour:
    return Behaviour({f"/v1/{NAME}": GOOD, "/v1/sha256sum.txt": sums(NAME, GOOD)})


@pytest.fixture
def url(plan: Behaviour) -> Iterator[str]:
    with fake_release.serving(plan) as base:
        yield f"{base}/v1/{NAME}"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ollama"


def sums(name: str, content: bytes) -> bytes:
    return f"{'0' * 64}  ./other.tgz\n{fake_release.sha256(content)}  ./{name}\n".encode()


def put(
    prefix: Path,
    archive: str | Path,
    cpu_only: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    return install.install(prefix, str(archive), cpu_only, say, PATH)


def refused(kind: type[Exception], prefix: Path, archive: str | Path) -> str:
    """The one line that says why. Nothing can be found afterwards."""
    with pytest.raises(kind) as caught:
        put(prefix, archive)
    text = str(caught.value)
    assert text and "\n" not in text
    assert install.find(prefix, {}) is None and not (prefix / "lib/ollama").exists()
    return text


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


CPU_FILES = [
    "bin/ollama",
    *(
        f"lib/ollama/{name}"
        for name in (
            "libggml-base.so",
            "libggml-base.so.0",
            "libggml-cpu-haswell.so",
            "llama-server",
        )
    ),
]
ALL_FILES = sorted(
    [
        *CPU_FILES,
        "lib/ollama/cuda_v12/libggml-cuda.so",
        "lib/ollama/cuda_v13/libggml-cuda.so",
        "lib/ollama/vulkan/libggml-vulkan.so",
    ]
)


# what is installed


@pytest.mark.parametrize("name", [NAME, TGZ])
@pytest.mark.parametrize("start", ["", "./"])
@pytest.mark.parametrize("cpu_only", [False, True])
def test_a_release_is_installed_and_found(
    plan: Behaviour, url: str, prefix: Path, name: str, start: str, cpu_only: bool
) -> None:
    content = fake_release.archive(fake_release.members(start), name)
    plan.files = {f"/v1/{name}": content, "/v1/sha256sum.txt": sums(name, content)}
    assert install.find(prefix, {}) is None
    binary = put(prefix, url.replace(NAME, name), cpu_only)
    assert binary == install.find(prefix, {}) == prefix / "bin/ollama"
    assert tree(prefix) == [
        ".install.lock",
        *(CPU_FILES if cpu_only else ALL_FILES),
    ]  # neither archive nor anything unfinished
    assert install.version(binary, PATH) == VERSION
    library = prefix / "lib/ollama"
    assert (library / "libggml-base.so").read_bytes() == fake_release.CPU and (
        library / "libggml-base.so"
    ).is_symlink()
    assert (
        stat.S_IMODE((library / "llama-server").stat().st_mode) == 0o755
    )  # not 777, as the archive has it
    assert stat.S_IMODE((library / "libggml-base.so.0").stat().st_mode) == 0o644
    if not cpu_only:
        assert (library / "cuda_v13/libggml-cuda.so").read_bytes() == GPU


def test_the_pinned_release_needs_no_word_of_its_server(
    plan: Behaviour, url: str, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        install, "URL", url.replace(NAME, "{name}?version={version}").partition("?")[0]
    )
    monkeypatch.setitem(install.SHA256, "amd64", fake_release.sha256(GOOD))
    put(prefix, "")
    assert plan.requests == [(f"/v1/{NAME}", "")]  # no sha256sum.txt
    del plan.files["/v1/sha256sum.txt"]
    put(prefix, url)  # a mirror without checksums, of the pinned release


def test_the_pin_is_a_release_as_its_address_and_two_digests_say() -> None:
    address = install.URL.format(version=install.VERSION, name=NAME)
    assert (
        address == f"https://github.com/ollama/ollama/releases/download/v{install.VERSION}/{NAME}"
    )
    assert sorted(install.SHA256) == ["amd64", "arm64"]
    assert all(len(bytes.fromhex(digest)) == 32 for digest in install.SHA256.values())
    assert len(set(install.SHA256.values())) == 2


def test_path_comes_before_the_prefix_and_only_what_answers_counts(
    tmp_path: Path, prefix: Path
) -> None:
    def program(folder: Path, text: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "ollama"
        path.write_text(text)
        path.chmod(0o755)
        return path

    mine = program(prefix / "bin", fake_release.OLLAMA.decode())
    for broken in (
        "#!/bin/sh\nexit 1\n",
        "#!/bin/sh\necho some other program\n",
        "no program at all\0",
        "#!/nowhere/interpreter\n",
    ):
        program(tmp_path / "path", broken)
        assert install.find(prefix, {"PATH": str(tmp_path / "path")}) == mine
    other = program(
        tmp_path / "path",
        '#!/bin/sh\n[ "$OLLAMA_HOST" = 127.0.0.1:0 ] && echo "ollama version is 1.2.3"\n',
    )
    assert (
        install.find(
            prefix, {"PATH": f"/nowhere:{tmp_path / 'path'}", "OLLAMA_HOST": "example.org"}
        )
        == other
    )
    assert install.find(tmp_path / "absent", {}) is None


@pytest.mark.skipif(not shutil.which("zstd"), reason="compares with the zstd program")
@pytest.mark.parametrize("options", [["-9", "-T0"], ["--ultra", "-22", "--long=27"]])
def test_archives_of_the_zstd_program_are_read_also_in_several_frames(
    tmp_path: Path, prefix: Path, options: list[str]
) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for info, content in fake_release.members():
            tar.addfile(info, io.BytesIO(content))
    path, half = tmp_path / NAME, len(plain.getvalue()) // 2
    frames = [
        subprocess.run(
            ["zstd", "-q", "-c", *options], input=part, capture_output=True, check=True
        ).stdout
        for part in (plain.getvalue()[:half], plain.getvalue()[half:])
    ]
    path.write_bytes(b"".join(frames))
    (tmp_path / "sha256sum.txt").write_bytes(sums(NAME, path.read_bytes()))
    put(prefix, path)
    assert tree(prefix) == [".install.lock", *ALL_FILES]


# local archives


def test_a_local_archive_is_checked_and_kept(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / NAME
    path.write_bytes(GOOD)
    assert "is not Ollama" in refused(ValueError, prefix, path) and not prefix.exists()
    (tmp_path / "sha256sum.txt").write_bytes(sums(NAME, GOOD + b"x"))
    assert "has the wrong checksum" in refused(ValueError, prefix, path)
    (tmp_path / "sha256sum.txt").write_bytes(sums(NAME, GOOD))
    put(prefix, path)
    assert path.read_bytes() == GOOD
    (tmp_path / "sha256sum.txt").unlink()
    monkeypatch.setitem(install.SHA256, "amd64", fake_release.sha256(GOOD))
    put(prefix, path)  # the pinned one vouches for itself
    with pytest.raises(FileNotFoundError, match="is no file: --archive wants a release of Ollama"):
        put(prefix, tmp_path)


@pytest.mark.parametrize("name", [NAME, TGZ])
def test_a_damaged_archive_installs_nothing_even_if_its_checksum_is_right(
    tmp_path: Path, prefix: Path, name: str
) -> None:
    good = fake_release.archive(fake_release.members(), name)
    path = tmp_path / name
    for content in (
        good[: len(good) // 2],
        good[:-3],
        b"",
        b"no archive",
        b"flip" + good[4:],
        fake_release.archive([], name),
    ):
        path.write_bytes(content)
        (tmp_path / "sha256sum.txt").write_bytes(sums(name, content))
        assert "is no release of Ollama for Linux, or damaged (" in refused(
            ValueError, prefix, path
        )


def test_what_is_no_archive_by_its_name_is_said_so_before_it_is_fetched(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    assert "is no archive of an Ollama release" in refused(
        ValueError, prefix, url.replace(NAME, "ollama.zip")
    )
    assert all(path.endswith("sha256sum.txt") for path, _ in plan.requests)


OUTSIDE = [
    member("../evil", b"x"),
    member("lib/ollama/../../../evil", b"x"),
    member("/tmp/antimatter-evil", b"x"),
    member("lib/ollama/evil", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    member("lib/ollama/evil", kind=tarfile.SYMTYPE, link="../../../evil"),
    member("lib/ollama/evil", kind=tarfile.SYMTYPE, link="../../bin/ollama"),
    member("lib/ollama/cuda_v12/evil", kind=tarfile.SYMTYPE, link="libggml-cuda.so/../../../.."),
    member("lib/ollama/evil", kind=tarfile.LNKTYPE, link="/etc/passwd"),
    member("lib/ollama/evil", kind=tarfile.LNKTYPE, link="lib/ollama/absent"),
    member(
        "lib/ollama/evil", kind=tarfile.LNKTYPE, link="lib/ollama/libggml-base.so"
    ),  # through a link
    member("lib/ollama/libggml-base.so/evil", b"x"),  # behind a link
    member("lib/ollama/libggml-base.so", b"x"),  # over a link
    member("lib/ollama/llama-server", b"x"),  # over a file
    member("lib/ollama/evil", kind=tarfile.CHRTYPE),
    member("lib/ollama/evil", kind=tarfile.BLKTYPE),
    member("lib/ollama/evil", kind=tarfile.FIFOTYPE),
]


@pytest.mark.parametrize(
    "evil", OUTSIDE, ids=lambda pair: f"{pair[0].type.decode()}-{pair[0].name}-{pair[0].linkname}"
)
def test_a_member_that_no_release_has_is_refused_and_writes_nowhere(
    tmp_path: Path, prefix: Path, evil: tuple[tarfile.TarInfo, bytes]
) -> None:
    content = fake_release.archive([*fake_release.members(), evil])
    path = tmp_path / NAME
    path.write_bytes(content)
    (tmp_path / "sha256sum.txt").write_bytes(sums(NAME, content))
    assert "is no release of Ollama for Linux, or damaged (" in refused(ValueError, prefix, path)
    assert tree(tmp_path) == [NAME, "sha256sum.txt", "state/ollama/.install.lock"]
    assert not Path("/tmp/antimatter-evil").exists()


def test_folders_through_links_lead_nowhere(tmp_path: Path, prefix: Path) -> None:
    """Each link is harmless by itself; one behind the other would climb out."""
    deep = "lib/ollama/a/b/c"
    chain = [
        member(f"{deep}/up", kind=tarfile.SYMTYPE, link="../.."),
        member(f"{deep}/up2", kind=tarfile.SYMTYPE, link="up/../.."),
    ]
    behind = [
        member("lib/ollama/a", kind=tarfile.SYMTYPE, link="cuda_v12"),
        member("lib/ollama/a/evil", b"x"),
    ]
    for evil, words in (
        (chain, f"its link '{deep}/up2' leads outside"),
        (behind, "its member 'lib/ollama/a/evil' lies behind a link"),
    ):
        content = fake_release.archive([*fake_release.members(), *evil])
        (tmp_path / NAME).write_bytes(content)
        (tmp_path / "sha256sum.txt").write_bytes(sums(NAME, content))
        assert words in refused(ValueError, prefix, tmp_path / NAME)


# the download


def test_a_cut_connection_goes_on_where_it_broke(plan: Behaviour, url: str, prefix: Path) -> None:
    plan.cuts = [100_000, 200_000, 50_000]
    put(prefix, url)
    asked = [asked for path, asked in plan.requests if path.endswith(NAME)]
    assert asked == ["", "bytes=100000-", "bytes=300000-", "bytes=350000-"]


def test_a_run_that_gave_up_is_gone_on_with_by_the_next(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    plan.cuts = [150_000, 0, 0, 0, 0, 0]
    text = refused(ConnectionError, prefix, url)
    assert (
        "broke off 5 times in a row at 0.1 MB" in text
        or "broke off 5 times in a row at 0.2 MB" in text
    )
    plan.requests.clear()
    said: list[str] = []
    put(prefix, url, say=said.append)
    assert plan.requests[1:] == [(f"/v1/{NAME}", "bytes=150000-")]
    assert any("going on after" in line for line in said)
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_a_server_without_ranges_starts_anew(plan: Behaviour, url: str, prefix: Path) -> None:
    plan.ranges, plan.cuts = False, [100_000]
    put(prefix, url)
    assert [asked for path, asked in plan.requests if path.endswith(NAME)] == ["", "bytes=100000-"]


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_whole(
    plan: Behaviour, url: str, prefix: Path, if_range: bool
) -> None:
    """Also by servers that do not know If-Range."""
    old = fake_release.archive(
        [member("lib/ollama/old", os.urandom(300_000)), *fake_release.members()]
    )
    plan.files |= {f"/v1/{NAME}": old, "/v1/sha256sum.txt": sums(NAME, old)}
    plan.cuts, plan.if_range = [250_000, 0, 0, 0, 0, 0], if_range
    refused(ConnectionError, prefix, url)
    plan.files[f"/v1/{NAME}"], plan.etag = GOOD, '"two"'
    plan.files["/v1/sha256sum.txt"] = sums(NAME, GOOD)
    (partial,) = prefix.glob("*.partial")
    for path in (
        partial,
        prefix / f"{partial.name}.etag",
    ):  # of a server that is slow with its checksums
        path.rename(
            prefix
            / path.name.replace(fake_release.sha256(old)[:12], fake_release.sha256(GOOD)[:12])
        )
    plan.requests.clear()
    put(prefix, url)
    assert [asked for path, asked in plan.requests if path.endswith(NAME)] == [
        "bytes=250000-",
        *([] if if_range else [""]),
    ]
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_a_whole_file_whose_unpacking_was_killed_is_not_fetched_again(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    prefix.mkdir(parents=True)
    (prefix / f"{NAME}.{fake_release.sha256(GOOD)[:12]}.partial").write_bytes(GOOD)
    put(prefix, url)
    assert plan.requests[1:] == [(f"/v1/{NAME}", f"bytes={len(GOOD)}-")]  # answered by 416
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_a_partial_file_longer_than_the_whole_is_begun_anew(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    prefix.mkdir(parents=True)
    (prefix / f"{NAME}.{fake_release.sha256(GOOD)[:12]}.partial").write_bytes(GOOD + b"more")
    put(prefix, url)
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_a_stalled_connection_counts_as_broken(
    plan: Behaviour, url: str, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL", 0.3)
    plan.cuts = [-100_000]
    put(prefix, url)
    assert [asked for path, asked in plan.requests if path.endswith(NAME)] == ["", "bytes=100000-"]


def test_a_slow_connection_does_not(
    plan: Behaviour, url: str, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL", 0.5)
    plan.pace = 0.02  # 0.8 s in all
    put(prefix, url)
    assert len(plan.requests) == 2


def test_a_redirection_keeps_the_range(plan: Behaviour, url: str, prefix: Path) -> None:
    plan.redirect, plan.cuts = "/objects", [100_000]
    put(prefix, f"{url}?download=1")
    assert plan.requests[-1] == (f"/objects/v1/{NAME}?download=1", "bytes=100000-")


def test_a_wrong_checksum_installs_nothing_and_leaves_nothing(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    plan.files["/v1/sha256sum.txt"] = sums(NAME, b"other")
    text = refused(ValueError, prefix, url)
    assert (
        f"has the wrong checksum (sha256 {fake_release.sha256(GOOD)}, expected {fake_release.sha256(b'other')})"
        in text
    )
    assert tree(prefix) == [".install.lock"]


def test_damage_in_the_part_that_was_there_shows_in_the_checksum(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    partial = prefix / f"{NAME}.{fake_release.sha256(GOOD)[:12]}.partial"
    prefix.mkdir(parents=True)
    partial.write_bytes(b"\0" * 100_000)
    assert "has the wrong checksum" in refused(ValueError, prefix, url)
    put(prefix, url)  # begins anew


@pytest.mark.parametrize(
    ("status", "words", "asked"),
    [
        (404, "404 Not Found", 2),
        (403, "403 Forbidden", 1),
        (503, "503 Service Unavailable, 5 times in a row", 5),
        (429, "429 Too Many Requests, 5 times in a row", 5),
    ],
)
def test_a_refusal_is_one_line(
    plan: Behaviour, url: str, prefix: Path, status: int, words: str, asked: int
) -> None:
    plan.status = status
    text = refused(OSError, prefix, url)
    assert words in text and "cannot be reached" not in text
    assert len(plan.requests) == asked


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the download makes; they take no time."""
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(download, "time", clock)
    return pauses


def test_a_server_that_is_busy_at_first_is_asked_again_when_it_says(
    plan: Behaviour, url: str, prefix: Path, slept: list[float]
) -> None:
    plan.refusals = [(503, ""), (429, "7"), (502, "")]
    said: list[str] = []
    put(prefix, url, say=said.append)
    assert slept == [0.001, 7.0, 0.004]
    assert any("429 Too Many Requests" in line and "7 seconds" in line for line in said)
    plan.requests.clear()
    plan.refusals = [(404, ""), (503, "2")]  # the checksums are absent, the archive comes late
    slept.clear()
    with pytest.raises(ValueError, match="wrong checksum"):  # that of the pinned release
        put(prefix, url)
    assert slept == [2.0] and [path for path, _ in plan.requests[1:]] == [f"/v1/{NAME}"] * 2


@pytest.mark.parametrize(
    ("wish", "words"), [("90000", "25 hours"), ("Fri, 31 Dec 2199 23:59:59 GMT", "hours")]
)
def test_a_server_that_asks_for_a_long_pause_is_left_at_once(
    plan: Behaviour, url: str, prefix: Path, slept: list[float], wish: str, words: str
) -> None:
    plan.refusals = [(503, wish)]
    text = refused(ConnectionError, prefix, url)
    assert "503 Service Unavailable" in text and words in text and "run again" in text
    assert len(plan.requests) == 1 and not slept


def test_a_connection_that_brings_a_byte_at_a_time_is_given_up(
    plan: Behaviour, url: str, prefix: Path, slept: list[float]
) -> None:
    plan.cuts = [1] * 50
    assert "broke off 5 times in a row at 0.0 MB" in refused(ConnectionError, prefix, url)
    assert slept == [0.001, 0.002, 0.004, 0.008]
    plan.cuts, plan.requests[:] = [100_000] * 3, []
    slept.clear()
    put(prefix, url)  # each break after progress is the first again, and never without a pause
    assert slept == [0.001] * 3 and plan.requests[1] == (f"/v1/{NAME}", "bytes=5-")


def test_no_network_is_one_line_at_once(prefix: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/{NAME}"
        began = time.monotonic()
        text = refused(ConnectionError, prefix, url)
        assert (
            "Connection refused): without a network, give the archive as a file" in text
            and text.startswith("127.0.0.1:")
        )
    assert time.monotonic() - began < 20
    assert "cannot be reached" in refused(
        ConnectionError, prefix, f"http://antimatter.invalid/{NAME}"
    )


def test_a_redirection_out_of_tls_is_not_followed(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer(io.BytesIO):
        url = f"http://example.org/{NAME}"

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer())
    text = refused(ConnectionError, prefix, f"https://example.org/{NAME}")
    assert text.endswith(
        f"leads to http://example.org/{NAME}, which is not encrypted: it is not followed"
    )


def test_tls_that_is_none_is_one_line(url: str, prefix: Path) -> None:
    assert "certificate or its TLS is no good" in refused(
        ConnectionError, prefix, url.replace("http://", "https://")
    )


def test_progress_is_a_line_every_tenth_and_one_line_on_a_terminal(
    plan: Behaviour, url: str, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said: list[str] = []
    put(prefix, url, say=said.append)
    steps = [line for line in said if "%" in line]
    assert 2 <= len(steps) <= 10 and steps[-1].startswith(f"{NAME}: 0.6 MB of 0.6 MB (100%)")
    said.clear()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    put(tmp_path / "other", url, say=said.append)
    assert not any("%" in line for line in said)
    assert (
        terminal.getvalue().startswith(f"\r\033[K{NAME}: ")
        and terminal.getvalue().endswith("/s\n")
        and terminal.getvalue().count("\n") == 1
    )


# places


def test_no_room_is_told_before_the_download(
    plan: Behaviour, url: str, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    text = refused(OSError, prefix, url)
    assert f"{prefix} has no room: the installation needs about 1.7 MB, 1.0 MB are free" in text
    plan.requests.clear()
    put(prefix, url, cpu_only=True)  # needs less
    (tmp_path / NAME).write_bytes(GOOD)
    (tmp_path / "sha256sum.txt").write_bytes(sums(NAME, GOOD))
    assert "has no room" in refused(OSError, tmp_path / "other", tmp_path / NAME)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with the options given; skips where that is not allowed."""
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        folder.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True
        ).returncode:
            pytest.skip("may not mount")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_in_the_middle_is_one_line(
    url: str, disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        install, "_check_room", lambda *_: None
    )  # something else fills it after the look
    for size in ("400k", "900k"):  # while downloading, while unpacking
        folder = disk(f"size={size}")
        text = refused(OSError, folder / "ollama", url)
        assert (
            f"{folder / 'ollama'} has no room: the installation needs more than that" in text
            and "are free" in text
        )
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def test_a_prefix_that_cannot_be_written_is_one_line(
    url: str, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written (Not a directory): choose another folder with --prefix" in refused(
        OSError, tmp_path / "file" / "ollama", url
    )
    folder = disk("ro")
    assert (
        "cannot be written (Read-only file system): choose another folder with --prefix"
        in refused(OSError, folder / "ollama", url)
    )


def test_a_machine_without_a_release_is_one_line(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "Ollama has no release that installs here (Linux riscv64)" in refused(
        ValueError, prefix, ""
    )


def test_a_program_that_does_not_run_here_is_one_line(tmp_path: Path, prefix: Path) -> None:
    content = fake_release.archive(
        [member("bin/ollama", b"\x7fELF of another machine", mode=0o755)]
    )
    (tmp_path / NAME).write_bytes(content)
    (tmp_path / "sha256sum.txt").write_bytes(sums(NAME, content))
    with pytest.raises(
        OSError,
        match=r"was installed, but does not run on this machine: `.*/bin/ollama --version` shows why$",
    ):
        put(prefix, tmp_path / NAME)


# processes


def elsewhere(prefix: Path, url: str, before: str = "") -> subprocess.Popen[str]:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom antimatter.serve.ollama import install\n"
        f"install._architecture = lambda: 'amd64'\n{before}\n"
        f"install.install(Path({str(prefix)!r}), {url!r}, False, print)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, text=True)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_at_once_one_of_them_is_told_and_a_killed_download_is_gone_on_with(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    plan.cuts = [-200_000]
    partial = prefix / f"{NAME}.{fake_release.sha256(GOOD)[:12]}.partial"
    with elsewhere(prefix, url) as other:
        until(lambda: partial.is_file() and partial.stat().st_size > 100_000)
        assert (
            f"an installation of Ollama into {prefix} is already running as process {other.pid}"
            in refused(BlockingIOError, prefix, url)
        )
        other.send_signal(signal.SIGKILL)
    size = partial.stat().st_size
    plan.requests.clear()
    put(prefix, url)
    assert plan.requests[1:] == [(f"/v1/{NAME}", f"bytes={size}-")]
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_killed_while_unpacking_there_is_nothing_to_find_and_the_next_run_cleans_up(
    url: str, prefix: Path
) -> None:
    slow = "write = install._write\ndef _write(*arguments):\n    write(*arguments)\n    time.sleep(30)\ninstall._write = _write"
    with elsewhere(prefix, url, slow) as other:
        until(lambda: any(prefix.glob("bin/.ollama.*.partial")))
        other.send_signal(signal.SIGKILL)
    assert install.find(prefix, {}) is None and not (prefix / "lib/ollama").exists()
    put(prefix, url)
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_an_interrupted_unpacking_cleans_up_itself(
    url: str, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(prefix, url)
    assert tree(prefix) == [".install.lock", NAME]
