"""Atomic writes, links and locks, with processes that are killed in the middle."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from antimatter import files
from antimatter.errors import UserError


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    files.write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["kept.json"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for name in ("first", "second"):
        with files.replacing(folder) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [item.name for item in folder.iterdir()] == ["second"]
    with pytest.raises(RuntimeError), files.replacing(folder) as partial:
        partial.mkdir()
        raise RuntimeError
    assert [item.name for item in folder.iterdir()] == ["second"]


def test_of_two_writers_of_one_path_the_last_to_finish_wins(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    with files.replacing(path) as first:
        first.write_text("first")
        with files.replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_next_write_deletes_the_temporary_file_of_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "one"
    code = f"""
import os, signal
from pathlib import Path
from antimatter import files
with files.replacing(Path({str(path)!r})) as partial:
    partial.mkdir()
    (partial / "half").touch()
    print(partial, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    abandoned = Path(killed.stdout.strip())
    assert (abandoned / "half").exists()
    with files.replacing(path) as active:
        active.write_text("half")
        files.write_text(path, "new")
        assert active.exists() and not abandoned.exists()


def test_a_reader_of_a_replaced_folder_sees_the_old_one_or_the_new(tmp_path: Path) -> None:
    folder, seen, done = tmp_path / "folder", set(), threading.Event()
    names = tuple(map(str, range(5)))

    def replace() -> None:
        with files.replacing(folder) as partial:
            partial.mkdir()
            for name in names:
                (partial / name).touch()

    def read() -> None:
        while not done.is_set():
            try:
                number = os.open(folder, os.O_RDONLY)
            except FileNotFoundError:
                seen.add("nothing")
                continue
            os.close(number)
            seen.add("a folder")

    replace()
    with running(threading.Thread(target=read)):
        for _ in range(50):
            replace()
        done.set()
    assert seen == {"a folder"}
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@contextmanager
def running(thread: threading.Thread) -> Iterator[None]:
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_everything_is_flushed_to_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync, folder = [], os.fsync, tmp_path / "folder"

    def record(number: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{number}")), folder.exists()))
        sync(number)

    monkeypatch.setattr(os, "fsync", record)
    with files.replacing(folder) as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner/file").write_text("text")
    expected = [partial / "inner", partial / "inner/file", partial]
    assert sorted(path for path, named in synced if not named) == sorted(expected)
    assert [path for path, named in synced if named] == [tmp_path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_mode_of_the_umask_whatever_wrote_it(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with files.replacing(tmp_path / "file") as partial:
            os.close(os.open(partial, os.O_CREAT, 0o600))
        with files.replacing(tmp_path / "folder") as partial:
            partial.mkdir()
            os.close(os.open(partial / "inner", os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder/inner").stat().st_mode) == mode


def test_the_mode_of_linked_files_stays_as_it_is(tmp_path: Path) -> None:
    """DVC links read-only files of its cache into outputs, and they must not become writable."""
    cached = tmp_path / "cached"
    cached.touch()
    cached.chmod(0o400)
    with files.replacing(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "symbolic").symlink_to(cached)
    assert stat.S_IMODE(cached.stat().st_mode) == 0o400
    cached.chmod(0o444)
    files.link({"hard": cached}, tmp_path / "linked")
    assert (tmp_path / "linked/hard").samefile(cached)
    assert stat.S_IMODE(cached.stat().st_mode) == 0o444


def test_a_linked_folder_is_made_of_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_text("text")
    files.link({"a": source, "b": source}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    assert (tmp_path / "out/a").samefile(source)

    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    files.link({"c": source}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c"]
    assert (tmp_path / "out/c").read_text() == "text" and not (tmp_path / "out/c").samefile(source)


def test_metrics_keep_six_digits(tmp_path: Path) -> None:
    files.write_metrics(tmp_path / "m.json", {"a": {"loss": 3.14159265, "n": 123456789}})
    assert files.read_json(tmp_path / "m.json") == {"a": {"loss": 3.14159, "n": 123456789}}


def test_missing_and_broken_json_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(UserError, match=r"m\.json is missing: .*`dvc repro`.*`dvc pull`"):
        files.read_json(path)
    for content in (b"{", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"m\.json is not JSON"):
            files.read_json(path)


def test_a_lock_has_one_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = f"""
import time
from pathlib import Path
from antimatter import files
with files.lock(Path({str(path)!r}), "it"):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(
                files.Locked, match=f"a training is already running as process {holder.pid}"
            ),
            files.lock(path, "a training"),
        ):
            pass
        holder.kill()
    with files.lock(path, "a training"):
        pass


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    """A file server releases the locks of a machine that was lost only after a while."""
    path = tmp_path / "lock"
    path.touch()
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        with files.lock(path, "it", wait=10):
            assert files.is_locked(path)


def test_a_file_system_without_locks_is_an_error(tmp_path, monkeypatch) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(UserError, match=r"lock: its file system has no locks .*not implemented"),
        files.lock(tmp_path / "lock", "it"),
    ):
        pass


def test_a_lock_on_a_deleted_file_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process opens the file; its holder deletes the folder and ends; the process locks the file
    that it has open.
    """
    path, flock, calls = tmp_path / "work/lock", fcntl.flock, []

    def late(file: object, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            files.remove(path.parent)
        flock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with files.lock(path, "it"):
        assert files.is_locked(path)
        with pytest.raises(files.Locked), files.lock(path, "it"):
            pass
        files.remove(path.parent)
    assert not files.is_locked(path) and not path.exists()


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="mine is a folder"):
        files.write_text(tmp_path / "mine", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


@pytest.mark.parametrize("name", ["", ".", "/", "mine/.."])
def test_a_path_without_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="not the name"), files.replacing(Path(name)):
        raise AssertionError("the block ran")
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000, "{", '"a"'])
def test_json_of_another_shape_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json"):
        files.read_json(tmp_path / "index.json")


def test_a_missing_key_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"files": {}}')
    values = files.read_json(tmp_path / "index.json")
    with pytest.raises(UserError, match=r"index\.json has no key shards"):
        values["files"]["shards"]
    assert values.get("other") is None and values == {"files": {}}
