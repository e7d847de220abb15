"""The table of figures and parameters for the plots page, compared with what DVC says of a run."""

import csv
import json
from pathlib import Path

import pytest

from antimatter import files, params
from antimatter.errors import UserError
from antimatter.report import figures

FIGURES = Path("plots/report/figures.csv")


def table(path: Path) -> list[tuple[str, ...]]:
    with path.open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_names_are_those_of_dvc() -> None:
    from dvc.utils.flatten import flatten

    values = {"validation": {"loss": 1.5, "by": {"source": 2}}, "steps": 3}
    assert dict(figures.leaves(values)) == {k: str(v) for k, v in flatten(values).items()}


def test_every_tracked_value_has_one_row(tmp_path: Path) -> None:
    for name in figures.STAGES:
        files.write_json(tmp_path / name / "summary.json", {"loss": 0.25, "steps": 1000})
    values = {"model": {"n_layer": 2, "tied": True}, "raw": {"files": ["a", "b"], "name": "x, y"}}
    figures.write(tmp_path, {**values, "runtime": {"workers": 8}}, tmp_path / "table.csv")
    results = [
        (name, *row) for name in figures.STAGES for row in (("loss", "0.25"), ("steps", "1000"))
    ]
    assert table(tmp_path / "table.csv") == [
        ("kind", "name", "value"),
        *results,
        ("parameters", "model.n_layer", "2"),
        ("parameters", "model.tied", "true"),
        ("parameters", "raw.files", json.dumps(["a", "b"])),
        ("parameters", "raw.name", "x, y"),
    ]


def test_the_table_in_git_is_that_of_the_last_run(tmp_path: Path) -> None:
    figures.write(Path("metrics"), params.load(), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_bytes() == FIGURES.read_bytes()


def test_a_missing_summary_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoints/summary.json[^\n]*$"):
        figures.write(tmp_path, {}, tmp_path / "table.csv")
