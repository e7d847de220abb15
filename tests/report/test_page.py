"""The page of `dvc plots show` and `dvc plots diff` in a real browser, with the charts that DVC
makes of the last run and of runs that differ from it.
"""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.plots import BACKTRACKS, CHARTS, ROOT, run

from antimatter import files, params
from antimatter.report import figures, plotting

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    Open = Callable[..., Page]

LONG = 100_000  # rows
FIGURES = "plots/report/figures.csv"
# The charts that the page leaves out, as another one has their numbers
REPEATED = {
    *BACKTRACKS,
    "plots/checkpoints/validation.csv",
    "plots/cleaned/lengths.csv",
    "plots/tuned/validation.csv",
}
SHOWN = CHARTS.keys() - REPEATED - {FIGURES}
DRAWN = (
    """count => document.querySelectorAll('figure :is(svg.marks, canvas.marks)').length == count"""
)
# Texts that are shortened, or reach out of their picture, their card or the window
CLIPPED = """() => {
    const clipped = [];
    for (const text of document.querySelectorAll('svg.marks text')) {
        const box = text.getBoundingClientRect();
        if (!box.width || text.closest('[opacity="0"]')) continue;
        const frame = text.closest('svg').getBoundingClientRect();
        if (text.textContent.includes('…') || box.left < frame.left - 1
            || box.right > frame.right + 1 || box.top < frame.top - 1
            || box.bottom > frame.bottom + 1) clipped.push(text.textContent);
    }
    for (const item of document.querySelectorAll('h1, h2, h3, p, li, td')) {
        const box = item.getBoundingClientRect();
        if (!box.width) continue;
        const isOut = box.right > innerWidth && !item.closest('.wide');
        if (isOut || item.scrollWidth > item.clientWidth + 1) clipped.push(item.textContent);
    }
    return clipped;
}"""


def rewrite(path: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    with path.open(newline="") as file:
        rows = [change(row) for row in csv.DictReader(file)]
    files.write_csv(path, list(rows[0]), [list(row.values()) for row in rows])


def faster(folder: Path) -> None:
    """Another learning rate of the pretraining: its curves and one figure differ, no data does."""
    text = (folder / "params.yaml").read_text()
    assert "learning_rate: 1e-3" in text
    (folder / "params.yaml").write_text(text.replace("learning_rate: 1e-3", "learning_rate: 2e-3"))
    rewrite(
        folder / "plots/checkpoints/training.csv",
        lambda row: row | {"loss": f"{float(row['loss']) * 0.9:.6g}"},
    )
    summary = files.read_json(folder / "metrics/checkpoints/summary.json")
    files.write_metrics(
        folder / "metrics/checkpoints/summary.json", summary | {"train_loss": 4.2, "tokens": 2e6}
    )
    figures.write(folder / "metrics", params.load(folder / "params.yaml"), folder / FIGURES)


def diverged(folder: Path) -> None:
    """From the middle on, the loss is inf and then nan, and training went back twice."""
    steps = iter(range(10**6))

    def change(row: dict[str, str]) -> dict[str, str]:
        i = next(steps)
        value = "inf" if i == 100 else "nan"
        return row if i < 100 else row | {"loss": value, "gradient_norm": value}

    rewrite(folder / "plots/checkpoints/training.csv", change)
    rows = "step,loss,back_to,rate_scale\n505,inf,500,0.5\n510,nan,500,0.25\n"
    (folder / BACKTRACKS[0]).write_text(rows)


def old(folder: Path) -> None:
    """It knows neither the evaluation nor the figures."""
    shutil.rmtree(folder / "plots/evaluation")
    (folder / FIGURES).unlink()


def long(folder: Path) -> None:
    lines = [f"{i},{4 + 4 / (1 + i / 1e3):.6g},1e-3,1.{i % 7}" for i in range(1, LONG + 1)]
    (folder / "plots/checkpoints/training.csv").write_text(
        "\n".join(["step,loss,learning_rate,gradient_norm", *lines, ""])
    )


REVISIONS = {"faster": faster, "diverged": diverged, "old": old, "long": long}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the last run in the commit `base`, and one commit for each of REVISIONS."""
    folder = tmp_path_factory.mktemp("plots") / "project"
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "metrics", folder / "metrics")
    shutil.copytree(ROOT / "plots", folder / "plots")
    run(folder, sys.executable, str(ROOT / "tools/plots_page.py"), ".dvc/tmp/plots.html")
    dvc = (sys.executable, "-m", "dvc")
    run(folder, *dvc, "config", "--local", "plots.html_template", "tmp/plots.html")
    run(folder, "git", "init", "--quiet", "--initial-branch=base")

    def commit() -> None:
        run(folder, "git", "add", "dvc.yaml", "params.yaml", "metrics", "plots", ".dvc/plots")
        run(folder, "git", "commit", "--quiet", "--message", "run")

    commit()
    for name, change in REVISIONS.items():
        run(folder, "git", "checkout", "--quiet", "-b", name, "base")
        change(folder)
        commit()
    run(folder, "git", "checkout", "--quiet", "base")
    return folder


@pytest.fixture(scope="module")
def pages(project: Path) -> Callable[..., Path]:
    """The page of some revisions; without any, of the workspace."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*revisions: str) -> Path:
        if revisions not in made:
            out = project.parent / f"page-{len(made)}"
            part = ("diff", *revisions) if revisions else ("show",)
            # That of `old` is short of some files, of which DVC warns
            run(project, sys.executable, "-m", "dvc", "plots", *part, "--out", str(out), warns=True)
            made[revisions] = out / "index.html"
        return made[revisions]

    return make


@pytest.fixture
def open_page(browser: "Browser") -> "Iterator[Open]":
    """Opens a page without a network. No script of it fails, and it requests files alone."""
    problems: list[str] = []

    def open_(path: Path, width: int = 1400, charts: int = len(SHOWN)) -> "Page":
        context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda entry: entry.type == "error" and problems.append(entry.text))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or problems.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_function(DRAWN, arg=charts, timeout=60_000)
        return page

    contexts: list[Any] = []
    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def identifier(name: str) -> str:
    """As DVC makes one of a name."""
    return re.sub(r"[/. ]", "_", name)


def card(page: "Page", name: str) -> Any:
    return page.locator(f"#card-{identifier(name)}")


def colors(page: "Page", name: str) -> set[str]:
    """Of the lines of a chart."""
    strokes = (
        card(page, name)
        .locator(".mark-line path")
        .evaluate_all("paths => paths.map(path => path.getAttribute('stroke'))")
    )
    return set(strokes)


def legend(page: "Page") -> list[str]:
    items = page.locator("#revisions li")
    return list(items.evaluate_all("all => all.map(it => it.style.getPropertyValue('--color'))"))


def test_each_chart_of_the_run_is_on_the_page_once_with_its_explanation(
    pages: "Callable[..., Path]", open_page: "Open"
) -> None:
    page = open_page(pages())
    ids = page.locator("figure").evaluate_all("all => all.map(it => it.id)")
    assert sorted(ids) == sorted(f"card-{identifier(name)}" for name in SHOWN)
    titles = page.locator("h3").all_inner_texts()
    assert len(set(titles)) == len(titles)
    # No picture of stage report, and no JSON
    assert page.locator("img:visible").count() == 0
    assert page.get_by_role("heading", name="More").count() == 0
    for part in page.locator("section").all():
        assert len(part.locator("> h2").inner_text()) > 3
        assert len(part.locator("> p").inner_text()) > 15
    for figure in page.locator("figure").all():
        assert len(figure.locator("figcaption p").inner_text()) > 15
        marks = figure.locator("svg :is(.mark-line, .mark-symbol, .mark-rect) path")
        assert marks.count() > 0, figure.get_attribute("id")


@pytest.mark.parametrize(("width", "columns"), [(1400, 2), (600, 1), (390, 1)])
def test_the_columns_fill_the_window_and_no_text_is_clipped(
    width: int, columns: int, pages: "Callable[..., Path]", open_page: "Open"
) -> None:
    page = open_page(pages(), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [figure.bounding_box() for figure in page.locator("figure").all()]
    assert len({round(box["x"]) for box in boxes if box}) == columns
    # A row ends where the section does: no hole beside a card
    ends = page.locator("section > .cards > :last-child").evaluate_all(
        "all => all.map(it => Math.round(it.getBoundingClientRect().right))"
    )
    assert len(set(ends)) == 1
    if width >= 600:
        assert page.evaluate(CLIPPED) == []


def test_numbers_have_separators_and_no_empty_decimals(
    pages: "Callable[..., Path]", open_page: "Open"
) -> None:
    page = open_page(pages())
    texts = page.locator("svg.marks text, td").all_text_contents()
    numbers = [text for text in texts if re.fullmatch(r"[-−+]?[\d.,]+%?", text)]
    assert len(numbers) > 150
    assert [text for text in numbers if re.search(r"^[-−+]?\d{4,}|\.0+%?$", text)] == []
    # As the rows have it
    card(page, "plots/raw/sources.csv").locator(".mark-rect path").first.hover()
    with (ROOT / "plots/raw/sources.csv").open() as file:
        row = next(csv.DictReader(file))
    tooltip = page.locator("#vg-tooltip-element").inner_text()
    assert {"workspace", row["source"], f"{int(row['bytes']):,}"} <= set(tooltip.split("\n"))


def test_what_differs_comes_first_and_equal_charts_are_folded(
    pages: "Callable[..., Path]", open_page: "Open"
) -> None:
    # The loss alone differs: gradient norm and learning rate are columns of the same file
    page = open_page(pages("base", "faster"), charts=1)
    assert page.locator("main h2").first.inner_text() == "What differs"
    table = [
        [cell.inner_text() for cell in row.locator("td").all()]
        for row in page.locator("main table tbody tr").all()
    ]
    loss = json.loads((ROOT / "metrics/checkpoints/summary.json").read_text())["train_loss"]
    assert [row for row in table if row] == [
        ["optimizer.learning_rate", "0.001", "0.002", "+0.001 (+100%)"],
        ["tokens", "1,024,000", "2,000,000", "+976,000 (+95%)"],
        ["train_loss", f"{loss}", "4.2", f"−{loss - 4.2:.4f} (−11%)"],
    ]
    assert card(page, "loss").is_visible()
    assert colors(page, "loss") == set(legend(page)) == set(plotting.REVISIONS[:2])
    # The legend stays in view
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    box = page.locator("#revisions").bounding_box()
    assert box and box["y"] == 0 and page.evaluate("scrollY") > 100
    equal = page.locator("details:has(.cards) > summary")
    assert equal.inner_text() == f"Equal in all revisions: {len(SHOWN) - 1} charts"
    assert not card(page, "gradient norm").is_visible()
    equal.click()
    page.wait_for_function(DRAWN, arg=len(SHOWN), timeout=60_000)
    assert card(page, "gradient norm").is_visible() and page.evaluate(CLIPPED) == []


def test_six_revisions_with_every_damage_keep_their_colors(
    pages: "Callable[..., Path]", open_page: "Open", project: Path
) -> None:
    commit = run(project, "git", "rev-parse", "base").strip()
    charts = ("loss", "gradient norm", "plots/checkpoints/training.csv")
    evaluation = [name for name in SHOWN if name.startswith("plots/evaluation/")]
    names = ("old", "base", "faster", "diverged", "long", commit)
    page = open_page(pages(*names), charts=len(charts) + len(evaluation))
    assert page.locator("#revisions li").all_inner_texts() == [*names[:-1], commit[:7]]
    assert legend(page) == list(plotting.REVISIONS[:6])
    assert "Without a record of them: old." in page.locator("main p").first.inner_text()
    # What `old` lacks is no reason to give its color to another
    assert colors(page, "plots/evaluation/bins.csv") == set(plotting.REVISIONS[1:6])
    for name in charts:
        assert card(page, name).locator("canvas").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400


def test_a_diverged_run_shows_its_finite_part_and_where_it_went_back(
    pages: "Callable[..., Path]", open_page: "Open"
) -> None:
    page = open_page(pages("diverged", "base"), charts=2)
    lines = card(page, "loss").locator(".mark-line path")
    paths = [line.get_attribute("d") or "" for line in lines.all()]
    assert len(paths) == 6 and not [path for path in paths if "NaN" in path or "Inf" in path]
    rules = card(page, "loss").locator(f".mark-rule line[stroke='{plotting.REVISIONS[0]}']")
    assert rules.count() == 2


def test_a_chart_and_a_picture_that_the_page_does_not_know_are_shown_too(
    project: Path, tmp_path: Path, open_page: "Open"
) -> None:
    copy = shutil.copytree(project, tmp_path / "copy")
    own = "plots:\n  - my own:\n      x: step\n      y: {plots/checkpoints/validation.csv: loss}\n"
    text = (copy / "dvc.yaml").read_text()
    shutil.copy(copy / "plots/report/loss.png", copy / "mine.png")
    (copy / "dvc.yaml").write_text(
        text.replace("plots:\n  - loss:", f"{own}  - mine.png:\n  - loss:")
    )
    run(copy, sys.executable, "-m", "dvc", "plots", "show", "--out", str(tmp_path / "page"))
    page = open_page(tmp_path / "page/index.html", charts=len(SHOWN) + 1)
    assert page.get_by_role("heading", name="More").is_visible()
    assert card(page, "my own").is_visible()
    (source,) = page.locator("img").evaluate_all("all => all.map(it => it.naturalWidth && it.src)")
    assert source.endswith("mine.png")


def test_the_wheel_scrolls_the_page_and_zooms_with_control(
    pages: "Callable[..., Path]", open_page: "Open"
) -> None:
    page = open_page(pages())

    def ticks() -> list[str]:
        return list(
            card(page, "gradient norm").locator(".role-axis-label text").all_text_contents()
        )

    before = ticks()
    card(page, "gradient norm").locator("svg.marks").hover()
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, 100)
    page.wait_for_function("top => scrollY > top", arg=top)
    assert ticks() == before
    card(page, "gradient norm").locator("svg.marks").hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_function(
        "before => [...document.querySelectorAll('#card-gradient_norm .role-axis-label text')]"
        ".map(text => text.textContent).join() != before",
        arg=",".join(before),
    )
