"""`antimatter site`: what it writes, and what it refuses before it writes anything."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import fake_wllama
from helpers.command import COMMAND, ENVIRONMENT, ROOT
from helpers.fake_release import Behaviour, serving
from helpers.gguf_model import Tiny

from antimatter.cli import main as cli
from antimatter.errors import UserError
from antimatter.llama.header import read_header
from antimatter.report.card import RunRecord
from antimatter.report.facts import facts
from antimatter.serve.site import build, wllama

GOOD = fake_wllama.archive()


@pytest.fixture(autouse=True)
def _pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wllama, "INTEGRITY", fake_wllama.integrity(GOOD))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a checkout after `dvc repro gguf`, with the package."""
    (tmp_path / "models" / "gguf").mkdir(parents=True)
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    shutil.copy2(tiny.chat_path, tmp_path / "models" / "gguf" / "tiny-q8_0.gguf")
    (tmp_path / "package.tgz").write_bytes(GOOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def site(*arguments: str) -> int:
    return cli.main(["site", "--output", "out", "--package", "package.tgz", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that says why. Nothing has changed."""
    before = written(Path.cwd())
    assert site(*arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = (line for line in lines if not line.startswith("note: "))
    assert line.startswith("error: ")
    assert written(Path.cwd()) == before
    return line


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.data = self.policy = ""
        self.addresses: list[str] = []
        self._is_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._is_data = values.get("id") == "site"
        self.addresses += [values[name] or "" for name in ("src", "href") if name in values]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._is_data:
            self.data += data
            self._is_data = False


def parsed(page: Path) -> Elements:
    elements = Elements()
    elements.feed(page.read_text(encoding="utf-8"))
    return elements


def test_it_writes_everything_that_the_page_needs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site() == 0
    assert "http.server" in capsys.readouterr().out
    files = written(folder / "out")
    contents = {f"wllama/{wllama.MEMBERS[n]}": data for n, data in fake_wllama.CONTENTS.items()}
    expected = {"index.html", "tiny-q8_0.gguf", build.NOTICE, *contents}
    assert set(files) == expected
    assert {name: files[name] for name in contents} == contents
    assert files["tiny-q8_0.gguf"] == (folder / "models/gguf/tiny-q8_0.gguf").read_bytes()
    description = json.loads(parsed(folder / "out" / "index.html").data)
    for key in ("file", "script", "single", "multi"):
        assert len(files[description[key]["path"]]) == description[key]["bytes"]
    assert description["model"]["kind"] == "chat"
    assert description["model"]["context_length"] == 64
    assert description["model"]["system"] == "Be kind."
    assert description["tokens"]["roles"] == {"system": 5, "user": 3, "assistant": 4}


def test_the_page_names_no_other_host_and_allows_none(folder: Path) -> None:
    site()
    page = (folder / "out" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w", page) == []
    elements = parsed(folder / "out" / "index.html")
    assert elements.addresses == ["data:,"]
    directives = dict(part.strip().split(" ", 1) for part in elements.policy.split(";"))
    assert directives.pop("default-src") == "'none'"
    sources = {source for value in directives.values() for source in value.split()}
    hashes = {source for source in sources if source.startswith("'sha256-")}
    # The engine, the page's script and its style
    assert len(hashes) == 3
    assert sources - hashes == {"'self'", "'none'", "'wasm-unsafe-eval'", "blob:", "data:"}
    assert "blob:" not in directives["script-src"]


def test_a_text_of_the_model_cannot_end_its_element(tiny: Tiny) -> None:
    texts = {"facts": [["</script><script>alert(1)</script>", "<!--"]]}
    elements = Elements()
    elements.feed(build.page(texts))
    assert json.loads(elements.data) == texts


def test_the_same_input_gives_the_same_bytes_and_replaces_an_earlier_site(folder: Path) -> None:
    site()
    before = written(folder / "out")
    (folder / "models/gguf/tiny-q8_0.gguf").rename(folder / "models/gguf/new-q8_0.gguf")
    site()
    after = written(folder / "out")
    assert "tiny-q8_0.gguf" not in after and "new-q8_0.gguf" in after
    (folder / "models/gguf/new-q8_0.gguf").rename(folder / "models/gguf/tiny-q8_0.gguf")
    site()
    assert written(folder / "out") == before


def test_a_folder_with_other_files_is_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site()
    capsys.readouterr()
    (folder / "out" / "thesis.txt").write_text("unique")
    assert "has thesis.txt, which this command does not write" in refused(capsys)
    # Before the download, and before the model is looked for
    shutil.rmtree(folder / "models")
    assert "thesis.txt" in refused(capsys, "--package", "absent.tgz")


def test_a_stranger_without_a_model_learns_how_to_make_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "models")
    message = refused(capsys)
    assert "models/gguf is missing" in message and "make repro" in message
    assert "absent is missing: name a GGUF file" in refused(capsys, "--model", "absent")
    (folder / "models" / "gguf").mkdir(parents=True)
    message = refused(capsys)
    assert "*-q8_0.gguf, it has none" in message and "--model" in message
    for name in ("a", "b"):
        (folder / "models" / "gguf" / f"{name}-q8_0.gguf").write_bytes(b"")
    assert "it has 2 (a-q8_0.gguf, b-q8_0.gguf)" in refused(capsys)
    assert "is not a GGUF file" in refused(capsys, "--model", "models/gguf/a-q8_0.gguf")


def test_a_wrong_package_leaves_the_earlier_site(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site()
    capsys.readouterr()
    (folder / "package.tgz").write_bytes(GOOD[:-1])
    assert "is not wllama" in refused(capsys)
    # Of the right digest, and still not the package
    bad = fake_wllama.archive(fake_wllama.members()[:2])
    (folder / "package.tgz").write_bytes(bad)
    monkeypatch.setattr(wllama, "INTEGRITY", fake_wllama.integrity(bad))
    assert "has no package/esm" in refused(capsys)


def test_a_model_that_is_too_large_for_a_browser_is_refused(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"a browser loads at most .*--model"):
        build.check_model(tiny.path, read_header(tiny.path))


def test_another_file_is_described_by_its_header_alone(
    folder: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site("--model", str(tiny.path)) == 0
    described = dict(json.loads(parsed(folder / "out" / "index.html").data)["facts"])
    assert described["Licence"] == "mit"
    assert described["Trained on"] == "the file does not say"
    assert described["What it cannot do"].startswith(build.CONTINUES)
    assert "note" not in capsys.readouterr().err
    # The model of the pipeline, without the record of its run
    assert site() == 0
    assert "does not say what the model was trained on" in capsys.readouterr().err


def test_the_recorded_run_says_what_the_model_was_trained_on() -> None:
    described = facts(RunRecord(Path(".")))
    card = Path("docs/model-card.md").read_text(encoding="utf-8")
    assert f"| parameters | {described['Parameters']} |" in card
    sources = re.search(r"from ([^;]*)", described["Trained on"])
    assert sources
    for source in sources[1].split(", "):
        assert f"| {source} |" in card
    assert "who it is 92%" in described["Measured on conversations that it has not seen"]


@pytest.fixture
def slow() -> Iterator[tuple[Behaviour, str]]:
    """A registry that sends the package in a second."""
    plan = Behaviour({"/package.tgz": GOOD}, pace=0.05)
    with serving(plan) as base:
        yield plan, base


def test_killed_in_the_middle_it_leaves_the_earlier_site_and_resumes(
    folder: Path, slow: tuple[Behaviour, str]
) -> None:
    plan, base = slow
    site()
    before = written(folder / "out")
    code = (
        "import sys\nfrom antimatter.serve.site import wllama\nfrom antimatter.cli import main\n"
        f"wllama.INTEGRITY = {wllama.INTEGRITY!r}\nwllama.URL = '{base}/package.tgz'\n"
        "sys.exit(main.main(['site', '--output', 'out']))\n"
    )
    command = [COMMAND[0], "-c", code]
    environment = ENVIRONMENT | {"no_proxy": "127.0.0.1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    cache = folder / wllama.CACHE
    deadline = time.monotonic() + 20
    while sum(path.stat().st_size for path in cache.glob("*.partial")) < 50_000:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert written(folder / "out") == before
    plan.pace = 0.0
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"resuming after" in done.stderr
    assert written(folder / "out") == before
    assert plan.requests[-1][1].startswith("bytes=")
