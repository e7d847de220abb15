"""The charts of three revisions with different numbers, drawn by DVC and by matplotlib."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import vl_convert
from helpers.plots import BACKTRACKS, CHARTS, ROOT, run

from antimatter.cli import main as cli
from antimatter.errors import UserError
from antimatter.report import plotting, revisions
from stages import report as stage

TEMPLATES = sorted((ROOT / ".dvc/plots").glob("*.json"))
# By which every number of a revision is multiplied, except those on the x axis
FACTORS = {"one": 1.0, "two": 1.1, "three": 1.25}
PLACES = {"step", "back_to", "at_most", "rank", "bytes"}
COLORS = [tuple(bytes.fromhex(color[1:])) for color in plotting.REVISIONS[:3]]


def scaled(text: str, factor: float) -> str:
    """A CSV with other numbers of the same shape."""

    def cell(name: str, value: str) -> str:
        try:
            return value if name in PLACES else f"{float(value) * factor:.6g}"
        except ValueError:
            return value

    reader = csv.DictReader(io.StringIO(text))
    rows = [[cell(name, value) for name, value in row.items()] for row in reader]
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerows([list(reader.fieldnames or []), *rows])
    return output.getvalue()


def tables(root: Path) -> list[Path]:
    """The CSV files of all stages, relative to the root."""
    return [path.relative_to(root) for path in (root / "plots").glob("*/*.csv")]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three commits with the CSV files of the last run, with all numbers multiplied.

    The third one is an experiment of DVC.
    """
    folder = tmp_path_factory.mktemp("a repository")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "metrics", folder / "metrics")
    shutil.copytree(ROOT / "plots", folder / "plots")
    run(folder, "git", "init", "--quiet")
    for name, factor in FACTORS.items():
        for path in tables(ROOT):
            (folder / path).write_text(scaled((ROOT / path).read_text(), factor))
        if name == "two":
            for path in BACKTRACKS:
                (folder / path).write_text("step,loss,back_to,rate_scale\n2100,nan,1800,0.5\n")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message", name)
        reference = f"refs/exps/ab/{'c' * 38}/three" if name == "three" else f"refs/tags/{name}"
        run(folder, "git", "update-ref", reference, "HEAD")
    return folder


@pytest.fixture(scope="module")
def filled(repository: Path) -> dict[str, dict[str, Any]]:
    """The charts that `dvc plots diff` gives a browser, by name."""
    command = [sys.executable, "-m", "dvc", "plots", "diff", *FACTORS, "--json"]
    output = json.loads(run(repository, *command))
    assert "errors" not in output
    # An entry without a chart is a JSON file
    charts = {name: entries[0] for name, entries in output["data"].items() if entries}
    return {name: chart for name, chart in charts.items() if chart["type"] == "vega"}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_has_its_file_and_its_columns(name: str) -> None:
    for path, columns in CHARTS[name]["y"].items():
        with (ROOT / path).open() as file:
            header = next(csv.reader(file))
        used = [columns] if isinstance(columns, str) else columns
        assert {CHARTS[name]["x"], *used} <= set(header), path


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_template_is_used_and_gives_a_revision_its_color(path: Path) -> None:
    assert path.stem in {chart["template"] for chart in CHARTS.values()}
    text = path.read_text()
    # Vega-Lite would define that of a layered chart once for each layer
    assert "params" not in json.loads(text)
    assert text.count("<DVC_METRIC_ZOOM_AND_PAN>") <= 1
    for anchor in ("DATA", "TITLE", "COLOR"):
        assert f'"<DVC_METRIC_{anchor}>"' in text


@pytest.mark.parametrize("name", [name for name in CHARTS if name not in BACKTRACKS])
def test_a_chart_of_three_revisions_shows_each_in_its_color(
    name: str, filled: dict[str, dict[str, Any]]
) -> None:
    chart = filled[name]
    assert chart["revisions"] == list(FACTORS)
    spec = chart["content"] if isinstance(chart["content"], str) else json.dumps(chart["content"])
    assert "<DVC_METRIC" not in spec
    png = vl_convert.vegalite_to_png(spec, vl_version="5.8", scale=2)
    image = matplotlib.image.imread(io.BytesIO(png))
    assert min(count(image)) > 100, count(image)


def count(image: np.ndarray) -> list[int]:
    """The number of pixels in each revision's color, not mixed with white.

    Args:
        image: (height, width, 4)
    """
    pixels = (image[..., :3] * 255).round().astype(int)
    return [int((abs(pixels - color).max(axis=-1) <= 3).sum()) for color in COLORS]


def test_equal_numbers_give_equal_pictures_and_others_do_not(
    repository: Path, tmp_path: Path
) -> None:
    for path in tables(repository):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(scaled((repository / path).read_text(), 0.9))
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    metrics = ROOT / "metrics"
    stage.main(metrics, repository / "plots", first)
    stage.main(metrics, repository / "plots", again)
    stage.main(metrics, tmp_path / "plots", other)
    names = sorted(path.name for path in first.glob("*.png"))
    assert names == ["answers.png", "data.png", "gguf.png", "loss.png", "training.png"]
    for name in names:
        content = (first / name).read_bytes()
        assert content == (again / name).read_bytes() != (other / name).read_bytes()
        assert b"Software" not in content and b"tEXt" not in content


def test_a_damaged_table_is_one_line_with_the_fix(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "plots", tmp_path / "plots")
    losses = tmp_path / "plots/checkpoints/training.csv"
    losses.write_text(losses.read_text().replace(".", "x"))
    error = r"^[^\n]*training.csv is damaged \(the column \w+[^\n]*`dvc repro`[^\n]*$"
    with pytest.raises(UserError, match=error):
        stage.main(ROOT / "metrics", tmp_path / "plots", tmp_path / "report")


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


def test_a_revision_keeps_its_color_where_another_has_no_numbers(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    runs = {name: revisions.read(name) for name in FACTORS}
    colors = [color for _, color in plotting.colored(runs, "backtracks", "step")]
    assert colors == [plotting.REVISIONS[1]]


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
    error = capsys.readouterr().err
    assert error.startswith(f"error: {revision!r} is not a commit") and error.count("\n") == 1
    assert not (tmp_path / "never.png").exists()


def test_a_folder_without_numbers_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plots"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: workspace has no CSV files") and "`dvc repro`" in error


def test_the_mean_of_a_noisy_curve_is_near_the_curve_without_noise() -> None:
    steps = np.arange(5.0, 8001, 5)
    curve = 4 + 4 * np.exp(-steps / 300)
    noise = np.random.default_rng(0).normal(0, 0.1, len(steps))
    places, values = plotting.means(steps, curve + noise)
    assert len(places) <= plotting.PARTS and places[0] < 30 and places[-1] > 7500
    assert abs(values - (4 + 4 * np.exp(-places / 300))).max() < 0.15
    # A training that has just begun
    assert plotting.means(steps[:1], curve[:1]) == (steps[:1], curve[:1])
