import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import backends, fake_program, fake_release
from helpers.gguf_model import Tiny
from helpers.processes import is_alive

from antimatter import files
from antimatter.errors import UserError
from antimatter.export import ollama
from antimatter.llama.client import BackendError
from antimatter.serve.ollama import keeper
from antimatter.serve.ollama.server import OllamaServer, open_ollama

CONFIG = replace(backends.CONFIG, temperature=0.7, repeat_penalty=1.1, system="Be kind.")

Start = Callable[..., OllamaServer]


@pytest.fixture(scope="module")
def store(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dvc") / "ollama"
    ollama.write(tiny.path, folder, CONFIG)
    return folder / "models"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    return fake_program.install_to(tmp_path / "bin" / "ollama")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the server keeps its files."""
    return tmp_path / "serve"


@pytest.fixture
def start(
    store: Path, binary: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts a server that misbehaves as the plan says, and stops it when the test ends."""
    monkeypatch.setattr(keeper, "GRACE", 0.5)
    servers: list[OllamaServer] = []

    def start(
        plan: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **options: Any
    ) -> OllamaServer:
        arguments = {"store": store, "folder": folder} | options
        variables = {**os.environ, **(environ or {}), "FAKE_OLLAMA": json.dumps(plan or {})}
        servers.append(OllamaServer(binary, config=CONFIG, environ=variables, **arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def pids(folder: Path) -> list[int]:
    """Ollama and its runner."""
    return [int(line) for line in (folder / "pids").read_text().splitlines()]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refused(start: Start, /, *arguments: Any, **options: Any) -> str:
    """The one line that says why."""
    with pytest.raises(UserError) as caught:
        start(*arguments, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# In normal operation


def test_it_is_ready_when_the_model_has_answered_and_ended_after_close(
    start: Start, folder: Path
) -> None:
    server = start()
    requests = [json.loads(line) for line in (folder / "requests").read_text().splitlines()]
    assert [route for route, _ in requests] == ["/api/show", "/api/generate"]
    options = requests[1][1]["options"]
    assert options["num_predict"] == 1 and options["num_ctx"] == server.backend.n_ctx == 64
    assert backends.complete(server.backend, "Once")[0] == "a"
    assert server.url.startswith("http://127.0.0.1:") and server.url in server.backend.description
    program, runner = pids(folder)
    supervisor = parent(program)
    assert all(map(is_alive, (program, runner, supervisor)))
    # Ctrl-C in a terminal reaches neither
    assert len({os.getsid(pid) for pid in (0, program, supervisor)}) == 3
    assert "server config" in server.log.read_text()
    server.close()
    assert not any(map(is_alive, (program, runner, supervisor)))
    server.close()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(server.url.rpartition(":")[2])))


def test_the_next_start_keeps_one_old_log(start: Start, folder: Path) -> None:
    for i in range(3):
        start().close()
        (folder / "ollama.log").write_text(f"run {i}")
    logs = {path.name: path.read_text() for path in folder.glob("*.log*")}
    assert logs == {"ollama.log": "run 2", "ollama.log.1": "run 1"}


def test_it_outlives_the_thread_that_started_it(start: Start, folder: Path) -> None:
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert all(map(is_alive, pids(folder)))


def test_a_given_port_is_used_even_just_after_it_was(start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        server = start(port=port)
        assert server.url == f"http://127.0.0.1:{port}"
        server.close()


def test_nothing_inherited_changes_its_answers_or_its_address(start: Start, folder: Path) -> None:
    hardware = {"OLLAMA_GPU_OVERHEAD": "1000", "CUDA_VISIBLE_DEVICES": "1"}
    foreign = {
        "OLLAMA_HOST": "0.0.0.0:80",
        "OLLAMA_MODELS": "/elsewhere",
        "OLLAMA_CONTEXT_LENGTH": "5",
        "OLLAMA_KV_CACHE_TYPE": "q4_0",
        "OLLAMA_ORIGINS": "*",
        "OLLAMA_REMOTES": "example.org",
        "LLAMA_ARG_CTX_SIZE": "5",
        # Its key goes elsewhere, so it matters not that this cannot be written
        "HOME": "/proc/nowhere",
    }
    server = start(environ=foreign | hardware, parallel=3)
    environ: dict[str, str] = json.loads((folder / "environ").read_text())
    names = [name for name in environ if name.startswith(("OLLAMA", "LLAMA", "CUDA", "HOME"))]
    assert {name: environ[name] for name in names} == hardware | {
        "HOME": f"{folder}/home",
        "OLLAMA_HOST": server.url.removeprefix("http://"),
        "OLLAMA_MODELS": f"{folder}/models",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
    }
    assert (folder / "home/.ollama/id_ed25519").is_file()


# DVC's output


def snapshot(folder: Path) -> dict[str, Any]:
    entries = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        times = status.st_mtime_ns, status.st_ctime_ns
        entries[str(path)] = (content, status.st_ino, status.st_nlink, status.st_mode, times)
    return entries


@pytest.mark.parametrize("vandal", [False, True])
def test_dvcs_output_is_never_changed_whatever_ollama_does_to_its_store(
    start: Start, store: Path, tiny: Tiny, folder: Path, vandal: bool
) -> None:
    before = snapshot(store.parent), snapshot(tiny.path.parent)
    server, models = start({"vandal": vandal}), folder / "models"
    manifest = json.loads(ollama.manifest_path(store, CONFIG.name).read_text())
    for layer in [manifest["config"], *manifest["layers"]]:
        blob = ollama.blob_path(models, layer["digest"])
        assert blob.is_symlink() == layer["mediaType"].endswith("model")
        assert f"sha256:{files.sha256(blob)}" == layer["digest"]
    server.close()
    if vandal:
        content = ollama.manifest_path(models, CONFIG.name).read_bytes()
        assert content == b"overwritten in place" and not list((models / "blobs").iterdir())
    assert (snapshot(store.parent), snapshot(tiny.path.parent)) == before
    start()  # recreates the store


def test_weights_that_a_file_system_cannot_link_are_copied(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    start()
    blobs = list((folder / "models/blobs").iterdir())
    assert len(blobs) > 1 and not any(path.is_symlink() for path in blobs)


def test_a_missing_or_damaged_store_is_one_line_and_starts_nothing(
    start: Start, store: Path, folder: Path, tmp_path: Path
) -> None:
    assert "dvc repro" in refused(start, store=tmp_path / "absent")
    copy = shutil.copytree(store, tmp_path / "copy")
    weights = max((copy / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert f"{weights} is damaged" in refused(start, store=copy)
    assert not folder.exists()


# Errors at the start


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"die": "Error: could not do it"}, "(exit status 1): Error: could not do it; "),
        (
            {
                "die": 'time=2026-01-01T00:00:00Z level=ERROR source=a.go:1 msg="no" error="broke"'
                "\ntime=2026 level=INFO msg=bye"
            },
            '(exit status 1): msg="no" error="broke"; ',
        ),
        (
            {"die": "Your new public key is:\nkilled by magic"},
            "(exit status 1): killed by magic; ",
        ),
        ({"crash": "panic: out of memory"}, "(exit status 2): panic: out of memory; "),
        ({"refuse": "llama-server has\nterminated"}, "500 to /api/generate: llama-server has term"),
        ({"digest": "f" * 64}, f"antimatter:latest with digest {'f' * 64}, expected "),
    ],
)
def test_a_failed_start_is_one_line_with_the_last_error_and_leaves_nothing(
    start: Start, folder: Path, plan: dict[str, Any], words: str
) -> None:
    message = refused(start, plan)
    assert words in message and message.endswith(f"; its log is {folder / 'ollama.log'}")
    assert pids(folder) and not any(map(is_alive, pids(folder)))
    start()  # the folder can be used again


def test_a_program_that_is_missing_is_one_line(start: Start, binary: Path) -> None:
    binary.unlink()
    assert f"No such file or directory: '{binary}'" in refused(start)


def test_a_slow_start_is_waited_for_but_not_forever(start: Start, folder: Path) -> None:
    start({"slow": 0.5}).close()
    assert "did not answer in 1 s; its log is" in refused(start, {"slow": 30}, start=0.6)
    assert pids(folder) and not any(map(is_alive, pids(folder)))


def test_a_port_in_use_is_one_line(start: Start, folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = refused(start, port=port)
    parts = (f"port {port}", "Address already in use", "--ollama-port")
    assert all(part in message for part in parts)
    assert "70000" in refused(start, port=70000)
    assert not (folder / "pids").exists()


def test_a_port_that_another_program_takes_during_the_start_is_one_line(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    plan, other = {"wait_for": str(tmp_path / "taken")}, {"/api/version": b"{}"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        message = pool.submit(refused, start, plan, port=port)
        until((folder / "pids").exists)
        with fake_release.serving(fake_release.Behaviour(other), port):
            (tmp_path / "taken").touch()
            assert "bind: address already in use" in message.result()


def test_one_folder_serves_one(start: Start, folder: Path) -> None:
    start()
    message = refused(start)
    assert str(folder) in message and str(os.getpid()) in message


def test_a_folder_that_cannot_be_written_is_one_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(start, folder=tmp_path / "file" / "serve")
    assert str(tmp_path / "file") in message and "Not a directory" in message
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        assert "Read-only file system" in refused(start, folder=disk / "serve")
    finally:
        subprocess.run(["umount", disk], check=True)


# The end

ESCAPING = {"stubborn": True, "runner": "escapes"}


@pytest.mark.parametrize(
    "plan", [{"stubborn": True}, {"runner": "forgotten"}, {"runner": "escapes"}, ESCAPING], ids=str
)
def test_no_process_remains_of_one_that_resists(
    start: Start, folder: Path, plan: dict[str, Any]
) -> None:
    server, began = start(plan), time.monotonic()
    server.close()
    assert len(pids(folder)) == 2 and not any(map(is_alive, pids(folder)))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("runner", ["", "escapes"])
def test_no_process_remains_of_one_that_was_killed(start: Start, folder: Path, runner: str) -> None:
    server = start({"runner": runner})
    os.kill(pids(folder)[0], signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids(folder))))
    with pytest.raises(BackendError, match="does not answer"):
        backends.complete(server.backend, "Once")
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_no_process_remains_when_the_keeper_is_killed(start: Start, folder: Path) -> None:
    start()
    assert len(pids(folder)) == 2 and all(map(is_alive, pids(folder)))
    os.kill(parent(pids(folder)[0]), signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids(folder))))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("plan", [{}, ESCAPING], ids=str)
def test_no_process_remains_when_ours_is_killed(
    store: Path, binary: Path, folder: Path, number: signal.Signals, plan: dict[str, Any]
) -> None:
    code = f"""\
import time
from pathlib import Path
from antimatter.export.ollama import OllamaConfig
from antimatter.serve.ollama import keeper, server
keeper.GRACE = 0.5
with server.OllamaServer(Path({str(binary)!r}), Path({str(store)!r}), {CONFIG!r},
                         Path({str(folder)!r})):
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "FAKE_OLLAMA": json.dumps(plan)},
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert len(pids(folder)) == 2 and all(map(is_alive, pids(folder)))
        process.send_signal(number)
    until(lambda: not any(map(is_alive, pids(folder))))


# Which Ollama is used


def test_from_nothing_to_an_answer(
    store: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "GRACE", 0.5)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    program = fake_program.install_to(tmp_path / "program").read_bytes()
    content = fake_release.archive(
        [fake_release.member("bin/ollama", program, mode=0o755), *fake_release.members()[4:]]
    )
    release, prefix = tmp_path / fake_release.NAME, tmp_path / "prefix"
    release.write_bytes(content)
    (tmp_path / "sha256sum.txt").write_bytes(fake_release.sums(release.name, content))
    log: list[str] = []
    environ = {"PATH": "", "OLLAMA_HOST": "127.0.0.1:1"}

    def opened(**options: Any) -> Any:
        arguments = {"store": store, "prefix": prefix, "folder": folder, "environ": environ}
        return open_ollama(CONFIG, log.append, **(arguments | options))

    with pytest.raises(UserError, match=f"{prefix}.*--install"), opened():
        pass
    with opened(install_it=True, archive=str(release)) as backend:
        assert backends.complete(backend, "Once")[0] == "a"
        processes = pids(folder)
        address = backend.description.split()[2].removeprefix("http://").rstrip(",")
        # One that is already running is used
        with opened(environ={"OLLAMA_HOST": address}) as same:
            assert same.description == backend.description
        assert pids(folder) == processes and all(map(is_alive, processes))
    assert not any(map(is_alive, processes))
    log.clear()
    with opened(port=0, install_it=True, archive=str(release)):
        pass
    assert f"{prefix / 'bin/ollama'} exists: {release} is not installed" in log[0]
    assert str(folder / "ollama.log") in log[1] and len(log) == 2


def test_a_running_ollama_with_another_model_of_the_name_is_not_used(
    start: Start, store: Path, tiny: Tiny, binary: Path, tmp_path: Path, folder: Path
) -> None:
    ollama.write(tiny.path, tmp_path / "other", replace(CONFIG, system="Be rude."))
    running = start(store=tmp_path / "other" / "models", folder=tmp_path / "elsewhere")
    log: list[str] = []
    environ = {"PATH": str(binary.parent), "OLLAMA_HOST": running.url}
    options: dict[str, Any] = {"prefix": tmp_path / "prefix", "folder": folder}
    with open_ollama(CONFIG, log.append, store=store, environ=environ, **options) as backend:
        assert running.url not in backend.description
    assert running.url in log[0] and log[0].endswith("it is not used")
    assert log[1].startswith(f"starting {binary}")
    running.close()
    log.clear()
    # Without a store to compare with it is used only if it was asked for
    running = start(folder=tmp_path / "elsewhere")
    options |= {"store": tmp_path / "absent", "environ": environ | {"OLLAMA_HOST": running.url}}
    with open_ollama(CONFIG, log.append, named=True, **options) as backend:
        assert running.url in backend.description
    with pytest.raises(UserError), open_ollama(CONFIG, log.append, **options):
        pass
    assert "cannot be compared" in log[0] and log[1].endswith("it is not used")


def test_it_starts_without_torch_numpy_and_pyarrow() -> None:
    heavy = ("torch", "numpy", "pyarrow", "gguf", "tokenizers", "xllamacpp")
    code = f"""\
import sys, antimatter.serve.ollama.server
print([name for name in {heavy} if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
