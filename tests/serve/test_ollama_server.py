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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import fake_program, fake_release
from helpers.gguf_model import Tiny

from antimatter import files
from antimatter.export import ollama
from antimatter.export.ollama import OllamaConfig
from antimatter.serve.ollama import keeper
from antimatter.serve.ollama import server as ollama_server
from antimatter.serve.ollama.server import OllamaServer, open_ollama

CONFIG = OllamaConfig(
    name="antimatter",
    type="f16",
    temperature=0.7,
    top_p=0.9,
    top_k=40,
    repeat_penalty=1.1,
    num_ctx=2048,
    num_predict=20,
    stop=("[EOS]",),
    system="Be kind.",
)


@pytest.fixture(scope="module")
def store(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dvc") / "ollama"
    ollama.write(tiny.path, folder, CONFIG)
    return folder / "models"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    return fake_program.install_to(tmp_path / "bin" / "ollama")


@pytest.fixture
def start(
    store: Path, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., OllamaServer]]:
    """Starts a server that misbehaves as the plan says. Whatever happens, nothing is left when the test ends."""
    monkeypatch.setattr(keeper, "GRACE", 0.5)
    made: list[OllamaServer] = []

    def make(
        plan: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **options: Any
    ) -> OllamaServer:
        given = {**os.environ, **(environ or {}), "FAKE_OLLAMA": json.dumps(plan or {})}
        made.append(
            OllamaServer(
                binary,
                options.pop("store", store),
                CONFIG,
                options.pop("folder", tmp_path / "serve"),
                environ=given,
                **options,
            )
        )
        return made[-1]

    yield make
    for server in made:
        server.close()


def pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().splitlines()]


def alive(pid: int) -> bool:
    """A zombie is not: where nobody collects it, the kernel keeps its name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def one_line(caught: "pytest.ExceptionInfo[Exception]") -> str:
    text = str(caught.value)
    assert text and "\n" not in text
    return text


# a good life


def test_it_is_ready_when_the_model_has_answered_and_gone_after_close(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    server = start()
    folder = tmp_path / "serve"
    routes = [json.loads(line) for line in (folder / "requests").read_text().splitlines()]
    assert [route for route, _ in routes] == ["/api/show", "/api/generate"]
    assert (
        routes[1][1]["options"]["num_predict"] == 1
        and routes[1][1]["options"]["num_ctx"] == server.engine.n_ctx == 64
    )
    assert "".join(server.engine.stream("Once", CONFIG, 5)) == "a"
    assert server.url.startswith("http://127.0.0.1:") and server.url in server.engine.description
    program, runner = pids(folder)
    assert alive(program) and alive(runner)
    assert os.getsid(program) not in (
        os.getsid(0),
        os.getsid(server._process.pid),
    )  # Ctrl-C in a terminal reaches neither
    assert "server config" in server.log.read_text()
    server.close()
    assert not alive(program) and not alive(runner) and not alive(server._process.pid)
    server.close()
    with socket.socket() as again:
        again.bind(("127.0.0.1", int(server.url.rpartition(":")[2])))


def test_the_next_start_keeps_one_old_log(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    for i in range(3):
        start({"number": i}).close()
        (tmp_path / "serve" / "ollama.log").write_text(f"run {i}")
    logs = {path.name: path.read_text() for path in (tmp_path / "serve").glob("*.log*")}
    assert logs == {"ollama.log": "run 2", "ollama.log.1": "run 1"}


def test_it_lives_on_when_the_thread_that_started_it_ends(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert all(map(alive, pids(tmp_path / "serve")))


def test_a_given_port_is_used_also_just_after_it_was(start: Callable[..., OllamaServer]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        server = start(port=port)
        assert server.url == f"http://127.0.0.1:{port}"
        server.close()


def test_nothing_inherited_changes_its_answers_or_its_place(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    alien = {
        "OLLAMA_HOST": "0.0.0.0:80",
        "OLLAMA_MODELS": "/elsewhere",
        "OLLAMA_CONTEXT_LENGTH": "5",
        "OLLAMA_KV_CACHE_TYPE": "q4_0",
        "OLLAMA_ORIGINS": "*",
        "OLLAMA_REMOTES": "example.org",
        "LLAMA_ARG_CTX_SIZE": "5",
        "OLLAMA_GPU_OVERHEAD": "1000",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    server = start(environ=alien, parallel=3)
    seen: dict[str, str] = json.loads((tmp_path / "serve" / "environ").read_text())
    folder = str(tmp_path / "serve")
    assert {
        name: value
        for name, value in seen.items()
        if name.startswith(("OLLAMA", "LLAMA", "CUDA")) or name == "HOME"
    } == {
        "HOME": f"{folder}/home",
        "OLLAMA_HOST": server.url.removeprefix("http://"),
        "OLLAMA_MODELS": f"{folder}/models",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_GPU_OVERHEAD": "1000",
        "CUDA_VISIBLE_DEVICES": "1",
    }


def test_a_home_that_cannot_be_written_does_not_matter(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    start(environ={"HOME": "/proc/nowhere"})
    assert (tmp_path / "serve/home/.ollama/id_ed25519").is_file()


# DVC's output


def facts(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (
            content,
            status.st_ino,
            status.st_nlink,
            status.st_mtime_ns,
            status.st_mode,
            status.st_ctime_ns,
        )
    return found


@pytest.mark.parametrize("vandal", [False, True])
def test_dvcs_output_stays_as_it_is_whatever_ollama_does_to_its_store(
    start: Callable[..., OllamaServer], store: Path, tiny: Tiny, tmp_path: Path, vandal: bool
) -> None:
    before = facts(store.parent), facts(tiny.path.parent)
    server = start({"vandal": vandal})
    mine = tmp_path / "serve" / "models"
    manifest = json.loads(ollama.manifest_path(store, CONFIG.name).read_text())
    for layer in [manifest["config"], *manifest["layers"]]:
        blob = ollama.blob_path(mine, layer["digest"])
        assert blob.is_symlink() == layer["mediaType"].endswith("model")
        assert f"sha256:{files.sha256(blob)}" == layer["digest"]
    server.close()
    if vandal:
        assert ollama.manifest_path(
            mine, CONFIG.name
        ).read_bytes() == b"overwritten in place" and not list((mine / "blobs").iterdir())
    assert (facts(store.parent), facts(tiny.path.parent)) == before
    start()  # makes its store anew


def test_weights_that_a_file_system_cannot_link_are_copied(
    start: Callable[..., OllamaServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    start()
    found = list((tmp_path / "serve" / "models/blobs").iterdir())
    assert len(found) > 1 and not any(path.is_symlink() for path in found)


def test_a_missing_or_damaged_store_is_one_line_and_starts_nothing(
    start: Callable[..., OllamaServer], store: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as absent:
        start(store=tmp_path / "absent")
    assert "is missing: run `dvc repro`" in one_line(absent)
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    weights = max((copy / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ValueError) as damaged:
        start(store=copy)
    assert f"{weights} is damaged" in one_line(damaged)
    assert not (tmp_path / "serve").exists()


# what goes wrong at the start


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (
            {"die": "Error: could not do it"},
            "Ollama ended before it was ready (exit status 1): Error: could not do it; its log is ",
        ),
        (
            {
                "die": 'time=2026-01-01T00:00:00Z level=ERROR source=a.go:1 msg="no good" error="it broke"\ntime=2026 level=INFO msg=bye'
            },
            'Ollama ended before it was ready (exit status 1): msg="no good" error="it broke"; its log is ',
        ),
        (
            {"die": "Your new public key is:\nkilled by magic"},
            "Ollama ended before it was ready (exit status 1): killed by magic; its log is ",
        ),
        (
            {"crash": "panic: out of memory"},
            "Ollama ended before it was ready (exit status 2): panic: out of memory; its log is ",
        ),
        (
            {"refuse": "llama-server has\nterminated"},
            "answered 500 to /api/generate: llama-server has terminated; its log is ",
        ),
        ({"digest": "f" * 64}, f"shows antimatter:latest with digest {'f' * 64}, ours is "),
    ],
)
def test_a_bad_start_is_one_line_with_its_last_words_and_leaves_nothing(
    start: Callable[..., OllamaServer], tmp_path: Path, plan: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConnectionError) as caught:
        start(plan)
    assert words in one_line(caught) and str(caught.value).endswith(
        f"; its log is {tmp_path / 'serve' / 'ollama.log'}"
    )
    found = pids(tmp_path / "serve")
    assert len(found) > 0 and not any(map(alive, found))
    start()  # the folder is free again


def test_a_program_that_is_gone_is_one_line(
    start: Callable[..., OllamaServer], binary: Path
) -> None:
    binary.unlink()
    with pytest.raises(ConnectionError) as caught:
        start()
    assert f"FileNotFoundError: [Errno 2] No such file or directory: '{binary}'" in one_line(caught)


def test_a_slow_start_is_waited_for_but_not_for_ever(
    start: Callable[..., OllamaServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start({"slow": 0.5}).close()
    monkeypatch.setattr(ollama_server, "_LOOK", 0.2)
    with pytest.raises(ConnectionError) as caught:
        start({"slow": 30}, start=0.6)
    assert "gave no answer in 1 s; its log is" in one_line(caught)
    found = pids(tmp_path / "serve")
    assert len(found) > 0 and not any(map(alive, found))


def test_a_port_that_is_taken_is_one_line_with_the_way_out(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError) as caught:
            start(port=port)
    assert one_line(caught) == (
        f"port {port} on 127.0.0.1 cannot be had (Address already in use): give another --ollama-port, or none for a free one"
    )
    with pytest.raises(ValueError, match="--ollama-port must lie in 0 to 65535, got 70000"):
        start(port=70000)
    assert not (tmp_path / "serve" / "pids").exists()


def test_a_port_that_another_program_takes_in_the_last_moment_is_one_line(
    start: Callable[..., OllamaServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_release.serving(
        fake_release.Behaviour({"/api/version": b"{}", "/api/tags": b'{"models": []}'})
    ) as url:
        monkeypatch.setattr(ollama_server, "_free", lambda _: int(url.rpartition(":")[2]))
        with pytest.raises(ConnectionError) as caught:
            start()
    assert "bind: address already in use" in one_line(caught)


def test_one_folder_serves_one(start: Callable[..., OllamaServer], tmp_path: Path) -> None:
    start()
    with pytest.raises(BlockingIOError) as caught:
        start()
    assert (
        f"an Ollama that serves from {tmp_path / 'serve'} is already running as process {os.getpid()}"
        in one_line(caught)
    )


def test_a_runtime_folder_that_cannot_be_written_is_one_line(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        start(folder=tmp_path / "file" / "serve")
    assert "cannot be written (Not a directory): Ollama's log and HOME belong into" in one_line(
        caught
    )


def test_a_runtime_folder_on_a_read_only_disk_is_one_line(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("may not mount")
    try:
        with pytest.raises(OSError) as caught:
            start(folder=disk / "serve")
        assert "cannot be written (Read-only file system)" in one_line(caught)
    finally:
        subprocess.run(["umount", disk], check=True)


# the end


@pytest.mark.parametrize(
    "plan",
    [
        {"stubborn": True},
        {"runner": "forgotten"},
        {"runner": "escapes"},
        {"stubborn": True, "runner": "escapes"},
    ],
    ids=str,
)
def test_nothing_is_left_of_one_that_does_not_want_to_end(
    start: Callable[..., OllamaServer], tmp_path: Path, plan: dict[str, Any]
) -> None:
    server = start(plan)
    began = time.monotonic()
    server.close()
    found = pids(tmp_path / "serve")
    assert len(found) == 2 and not any(map(alive, found))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("runner", ["", "escapes"])
def test_nothing_is_left_of_one_that_was_killed(
    start: Callable[..., OllamaServer], tmp_path: Path, runner: str
) -> None:
    server = start({"runner": runner})
    found = pids(tmp_path / "serve")
    os.kill(found[0], signal.SIGKILL)
    until(lambda: not any(map(alive, found)))
    with pytest.raises(ConnectionError, match="does not answer"):
        list(server.engine.stream("Once", CONFIG, 5))
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's word on a parent's death")
def test_nothing_is_left_when_the_keeper_is_killed(
    start: Callable[..., OllamaServer], tmp_path: Path
) -> None:
    server = start()
    found = pids(tmp_path / "serve")
    assert len(found) == 2 and all(map(alive, found))
    server._process.kill()
    until(lambda: not any(map(alive, found)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("plan", [{}, {"stubborn": True, "runner": "escapes"}], ids=str)
def test_nothing_is_left_when_we_are_killed(
    store: Path, binary: Path, tmp_path: Path, number: signal.Signals, plan: dict[str, Any]
) -> None:
    code = (
        "import sys, threading, time\nfrom pathlib import Path\nfrom antimatter.export.ollama import OllamaConfig\n"
        "from antimatter.serve.ollama import keeper, server\nkeeper.GRACE = 0.5\n"
        f"with server.OllamaServer(Path({str(binary)!r}), Path({str(store)!r}), {CONFIG!r}, Path({str(tmp_path / 'serve')!r})):\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "FAKE_OLLAMA": json.dumps(plan)},
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        found = pids(tmp_path / "serve")
        assert len(found) == 2 and all(map(alive, found))
        parent.send_signal(number)
    until(lambda: not any(map(alive, found)))


# the whole


def test_the_way_from_nothing_to_an_answer(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "GRACE", 0.5)
    monkeypatch.setattr("antimatter.serve.ollama.install._architecture", lambda: "amd64")
    release = tmp_path / "release" / fake_release.NAME
    release.parent.mkdir()
    program = fake_program.install_to(tmp_path / "program").read_bytes()
    release.write_bytes(
        fake_release.archive(
            [fake_release.member("bin/ollama", program, mode=0o755), *fake_release.members()[4:]]
        )
    )
    (release.parent / "sha256sum.txt").write_text(f"{files.sha256(release)}  ./{release.name}\n")
    places: dict[str, Any] = {
        "store": store,
        "prefix": tmp_path / "prefix",
        "folder": tmp_path / "serve",
    }
    environ = {"PATH": "", "OLLAMA_HOST": "127.0.0.1:1"}
    said: list[str] = []
    with (
        pytest.raises(FileNotFoundError) as caught,
        open_ollama(CONFIG, said.append, **places, environ=environ),
    ):
        pass
    assert "there is no `ollama` on the PATH or in" in one_line(
        caught
    ) and "`--install` downloads one there (1.4 GB)" in str(caught.value)
    with open_ollama(
        CONFIG, said.append, **places, environ=environ, install_it=True, archive=str(release)
    ) as engine:
        assert "".join(engine.stream("Once", CONFIG, 5)) == "a"
        found = pids(tmp_path / "serve")
        running = engine.description.split()[2].removeprefix("http://").rstrip(",")
        with open_ollama(
            CONFIG, said.append, **places, environ={"OLLAMA_HOST": running}
        ) as same:  # one that runs already
            assert same.description == engine.description
        assert pids(tmp_path / "serve") == found and all(map(alive, found))
    assert not any(map(alive, found))
    said.clear()
    with open_ollama(
        CONFIG, said.append, **places, environ=environ, port=0
    ):  # found in the prefix now
        pass
    assert said == [
        f"starting {tmp_path / 'prefix/bin/ollama'}, its log is {tmp_path / 'serve/ollama.log'}"
    ]
    said.clear()
    with open_ollama(
        CONFIG,
        said.append,
        **places,
        environ=environ,
        port=0,
        install_it=True,
        archive=str(release),
    ):
        pass
    assert said[0].startswith(
        f"{tmp_path / 'prefix/bin/ollama'} is there already: {release} is not installed"
    )


def test_a_running_ollama_with_another_model_of_the_name_is_not_used(
    start: Callable[..., OllamaServer], store: Path, tiny: Tiny, binary: Path, tmp_path: Path
) -> None:
    ollama.write(tiny.path, tmp_path / "other", replace(CONFIG, system="Be rude."))
    running = start(store=tmp_path / "other" / "models", folder=tmp_path / "elsewhere")
    said: list[str] = []
    environ = {"PATH": str(binary.parent), "OLLAMA_HOST": running.url}
    with open_ollama(
        CONFIG,
        said.append,
        store=store,
        prefix=tmp_path / "prefix",
        folder=tmp_path / "serve",
        environ=environ,
    ) as engine:
        assert running.url not in engine.description
    assert (
        said[0]
        == f"Ollama at {running.url} has another antimatter:latest than {store}: it is not used"
    )
    assert said[1].startswith(f"starting {binary}")
    running.close()
    said.clear()
    running = start(folder=tmp_path / "elsewhere")
    absent = {"store": tmp_path / "absent", "environ": environ | {"OLLAMA_HOST": running.url}}
    with open_ollama(CONFIG, said.append, named=True, **absent) as engine:
        assert running.url in engine.description
    assert said[0].endswith("cannot be compared") and len(said) == 1
    with pytest.raises(FileNotFoundError), open_ollama(CONFIG, said.append, **absent):
        pass
    assert said[1].endswith("cannot be compared: it is not used")


def test_it_starts_without_torch_numpy_and_pyarrow() -> None:
    heavy = ("torch", "numpy", "pyarrow", "gguf", "tokenizers", "xllamacpp")
    code = f"import sys, antimatter.serve.ollama.server; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
