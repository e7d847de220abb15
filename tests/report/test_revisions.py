"""The charts, as DVC draws them and as matplotlib does: of three revisions whose numbers differ."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest
import vl_convert

from antimatter import cli, params
from antimatter.report import data, plotting, quantization, revisions, training

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / ".dvc/plots").glob("*.json"))
GRAPH = params.load(ROOT / "dvc.yaml")
CHARTS: dict[str, dict[str, Any]] = {
    name: chart for entry in GRAPH["plots"] for name, chart in entry.items()
}
for _stage in GRAPH["stages"].values():  # a chart of one file stands with its stage
    for _entry in _stage.get("plots", []):
        for _path, _chart in _entry.items():
            if _path.endswith(".csv"):
                CHARTS[_path] = {**_chart, "y": {_path: _chart["y"]}}
# Of every number of a revision that is not a place on the x axis
FACTORS = {"one": 1.0, "two": 1.1, "three": 1.25}
# Only one of the three revisions went back
BACKTRACKS = ("plots/backtracks.csv", "plots/tuned_backtracks.csv")
PLACES = {"step", "back_to", "at_most", "rank", "bytes"}
DRAWN = "count => [...document.querySelectorAll('canvas, svg.marks')].filter(chart => chart.getBoundingClientRect().width > 0).length == count"
COLOURS = [
    tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in plotting.REVISIONS[:3]
]


def scaled(text: str, factor: float) -> str:
    """A CSV with other numbers of the same shape."""

    def cell(name: str, value: str) -> str:
        try:
            return value if name in PLACES else f"{float(value) * factor:.6g}"
        except ValueError:
            return value

    reader = csv.DictReader(io.StringIO(text))
    rows = [[cell(name, value) for name, value in row.items()] for row in reader]
    return "".join(",".join(row) + "\n" for row in [list(reader.fieldnames or []), *rows])


def run(folder: Path, *command: str) -> str:
    names = {
        f"GIT_{who}_{what}": "test@localhost"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "failed to load" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three commits with all of plots/*.csv, as the last run of the pipeline left them but for a factor; the third is an experiment of DVC's."""
    folder = tmp_path_factory.mktemp("a repository")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copytree(ROOT / "metrics", folder / "metrics")
    shutil.copytree(ROOT / "plots", folder / "plots")
    run(folder, "git", "init", "--quiet")
    for name, factor in FACTORS.items():
        for path in (ROOT / "plots").glob("*.csv"):
            (folder / "plots" / path.name).write_text(scaled(path.read_text(), factor))
        if name == "two":
            for path in BACKTRACKS:
                (folder / path).write_text("step,loss,back_to,rate_scale\n2100,nan,1800,0.5\n")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message", name)
        run(
            folder,
            "git",
            "update-ref",
            f"refs/exps/ab/{'c' * 38}/three" if name == "three" else f"refs/tags/{name}",
            "HEAD",
        )
    return folder


@pytest.fixture(scope="module")
def filled(repository: Path) -> dict[str, dict[str, Any]]:
    """What `dvc plots diff` gives a browser, by the name of the chart."""
    said = json.loads(
        run(repository, sys.executable, "-m", "dvc", "plots", "diff", *FACTORS, "--json")
    )
    assert "errors" not in said
    # JSON objects draw nothing
    return {
        name: found[0]
        for name, found in said["data"].items()
        if found and found[0]["type"] == "vega"
    }


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_has_its_file_and_its_columns(name: str) -> None:
    for path, columns in CHARTS[name]["y"].items():
        with (ROOT / path).open() as file:
            header = next(csv.reader(file))
        assert {CHARTS[name]["x"], *([columns] if isinstance(columns, str) else columns)} <= set(
            header
        ), path


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_template_is_used_and_gives_a_revision_its_colour(path: Path) -> None:
    assert path.stem in {chart["template"] for chart in CHARTS.values()}
    text = path.read_text()
    layered = any(word in json.loads(text) for word in ("layer", "hconcat"))
    # Vega-Lite would define it once a layer
    assert layered == ("<DVC_METRIC_ZOOM_AND_PAN>" not in text)
    for anchor in ("DATA", "TITLE", "COLOR"):
        assert f'"<DVC_METRIC_{anchor}>"' in text


@pytest.mark.parametrize("name", [name for name in CHARTS if name not in BACKTRACKS])
def test_a_chart_of_three_revisions_shows_each_in_its_colour(
    name: str, filled: dict[str, dict[str, Any]]
) -> None:
    chart = filled[name]
    assert chart["revisions"] == list(FACTORS)
    spec = chart["content"] if isinstance(chart["content"], str) else json.dumps(chart["content"])
    assert "<DVC_METRIC" not in spec
    image = matplotlib.image.imread(
        io.BytesIO(vl_convert.vegalite_to_png(spec, vl_version="5.8", scale=2))
    )
    assert min(count(image)) > 100, count(image)


def count(image: np.ndarray) -> list[int]:
    """The pixels (height, width, 4) of each revision's colour: of the colour itself, not mixed with white."""
    pixels = (image[..., :3] * 255).round().astype(int)
    return [int((abs(pixels - colour).max(axis=-1) <= 3).sum()) for colour in COLOURS]


def test_every_chart_is_on_the_page_without_a_network(
    repository: Path, filled: dict[str, dict[str, Any]], browser: "Browser"
) -> None:
    assert filled.keys() == CHARTS.keys()
    run(repository, sys.executable, str(ROOT / "tools/plots_page.py"), ".dvc/tmp/plots.html")
    run(
        repository,
        sys.executable,
        "-m",
        "dvc",
        "config",
        "--local",
        "plots.html_template",
        "tmp/plots.html",
    )
    run(repository, sys.executable, "-m", "dvc", "plots", "diff", *FACTORS, "--out", "page")
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        asked: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console", lambda said: problems.append(said.text) if said.type == "error" else None
        )
        page.goto((repository / "page/index.html").as_uri())
        page.wait_for_function(DRAWN, arg=len(CHARTS), timeout=60_000)
        assert {url.partition(":")[0] for url in asked} == {"file"} and problems == []


@pytest.mark.parametrize("name", ["evaluation", "shards", "gguf"])
def test_equal_numbers_give_equal_pictures_and_others_do_not(
    name: str, repository: Path, tmp_path: Path
) -> None:
    here = repository / "plots"
    draw = {
        "evaluation": lambda folder, *outputs: training.draw(
            folder / "training.csv",
            folder / "validation.csv",
            folder / "backtracks.csv",
            folder / "bins.csv",
            *outputs,
        ),
        "shards": lambda folder, first, _: data.draw(
            folder / "drops.csv", folder / "lengths.csv", folder / "frequencies.csv", first
        ),
        "gguf": lambda folder, first, _: quantization.draw(folder / "gguf.csv", first),
    }[name]
    (tmp_path / "plots").mkdir()
    for path in here.glob("*.csv"):
        (tmp_path / "plots" / path.name).write_text(scaled(path.read_text(), 1.3))
    for number, folder in enumerate((here, here, tmp_path / "plots")):
        draw(folder, tmp_path / f"{number}.png", tmp_path / f"{number}-2.png")
    for end in (".png", "-2.png")[: 1 + (name == "evaluation")]:
        first, again, other = ((tmp_path / f"{number}{end}").read_bytes() for number in range(3))
        assert first == again != other
        assert b"Software" not in first and b"tEXt" not in first


def test_plots_overlays_revisions_without_dvc(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(repository)
    picture = tmp_path / "all.png"
    assert cli.main(["plots", "one", "two", "three", "--output", str(picture)]) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    assert min(count(matplotlib.image.imread(picture))) > 1000
    assert cli.main(["plots", "--output", str(tmp_path / "alone.png")]) == 0  # the files here
    # No revision to tell apart
    assert max(count(matplotlib.image.imread(tmp_path / "alone.png"))) < 100
    assert revisions.read("three") == revisions.read("workspace") != revisions.read("two")


def test_a_revision_keeps_its_colour_where_another_has_no_numbers(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    runs = {name: revisions.read(name) for name in FACTORS}
    colours = [colour for _, colour in plotting.coloured(runs, "backtracks", "step")]
    assert colours == [plotting.REVISIONS[1]]


@pytest.mark.parametrize("revision", ["four", "--all", "HEAD:plots"])
def test_an_unknown_revision_is_one_line(
    revision: str,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(repository)
    assert cli.main(["plots", "--output", str(tmp_path / "never.png"), "--", revision]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith(f"error: {revision!r} is no commit and no experiment")
        and said.count("\n") == 1
    )
    assert not (tmp_path / "never.png").exists()


def test_a_folder_without_numbers_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plots"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: workspace has no plots/*.csv with numbers: `dvc repro` makes them"
    )


def test_the_mean_of_a_noisy_curve_is_near_the_curve_without_noise() -> None:
    steps = np.arange(5.0, 8001, 5)
    curve = 4 + 4 * np.exp(-steps / 300)
    places, values = plotting.means(
        steps, curve + np.random.default_rng(0).normal(0, 0.1, len(steps))
    )
    assert len(places) <= plotting.PARTS and places[0] < 30 and places[-1] > 7500
    assert abs(values - (4 + 4 * np.exp(-places / 300))).max() < 0.15
    # A training that has just begun
    assert plotting.means(steps[:1], curve[:1]) == (steps[:1], curve[:1])
