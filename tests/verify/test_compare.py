"""Differences that one can check by hand, and what they mean."""

import json
import math
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from antimatter import files
from antimatter.verify import compare, environment
from antimatter.verify import report as verdict
from antimatter.verify.compare import BOUNDS, Cache, Number, Output, Recorded
from antimatter.verify.report import Report

LOSS = Number("validation.loss", 4.0, 4.02, 0.01)


def test_every_bound_is_of_a_number_that_there_is() -> None:
    """Else a renamed metric would never be judged again."""
    for path, bounds in BOUNDS.items():
        names = compare._leaves(files.read_json(Path(path)))
        for pattern in bounds:
            found = [name for name in names if fnmatchcase(name, pattern)]
            assert found and all(isinstance(names[name], int | float) for name in found), (
                f"{path}: {pattern}"
            )


def test_numbers_of_json_by_name_and_relative_to_the_record() -> None:
    old = {
        "same": 1,
        "steps": 10,
        "a": {"loss": 4.0, "kl": 1e-8},
        "kind": "x",
        "gone": 1,
        "zero": 0.0,
    }
    new = {
        "same": 1,
        "steps": 11,
        "a": {"loss": 4.02, "kl": 3e-8},
        "kind": "y",
        "zero": 0.5,
        "born": 2,
    }
    numbers, notes = compare.numbers_of_json(old, new, {"steps": 0, "*.loss": 0.01})
    told = {number.name: (number.apart, number.bound, number.within) for number in numbers}
    assert list(told)[:2] == ["steps", "a.loss"]  # those that are judged first
    assert told["steps"] == (pytest.approx(0.1), 0, False)
    assert told["a.loss"] == (pytest.approx(0.005), 0.01, True)
    assert told["a.kl"] == (pytest.approx(2.0), None, True)
    assert told["gone"][0] == told["born"][0] == told["zero"][0] == math.inf
    assert notes == ["kind differs"]


def test_a_number_that_is_none_is_beyond_any_bound() -> None:
    assert not Number("loss", 4.0, math.nan, 0.01).within
    assert not Number("loss", 4.0, None, 0.01).within
    assert Number("loss", -4.0, -4.02, 0.01).within


def test_numbers_of_csv_are_the_worst_row_of_each_column() -> None:
    old = "step,loss,rate,reason\n1,4.0,0.5,a\n2,2.0,0.5,b\n3,1.0,0.5,c\n"
    new = "step,loss,rate,reason\n1,4.4,0.5,a\n2,2.5,0.5,x\n"
    numbers, notes = compare.numbers_of_csv(old, new)
    assert [(number.name, number.old, number.new, number.apart) for number in numbers] == [
        ("loss", 2.0, 2.5, 0.25)
    ]
    assert notes == ["2 rows, 3 are recorded", "1 cells of text"]
    assert compare.numbers_of_csv(old, "step\n1\n") == ([], ["other columns"])


def store(cache: Cache, content: bytes, name: str) -> str:
    """As DVC stores an object; the digest need not be true here."""
    path = cache.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def test_of_a_folder_the_files_that_differ_are_named_and_weights_are_measured(
    tmp_path: Path,
) -> None:
    old, new = Cache(tmp_path / "old"), Cache(tmp_path / "new")
    for cache, third in ((old, 2.0), (new, 2.2)):
        save_file({"w": np.array([1.0, 2.0, third], np.float32)}, tmp_path / "w")
        weights = store(cache, (tmp_path / "w").read_bytes(), f"{third}-weights")
        entries = [
            {"md5": weights, "relpath": "final.safetensors"},
            {"md5": "same", "relpath": "config.json"},
        ]
        entries += [{"md5": "x", "relpath": "extra.txt"}] if cache is new else []
        store(cache, json.dumps(entries).encode(), f"{third}.dir")
    found = compare.compare(
        "checkpoints",
        "models/checkpoints",
        Recorded("2.0.dir", None),
        "2.2.dir",
        tmp_path,
        old,
        new,
    )
    assert not found.identical and found.within
    # 0.2 of |(1, 2, 2)| = 3
    assert found.notes == (
        "extra.txt is new",
        "final.safetensors (weights at most 0.2 apart, 6.67% of their norm)",
    )
    gone = compare.compare(
        "checkpoints", "models/checkpoints", Recorded("y.dir", None), "2.2.dir", tmp_path, old, new
    )
    assert gone.notes == ("the recorded files are not in the cache",)


def test_a_cache_holds_a_folder_only_with_all_of_its_files(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert not cache.holds("aa.dir")
    store(cache, b'[{"md5": "bbb", "relpath": "file"}]', "aa.dir")
    assert not cache.holds("aa.dir")
    store(cache, b"", "bbb")
    assert cache.holds("aa.dir") and cache.holds("bbb")


@pytest.mark.parametrize(
    ("output", "within"),
    [
        (Output("shards", "data/shards", True), True),
        (Output("shards", "data/shards", False), False),  # data: to the byte
        (Output("shards", "metrics/shards.json", False, (Number("tokens", 1e9, 1e9 + 1),)), False),
        (Output("shards", "plots/data.png", False), True),
        (Output("checkpoints", "models/checkpoints", False), True),
        (Output("evaluation", "metrics/evaluation.json", False, (LOSS,)), True),
        (
            Output(
                "evaluation",
                "metrics/evaluation.json",
                False,
                (LOSS, Number("validation.perplexity", 60.0, 61.0, 0.01)),
            ),
            False,
        ),
        (
            Output("evaluation", "metrics/evaluation.json", False, (LOSS,), contradiction=True),
            False,
        ),
        (Output("evaluation", "metrics/coherence.json", False, (Number("ended", 0.0, 0.1),)), True),
    ],
)
def test_what_another_machine_may_leave(output: Output, within: bool) -> None:
    assert output.within is within


def report(
    *outputs: Output,
    changes: tuple[str, ...] = (),
    machine: tuple[str, ...] | None = None,
    failed: str = "",
) -> Report:
    return Report("0" * 40, ("checkpoints", "evaluation"), outputs, changes, machine, failed)


SAME, PARTED = (
    Output("checkpoints", "models/checkpoints", True),
    Output("evaluation", "metrics/evaluation.json", False, (LOSS,)),
)
RECORD = Output("checkpoints", environment.PROVENANCE, False)


@pytest.mark.parametrize(
    ("found", "status", "exact"),
    [
        (report(SAME), 0, 0),
        (report(SAME, PARTED), 0, 1),
        (report(SAME, RECORD, machine=("machine a -> b",)), 0, 1),
        (report(SAME, Output("shards", "data/shards", False)), 1, 1),
        (report(SAME, failed="evaluation ended with status 1"), 1, 1),
    ],
)
def test_the_exit_status(found: Report, status: int, exact: int) -> None:
    assert (found.status(exact=False), found.status(exact=True)) == (status, exact)


@pytest.mark.parametrize(
    ("found", "last"),
    [
        (report(SAME), "identical: all 1 output of 2 stages"),
        (report(SAME, RECORD, machine=("machine.kind a -> b",)), "  machine.kind a -> b"),
        (report(PARTED, changes=("package torch 1 -> 2",)), "  package torch 1 -> 2"),
        (
            report(PARTED, machine=()),
            "nothing that is recorded differs: the results are not of this commit, or a stage leaves something to chance",
        ),
        (
            report(PARTED),
            "parameters, code and packages are those recorded; metrics/provenance.json does not tell of the machine",
        ),
    ],
)
def test_the_last_line_says_what_may_be_the_reason(found: Report, last: str) -> None:
    assert list(verdict.lines(found))[-1].startswith(last)
    assert json.loads(json.dumps(verdict.as_json(found, False), allow_nan=False))["status"] == 0


@pytest.mark.parametrize(
    ("bound", "words"), [(0, ", must be the same"), (0.01, ", 1% allowed"), (None, "")]
)
def test_a_line_says_how_far_a_number_may_be_off(bound: float | None, words: str) -> None:
    output = Output(
        "checkpoints", "metrics/checkpoints.json", False, (Number("steps", 200, 20, bound),)
    )
    lines = list(verdict.lines(report(output)))
    assert f"    {'steps':26} {'200':>12} -> {'20':<12} 90.00% apart{words}" in lines


def test_packages_are_compared_without_their_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one-1.0+cpu", "two-2.1"):
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name[:3]}\nVersion: {name[4:]}\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert environment.packages("# a comment\none==1.0\ntwo==2.0\nabsent-from-here==1\n") == [
        "package two 2.0 -> 2.1"
    ]
    assert str(tmp_path) in sys.path


def test_of_the_provenance_only_what_dvc_lock_does_not_have() -> None:
    old = {
        "code": "a",
        "params": {"steps": 1},
        "data": {"shards": "1"},
        "libraries": {"torch": "2.13.0"},
        "machine": {"kind": "cpu, AVX512"},
    }
    new = {
        "code": "b",
        "params": {"steps": 2},
        "data": {"shards": "2"},
        "libraries": {"torch": "2.14.0"},
        "machine": {"kind": "cpu, AVX2"},
    }
    expected = ["libraries.torch 2.13.0 -> 2.14.0", "machine.kind cpu, AVX512 -> cpu, AVX2"]
    assert environment.provenance(json.dumps(old).encode(), json.dumps(new).encode()) == expected
    # By stage, should others record it too
    nested = [json.dumps({"checkpoints": made}).encode() for made in (old, new)]
    assert environment.provenance(*nested) == [f"checkpoints.{text}" for text in expected]
    assert environment.provenance(nested[0], nested[0]) == []


def test_a_lock_that_is_older_than_the_code_or_the_parameters_is_told() -> None:
    def entry(code: str, data: str, steps: int) -> dict[str, object]:
        deps = [{"path": "antimatter/a.py", "md5": code}, {"path": "data/shards", "md5": data}]
        return {
            "deps": deps,
            "params": {"params.yaml": {"checkpoints": {"steps": steps, "seed": 1}}},
        }

    old, new = entry("a", "x", 1), entry("b", "y", 2)
    assert environment.stale(old, old, set(), set()) == []
    assert environment.stale(old, new, {"data/shards"}, set()) == [
        "file antimatter/a.py is not the one of dvc.lock",
        "parameter checkpoints.steps 1 -> 2",
    ]
    assert (
        environment.stale(old, new, {"data/shards", "antimatter/a.py"}, {"checkpoints.steps"}) == []
    )
