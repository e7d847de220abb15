"""`antimatter serve` as a process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.gguf_model import Tiny
from helpers.http_server import Served, eventually, question
from helpers.processes import children, is_alive

from antimatter.serve.http import runner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a project")
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / "models" / "gguf").mkdir(parents=True)
    (folder / "models" / "gguf" / "tiny-f16.gguf").write_bytes(tiny.path.read_bytes())
    return folder


def serve(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "antimatter.cli", "serve", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OLLAMA_HOST": "127.0.0.1:9",
            **environment,
        },
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_open_connections_and_leaves_nothing_behind(
    project: Path, number: signal.Signals, status: int
) -> None:
    with serve(project, "--port", "0") as process:
        try:
            assert process.stdout and process.stderr
            line = process.stdout.readline()
            backend = r"embedded llama\.cpp, models/gguf/tiny-f16\.gguf"
            match = re.fullmatch(
                rf"serving antimatter by {backend} at http://127\.0\.0\.1:(\d+)/\n", line
            )
            assert match, line + process.stderr.read()
            (llama,) = children(process.pid)
            served = Served(int(match[1]), [])
            assert served.post(question(max_tokens=3))[0] == 200
            with served.connect() as idle, served.connect() as half:
                half.sendall(b"GET / HT")
                process.send_signal(number)
                assert process.wait(20) == status
                assert idle.recv(1) == b""
            assert process.stdout.read() == ""
            log = process.stderr.read()
            assert re.fullmatch("[^\n]*[oO]llama[^\n]*: using the embedded llama.cpp\n", log)
            eventually(lambda: not is_alive(llama))
        finally:
            process.kill()


def test_beyond_this_machine_a_token_is_generated_and_shown_once(project: Path) -> None:
    arguments = ["--port", "0", "--host", "0.0.0.0", "--engine", "embedded"]
    with serve(project, *arguments, "--allow-host", "Chat.Example.org") as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            match = re.fullmatch(
                r"serving .* at http://127\.0\.0\.1:(\d+)/#token=([\w-]{43})\n", line
            )
            assert match
            served = Served(int(match[1]), [])
            assert served.request("GET", "/v1/models")[0] == 401
            headers = {
                "Authorization": f"Bearer {match[2]}",
                "Host": "chat.example.org",
                "Origin": "https://chat.example.org",
            }
            assert served.request("GET", "/v1/models", headers=headers)[0] == 200
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ("--port TAKEN", {}, r"port \d+ is in use: .*`--port 0`.*"),
        ("--host no.such.name.invalid", {}, r"--host no\.such\.name\.invalid is not known: .*"),
        ("--host 192.0.2.1 --port 0", {}, r"--host 192\.0\.2\.1 is not an address of this .*"),
        (
            "--port 0 --parallel 256 --engine embedded",
            {},
            r"--parallel must be at most 64, the tokens of the context, got 256",
        ),
        ("--port 0 --allow-host http://x/", {}, r"--allow-host must be a name alone, .*"),
        ("--port 0 --token-file absent", {}, r"absent is missing: .*"),
        ("--port 0 --token-file /", {}, r"/ cannot be read \(Is a directory\): --token-file .*"),
        ("--port 0 --token-file /dev/zero", {}, r"/dev/zero has more than 4096 bytes: .*"),
        ("--port 0 --engine ollama", {"OLLAMA_HOST": "://"}, r"OLLAMA_HOST must .* got '://'"),
        (
            "--port 0",
            {"ANTIMATTER_TOKEN": ""},
            r"the token in ANTIMATTER_TOKEN has 0 char.* 16: .*",
        ),
        ("--port 0 --model params.yaml", {}, r"params\.yaml is not a GGUF file.*"),
        ("--port 0 --engine ollama", {"PATH": "absent"}, r"there is no `ollama` .*`--install` .*"),
    ],
)
def test_an_error_before_serving_is_one_line_and_exit_1(
    project: Path, arguments: str, environment: dict[str, str], words: str
) -> None:
    with runner.bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        with serve(project, *arguments.replace("TAKEN", port).split(), **environment) as process:
            output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert re.fullmatch(rf"error: {words}\n", error)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--port=70000", "--port: it must lie in [0, 65535], got 70000"),
        ("--parallel=0", "--parallel: it must lie in [1, 256], got 0"),
        ("--parallel=100000", "--parallel: it must lie in [1, 256], got 100000"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_loaded(
    tmp_path: Path, option: str, words: str
) -> None:
    with serve(tmp_path, option) as process:
        output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, "")
    assert error.splitlines()[-1] == f"antimatter serve: error: argument {words}"
