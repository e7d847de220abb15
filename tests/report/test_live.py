"""`antimatter plots --live` beside a running `dvc repro`, in a real browser."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.command import ENVIRONMENT, ROOT, antimatter
from helpers.plots import run
from playwright.sync_api import expect

from antimatter.report import live

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CURVE = Path("plots/checkpoints/training.csv")
HEADER = "step,loss,learning_rate,gradient_norm\n"
# It writes one row at a time, as a training does, until there is a file `enough`
STAGE = f"""
import pathlib, time
curve = pathlib.Path("{CURVE}")
curve.parent.mkdir(parents=True, exist_ok=True)
curve.write_text("step,loss,learning_rate,gradient_norm\\n")
step = 0
while not pathlib.Path("enough").exists():
    step += 5
    with curve.open("a") as file:
        file.write(f"{{step}},{{8 - step / 1e4:.6g}},1e-3,1.5\\n")
    time.sleep(0.02)
"""
GRAPH = f"""
stages:
  checkpoints:
    cmd: python stage.py
    plots:
      - {CURVE}: {{cache: false, x: step, y: learning_rate, title: Learning rate, template: line}}
plots:
  - gradient norm:
      x: step
      y: {{{CURVE}: gradient_norm}}
      title: Gradient norm
      template: noisy_log
"""
# The points that a reader can hover over: of the learning rate, one for each row up to 400
POINTS = "#card-plots_checkpoints_training_csv .mark-symbol path"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository of DVC whose only stage writes a curve."""
    (tmp_path / ".dvc/plots").mkdir(parents=True)
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    for path in (ROOT / ".dvc/plots").glob("*.json"):
        (tmp_path / ".dvc/plots" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "stage.py").write_text(STAGE)
    return tmp_path


def write_curve(project: Path, rows: int) -> None:
    (project / CURVE).parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{step},7.5,1e-3,1.5\n" for step in range(5, 5 * rows + 5, 5)]
    (project / CURVE).write_text(HEADER + "".join(lines))


@contextmanager
def served(project: Path) -> Iterator[str]:
    """The address of the page, for which DVC may use a whole core. Ctrl-C ends the command without
    a message.
    """
    fast = "from antimatter.report import live; live.SECONDS, live.SHARE = 0.1, 1.0"
    command = "import sys; from antimatter.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", f"{fast}; {command}", "plots", "--live", "--port", "0"],
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        match = re.fullmatch(r"plots at (http://127\.0\.0\.1:\d+/)\n", line)
        try:
            assert match, line + process.stderr.read()
            yield match[1]
        finally:
            process.send_signal(signal.SIGINT)
            error = process.stderr.read()
        assert process.wait(20) in (0, 130) and error == ""


def news(url: str, version: int = 0, **headers: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}charts.json?version={version}", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return dict(json.load(response))


def test_the_curve_grows_while_dvc_trains_and_keeps_its_zoom(
    project: Path, browser: "Browser"
) -> None:
    write_curve(project, 3)
    dvc = [sys.executable, "-m", "dvc", "repro"]
    # Stages call `python`
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (
        served(project) as url,
        browser.new_context(viewport={"width": 1400, "height": 500}) as context,
    ):
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        expect(page.locator(POINTS)).to_have_count(3)
        page.evaluate("scrollTo(0, 120)")
        ticks = page.locator("#card-gradient_norm .role-axis-label text").first
        with subprocess.Popen(dvc, cwd=project, env={**os.environ, "PATH": path}) as repro:
            try:
                page.wait_for_function(
                    f"document.querySelectorAll('{POINTS}').length > 20", timeout=60_000
                )
                page.locator("#card-gradient_norm svg.marks").hover()
                page.keyboard.down("Control")
                page.mouse.wheel(0, -400)
                page.keyboard.up("Control")
                zoomed, top = ticks.text_content(), page.evaluate("scrollY")
                card = page.locator("#card-gradient_norm").element_handle()
                before = page.locator(POINTS).count()
                page.wait_for_function(
                    f"count => document.querySelectorAll('{POINTS}').length > count + 20",
                    arg=before,
                    timeout=60_000,
                )
                # The same element at the same place: the rows alone are new
                assert page.evaluate("scrollY") == top and ticks.text_content() == zoomed
                assert card and card.evaluate("it => it.isConnected")
                assert repro.poll() is None
            finally:
                (project / "enough").touch()
            assert repro.wait(60) == 0
        assert all(request.startswith((url, "data:")) for request in requests)
    # Its DVC took no lock that `dvc repro` would have waited for, and left no file
    assert (project / "dvc.lock").exists() and not (project / "dvc_plots").exists()


def test_figures_of_the_run_before_are_hidden_while_a_training_runs(
    project: Path, browser: "Browser"
) -> None:
    write_curve(project, 3)
    (project / "plots/report").mkdir()
    (project / "plots/report/figures.csv").write_text("kind,name,value\ncheckpoints,steps,1000\n")
    entry = "      - plots/report/figures.csv: {x: value, y: name, template: table}\n"
    (project / "dvc.yaml").write_text(GRAPH.replace("    plots:\n", f"    plots:\n{entry}"))
    place = project / "metrics/checkpoints/throughput.json"
    place.parent.mkdir(parents=True)
    with served(project) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        results = page.get_by_role("heading", name="Results")
        expect(results).to_be_visible()
        for state, count in (("training", 0), ("finished", 1)):
            status = {"state": state, "step": 5, "steps": 20, "updated": time.time()}
            place.write_text(json.dumps(status))
            expect(results).to_have_count(count)
            expect(page.locator("#status")).to_contain_text("step 5/20" if count == 0 else "No")
        assert page.get_by_role("cell", name="1,000").is_visible()


def test_the_page_says_that_the_command_has_ended(project: Path, browser: "Browser") -> None:
    write_curve(project, 3)
    with browser.new_context() as context:
        page = context.new_page()
        with served(project) as url:
            page.goto(url)
            expect(page.locator(POINTS)).to_have_count(3)
            expect(page.locator("#status")).to_contain_text("No training is running")
        expect(page.locator("#failure")).to_contain_text("--live has ended")
        assert page.locator(POINTS).count() == 3


def test_only_news_are_sent_and_only_to_its_own_page(project: Path) -> None:
    write_curve(project, 3)
    with served(project) as url:
        first = news(url)
        assert first["version"] == 1 and list(first["charts"]["data"])
        assert "charts" not in news(url, version=1)
        for name, value in (("Host", "example.org"), ("Origin", "http://example.org")):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                news(url, **{name: value})
        # DVC reads nothing before its time has come
        write_curve(project, 4)
        deadline = time.monotonic() + 60
        while (answer := news(url, version=1))["version"] == 1:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        rows = answer["charts"]["data"]["gradient norm"][0]["content"]["data"]["values"]
        assert len(rows) == 4
        # A mistake in dvc.yaml is on the page, with the charts as they were
        (project / "dvc.yaml").write_text("stages: [")
        while not (answer := news(url, version=2))["error"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "dvc.yaml" in answer["error"] and answer["version"] == 2


def test_the_status_is_that_of_the_training_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert live.status(100.0) == ""
    for stage, state, updated in (("checkpoints", "finished", 90), ("tuned", "training", 99)):
        place = Path("metrics") / stage / "throughput.json"
        place.parent.mkdir(parents=True)
        values = {"state": state, "step": 50, "steps": 200, "loss": 1.5, "updated": updated}
        place.write_text(json.dumps(values))
    assert "step 50/200" in live.status(100.0)
    place.write_text(json.dumps({**values, "state": "finished"}))
    assert live.status(100.0) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "there is no chart"), (("--port", "70000"), "--port")],
    ids=["no charts", "port"],
)
def test_what_cannot_be_served_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = antimatter(tmp_path, "plots", "--live", "--port", "0", *arguments)
    error = done.stderr.decode()
    assert done.returncode in (1, 2) and words in error and "Traceback" not in error


def test_an_unknown_revision_is_one_line(project: Path) -> None:
    (project / ".dvc/config").write_text("[core]\n    analytics = false\n")
    write_curve(project, 3)
    run(project, "git", "init", "--quiet")
    run(project, "git", "add", "dvc.yaml")
    run(project, "git", "commit", "--quiet", "--message", "one")
    done = antimatter(project, "plots", "--live", "--port", "0", "nowhere")
    assert done.returncode == 1 and "nowhere" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
