import functools
import io
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import fake_release
from helpers.fake_release import GPU, NAME, VERSION, Behaviour, Member, member, sums, symlink

from antimatter.errors import UserError
from antimatter.serve import download
from antimatter.serve.ollama import install

TGZ = "ollama-linux-amd64.tgz"
GOOD = fake_release.archive(fake_release.members())
PARTIAL = f"{NAME}.{fake_release.sha256(GOOD)[:12]}.partial"
PATH = {"PATH": "/usr/bin:/bin"}
CPU_FILES = [
    "bin/ollama",
    "lib/ollama/libggml-base.so",
    "lib/ollama/libggml-base.so.0",
    "lib/ollama/libggml-cpu-haswell.so",
    "lib/ollama/llama-server",
]
ALL_FILES = [
    "bin/ollama",
    "lib/ollama/cuda_v12/libggml-cuda.so",
    "lib/ollama/cuda_v13/libggml-cuda.so",
    *CPU_FILES[1:],
    "lib/ollama/vulkan/libggml-vulkan.so",
]


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
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


def save(folder: Path, content: bytes, name: str = NAME) -> Path:
    """An archive, with the checksums of its release beside it."""
    (folder / name).write_bytes(content)
    (folder / install.SUMS).write_bytes(sums(name, content))
    return folder / name


def put(prefix: Path, archive: str | Path, cpu_only: bool = False) -> Path:
    return install.install(prefix, str(archive), cpu_only, lambda _: None, PATH)


def refused(prefix: Path, archive: str | Path) -> str:
    """The one line that says why. No Ollama can be found afterwards."""
    with pytest.raises(UserError) as caught:
        put(prefix, archive)
    message = str(caught.value)
    assert message and "\n" not in message
    assert install.find(prefix, {}) is None and not (prefix / "lib/ollama").exists()
    return message


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_sums_are_found_in_all_forms_that_sha256sum_prints(tmp_path: Path, prefix: Path) -> None:
    archive = save(tmp_path, GOOD)
    digest = fake_release.sha256(GOOD).upper()
    for line in (f"{digest} *{NAME}\r\n", f"{digest}  {NAME}"):
        (tmp_path / install.SUMS).write_text(line)
        put(prefix, archive)
    (tmp_path / install.SUMS).write_text(f"{digest}  ./x{NAME}\n{digest[:-1]}  ./{NAME}\n")
    with pytest.raises(UserError, match=install.VERSION):
        put(prefix, archive)


@pytest.mark.parametrize(
    ("name", "start", "cpu_only"), [(NAME, "", False), (NAME, "./", True), (TGZ, "./", False)]
)
def test_a_release_is_installed_and_found(
    plan: Behaviour, url: str, prefix: Path, name: str, start: str, cpu_only: bool
) -> None:
    content = fake_release.archive(fake_release.members(start), name)
    plan.files = {f"/v1/{name}": content, "/v1/sha256sum.txt": sums(name, content)}
    assert install.find(prefix, {}) is None
    binary = put(prefix, url.replace(NAME, name), cpu_only)
    assert binary == install.find(prefix, {}) == prefix / "bin/ollama"
    # Neither the archive nor anything unfinished
    assert tree(prefix) == [".install.lock", *(CPU_FILES if cpu_only else ALL_FILES)]
    assert install.version(binary, PATH) == VERSION
    library = prefix / "lib/ollama"
    assert (library / "libggml-base.so").is_symlink()
    assert (library / "libggml-base.so").read_bytes() == fake_release.CPU
    # 777 in the archive
    assert stat.S_IMODE((library / "llama-server").stat().st_mode) == 0o755
    assert stat.S_IMODE((library / "libggml-base.so.0").stat().st_mode) == 0o644
    if not cpu_only:
        assert (library / "cuda_v13/libggml-cuda.so").read_bytes() == GPU


def test_the_pinned_release_needs_no_checksums_of_its_server(
    plan: Behaviour, url: str, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "URL", url.replace(NAME, "{name}"))
    monkeypatch.setitem(install.SHA256, "amd64", fake_release.sha256(GOOD))
    put(prefix, "")
    assert plan.requests == [(f"/v1/{NAME}", "")]  # no sha256sum.txt
    del plan.files["/v1/sha256sum.txt"]
    put(prefix, url)  # a mirror without checksums, of the pinned release


def test_the_pin_has_an_address_and_two_digests() -> None:
    address = install.URL.format(version=install.VERSION, name=NAME)
    releases = "https://github.com/ollama/ollama/releases/download"
    assert address == f"{releases}/v{install.VERSION}/{NAME}"
    assert sorted(install.SHA256) == ["amd64", "arm64"]
    assert {len(bytes.fromhex(digest)) for digest in install.SHA256.values()} == {32}
    assert len(set(install.SHA256.values())) == 2


def test_path_comes_before_the_prefix_and_only_a_program_that_runs_counts(
    tmp_path: Path, prefix: Path
) -> None:
    def program(folder: Path, content: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "ollama"
        path.write_text(content)
        path.chmod(0o755)
        return path

    mine = program(prefix / "bin", fake_release.OLLAMA.decode())
    for broken in (
        "#!/bin/sh\nexit 1\n",
        "#!/bin/sh\necho some other program\n",
        "not a program at all\0",
        "#!/nowhere/interpreter\n",
    ):
        program(tmp_path / "path", broken)
        assert install.find(prefix, {"PATH": str(tmp_path / "path")}) == mine
    script = '#!/bin/sh\n[ "$OLLAMA_HOST" = 127.0.0.1:0 ] && echo "ollama version is 1.2.3"\n'
    other = program(tmp_path / "path", script)
    environ = {"PATH": f"/nowhere:{tmp_path / 'path'}", "OLLAMA_HOST": "example.org"}
    assert install.find(prefix, environ) == other
    assert install.find(tmp_path / "absent", {}) is None


def test_a_local_archive_is_verified_and_kept(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, GOOD)
    (tmp_path / install.SUMS).unlink()
    message = refused(prefix, path)
    assert fake_release.sha256(GOOD) in message and install.VERSION in message
    assert not prefix.exists()
    (tmp_path / install.SUMS).write_bytes(sums(NAME, b"other"))
    assert "wrong checksum" in refused(prefix, path)
    put(prefix, save(tmp_path, GOOD))
    assert path.read_bytes() == GOOD
    (tmp_path / install.SUMS).unlink()
    monkeypatch.setitem(install.SHA256, "amd64", fake_release.sha256(GOOD))
    put(prefix, path)
    with pytest.raises(UserError, match=r"--archive takes a release"):
        put(prefix, tmp_path)


# The archive


@pytest.mark.skipif(not shutil.which("zstd"), reason="compares with the zstd program")
@pytest.mark.parametrize("options", [["-9", "-T0"], ["--ultra", "-22", "--long=27"]])
def test_archives_of_the_zstd_program_are_read_even_in_several_frames(
    tmp_path: Path, prefix: Path, options: list[str]
) -> None:
    plain = fake_release.tar(fake_release.members())
    zstd = functools.partial(subprocess.check_output, ["zstd", "-q", "-c", *options])
    half = len(plain) // 2
    put(prefix, save(tmp_path, zstd(input=plain[:half]) + zstd(input=plain[half:])))
    assert tree(prefix) == [".install.lock", *ALL_FILES]


@pytest.mark.parametrize("name", [NAME, TGZ])
def test_a_damaged_archive_installs_nothing_even_if_its_checksum_is_right(
    tmp_path: Path, prefix: Path, name: str
) -> None:
    good = fake_release.archive(fake_release.members(), name)
    for content in (
        good[: len(good) // 2],
        good[:-3],
        b"",
        b"not an archive",
        b"flip" + good[4:],
        fake_release.archive([], name),
    ):
        path = save(tmp_path, content, name)
        assert f"{path} is not an Ollama release" in refused(prefix, path)


def test_an_archive_of_another_kind_is_refused_before_it_is_downloaded(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    assert "ollama.zip is not an archive" in refused(prefix, url.replace(NAME, "ollama.zip"))
    assert not plan.requests


LIBRARY = "lib/ollama"
OUTSIDE = [
    [member("../evil", b"x")],
    [member(f"{LIBRARY}/../../../evil", b"x")],
    [member("/tmp/antimatter-evil", b"x")],
    [symlink(f"{LIBRARY}/evil", "/etc/passwd")],
    [symlink(f"{LIBRARY}/evil", "../../../evil")],
    [symlink(f"{LIBRARY}/evil", "../../bin/ollama")],
    [symlink(f"{LIBRARY}/cuda_v12/evil", "libggml-cuda.so/../../../..")],
    [member(f"{LIBRARY}/evil", kind=tarfile.LNKTYPE, link="/etc/passwd")],
    [member(f"{LIBRARY}/evil", kind=tarfile.LNKTYPE, link=f"{LIBRARY}/absent")],
    # Through a link, behind one, over one, over a file
    [member(f"{LIBRARY}/evil", kind=tarfile.LNKTYPE, link=f"{LIBRARY}/libggml-base.so")],
    [member(f"{LIBRARY}/libggml-base.so/evil", b"x")],
    [member(f"{LIBRARY}/libggml-base.so", b"x")],
    [member(f"{LIBRARY}/llama-server", b"x")],
    [member(f"{LIBRARY}/evil", kind=tarfile.CHRTYPE)],
    [member(f"{LIBRARY}/evil", kind=tarfile.BLKTYPE)],
    [member(f"{LIBRARY}/evil", kind=tarfile.FIFOTYPE)],
    # Two links that are harmless alone: together the second one leaves the library
    [symlink(f"{LIBRARY}/a/b/c/up", "../.."), symlink(f"{LIBRARY}/a/b/c/evil", "up/../..")],
    [symlink(f"{LIBRARY}/a", "cuda_v12"), member(f"{LIBRARY}/a/evil", b"x")],
]


@pytest.mark.parametrize(
    "evil", OUTSIDE, ids=lambda members: f"{members[-1][0].name}-{members[-1][0].linkname}"
)
def test_a_member_that_no_release_has_is_refused_and_writes_nothing(
    tmp_path: Path, prefix: Path, evil: list[Member]
) -> None:
    path = save(tmp_path, fake_release.archive([*fake_release.members(), *evil]))
    message = refused(prefix, path)
    assert f"{path} is not an Ollama release" in message and evil[-1][0].name in message
    assert tree(tmp_path) == [NAME, install.SUMS, "state/ollama/.install.lock"]
    assert not Path("/tmp/antimatter-evil").exists()


# The download; test_download.py has more of it


def test_a_wrong_checksum_installs_nothing_and_leaves_nothing(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    plan.files["/v1/sha256sum.txt"] = sums(NAME, b"other")
    message = refused(prefix, url)
    assert fake_release.sha256(GOOD) in message and fake_release.sha256(b"other") in message
    assert tree(prefix) == [".install.lock"]
    # Damage in a part that an earlier run has downloaded
    plan.files["/v1/sha256sum.txt"] = sums(NAME, GOOD)
    (prefix / PARTIAL).write_bytes(b"\0" * 100_000)
    assert "wrong checksum" in refused(prefix, url)
    put(prefix, url)


@pytest.mark.parametrize(
    "address",
    [
        *("http://[::1", "http://x y/", "http://x/", "http://", f"http://x y/{NAME}"),
        *(f"http://é..x/{NAME}", f"http://127.0.0.1:port/{NAME}", f"http://127.0.0.1/é/{NAME}"),
    ],
)
def test_an_address_that_is_invalid_is_one_line(prefix: Path, address: str) -> None:
    message = refused(prefix, address)
    # It may be that of the checksums beside it
    assert repr(address.removesuffix(NAME)).rstrip("'") in message


def test_an_archive_whose_unpacking_was_killed_is_not_downloaded_again(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    prefix.mkdir(parents=True)
    (prefix / PARTIAL).write_bytes(GOOD)
    put(prefix, url)
    assert plan.requests[1:] == [(f"/v1/{NAME}", f"bytes={len(GOOD)}-")]  # answered by 416
    assert tree(prefix) == [".install.lock", *ALL_FILES]


# The disk and the machine


def test_missing_space_is_reported_before_the_download(
    plan: Behaviour, url: str, prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refused(prefix, url)
    assert all(word in message for word in (str(prefix), "1.7 MB", "1.0 MB", "--prefix"))
    put(prefix, url, cpu_only=True)  # needs less
    assert "no space" in refused(tmp_path / "other", save(tmp_path, GOOD))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with these options; skips the test where that is not allowed."""
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        folder.mkdir(exist_ok=True)
        if folder.is_mount():
            subprocess.run(["umount", folder], check=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("size", ["400k", "900k"])  # while downloading, while unpacking
def test_a_disk_that_another_program_fills_is_one_line(
    url: str, disk: Callable[[str], Path], size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk(f"size={size}")
    usage = shutil.disk_usage(folder)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert f"{folder / 'ollama'} has no space" in refused(folder / "ollama", url)


def test_a_prefix_that_cannot_be_written_is_one_line(
    url: str, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    (tmp_path / "file").touch()
    message = refused(tmp_path / "file" / "ollama", url)
    assert "Not a directory" in message and "--prefix" in message
    message = refused(disk("ro") / "ollama", url)
    assert "Read-only file system" in message and "--prefix" in message


def test_a_machine_without_a_release_is_one_line(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    message = refused(prefix, "")
    assert "Linux riscv64" in message and "--engine embedded" in message


def test_a_program_that_does_not_run_here_is_one_line(tmp_path: Path, prefix: Path) -> None:
    program = member("bin/ollama", b"\x7fELF of another machine", mode=0o755)
    with pytest.raises(UserError, match=r"`.*/bin/ollama --version` shows why$"):
        put(prefix, save(tmp_path, fake_release.archive([program])))


# Processes


def elsewhere(prefix: Path, url: str, before: str = "") -> subprocess.Popen[str]:
    """Installs in another process."""
    code = (
        "import platform, shutil, time\nfrom pathlib import Path\n"
        "from antimatter.serve.ollama import install\n"
        f"platform.machine = lambda: 'x86_64'\n{before}\n"
        f"install.install(Path({str(prefix)!r}), {url!r}, False, print)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, text=True)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_of_two_at_a_time_is_refused_and_a_killed_download_is_resumed(
    plan: Behaviour, url: str, prefix: Path
) -> None:
    plan.cuts = [len(plan.files["/v1/sha256sum.txt"]), -200_000]
    partial = prefix / PARTIAL
    with elsewhere(prefix, url) as other:
        until(lambda: partial.is_file() and partial.stat().st_size > 100_000)
        assert str(other.pid) in refused(prefix, url)
        other.send_signal(signal.SIGKILL)
    size = partial.stat().st_size
    plan.requests.clear()
    put(prefix, url)
    assert plan.requests[1:] == [(f"/v1/{NAME}", f"bytes={size}-")]
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_a_killed_unpacking_leaves_no_ollama_and_the_next_run_cleans_up(
    url: str, prefix: Path
) -> None:
    slow = (
        "copy = shutil.copyfileobj\n"
        "shutil.copyfileobj = lambda *files: (copy(*files), time.sleep(30))"
    )
    with elsewhere(prefix, url, slow) as other:
        until(lambda: any(prefix.glob("bin/.ollama.*.partial")))
        other.send_signal(signal.SIGKILL)
    assert install.find(prefix, {}) is None and not (prefix / "lib/ollama").exists()
    put(prefix, url)
    assert tree(prefix) == [".install.lock", *ALL_FILES]


def test_an_interrupted_unpacking_cleans_up_itself(
    url: str, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: io.IOBase) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(prefix, url)
    assert tree(prefix) == [".install.lock", NAME]
