"""Differences that one can check by hand, and what the report says about them."""

import json
import math
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from antimatter import files
from antimatter.pipeline.recorded import Cache
from antimatter.verify import compare, environment
from antimatter.verify import report as reports
from antimatter.verify.compare import BOUNDS, Committed, Number, Output
from antimatter.verify.report import Report

LOSS = Number("loss", 4.0, 4.02, 0.01)


def test_every_bound_is_of_a_number_that_exists() -> None:
    """Otherwise a renamed metric would never be judged again."""
    for path, bounds in BOUNDS.items():
        numbers, _ = compare.numbers_of_json({}, files.read_json(Path(path)), {})
        names = {number.name for number in numbers}
        for pattern in bounds:
            assert any(fnmatchcase(name, pattern) for name in names), f"{path}: {pattern}"


def test_numbers_of_json_by_name_and_relative_to_the_record() -> None:
    old = {"same": 1, "steps": 10, "a": {"loss": 4.0, "kl": 1e-8}, "kind": "x"}
    new = {"same": 1, "steps": 11, "a": {"loss": 4.02, "kl": 3e-8}, "kind": "y"}
    old |= {"gone": 1, "zero": 0.0}
    new |= {"zero": 0.5, "born": 2}
    numbers, notes = compare.numbers_of_json(old, new, {"steps": 0, "*.loss": 0.01})
    by_name = {number.name: (number.apart, number.bound, number.within) for number in numbers}
    # First those that are judged
    assert list(by_name)[:2] == ["steps", "a.loss"]
    assert by_name["steps"] == (pytest.approx(0.1), 0, False)
    assert by_name["a.loss"] == (pytest.approx(0.005), 0.01, True)
    assert by_name["a.kl"] == (pytest.approx(2.0), None, True)
    assert by_name["gone"][0] == by_name["born"][0] == by_name["zero"][0] == math.inf
    assert notes == ["kind differs"]


def test_a_number_that_is_missing_or_nan_is_beyond_any_bound() -> None:
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
    """As DVC stores an object; any text serves as the digest here."""
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

    def output(digest: str) -> Output:
        stage, path, committed = "checkpoints", "models/checkpoints", Committed(digest, None)
        return compare.compare(stage, path, committed, "2.2.dir", tmp_path, old, new)

    different = output("2.0.dir")
    assert not different.identical and different.within
    # 0.2 of |(1, 2, 2)| = 3
    assert different.notes == (
        "extra.txt is new",
        "final.safetensors (weights at most 0.2 apart, 6.67% of their norm)",
    )
    assert output("y.dir").notes == ("the recorded files are not in the cache",)


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
        # Data: the same bytes
        (Output("shards", "data/shards", False), False),
        (
            Output(
                "shards", "metrics/shards/summary.json", False, (Number("tokens", 1e9, 1e9 + 1),)
            ),
            False,
        ),
        (Output("shards", "plots/report/data.png", False), True),
        (Output("checkpoints", "models/checkpoints", False), True),
        (Output("evaluation", "metrics/evaluation/summary.json", False, (LOSS,)), True),
        (
            Output(
                "evaluation",
                "metrics/evaluation/summary.json",
                False,
                (LOSS, Number("perplexity", 60.0, 61.0, 0.01)),
            ),
            False,
        ),
        (
            Output(
                "evaluation", "metrics/evaluation/summary.json", False, (LOSS,), contradiction=True
            ),
            False,
        ),
        (
            Output(
                "evaluation",
                "metrics/evaluation/coherence.json",
                False,
                (Number("ended", 0.0, 0.1),),
            ),
            True,
        ),
    ],
)
def test_what_another_machine_may_produce(output: Output, within: bool) -> None:
    assert output.within is within


def report(
    *outputs: Output,
    changes: tuple[str, ...] = (),
    machine: tuple[str, ...] | None = None,
    failed: str = "",
) -> Report:
    return Report("0" * 40, ("checkpoints", "evaluation"), outputs, changes, machine, failed)


SAME = Output("checkpoints", "models/checkpoints", True)
PARTED = Output("evaluation", "metrics/evaluation/summary.json", False, (LOSS,))
RECORD = Output("checkpoints", environment.PROVENANCE, False)


@pytest.mark.parametrize(
    ("result", "status", "exact"),
    [
        (report(SAME), 0, 0),
        (report(SAME, PARTED), 0, 1),
        (report(SAME, RECORD, machine=("machine a -> b",)), 0, 1),
        (report(SAME, Output("shards", "data/shards", False)), 1, 1),
        (report(SAME, failed="evaluation ended with status 1"), 1, 1),
    ],
)
def test_the_exit_status(result: Report, status: int, exact: int) -> None:
    assert (result.status(exact=False), result.status(exact=True)) == (status, exact)


@pytest.mark.parametrize(
    ("result", "last"),
    [
        (report(SAME), "identical: all 1 output of 2 stages"),
        (report(SAME, RECORD, machine=("machine.kind a -> b",)), "  machine.kind a -> b"),
        (report(PARTED, changes=("package torch 1 -> 2",)), "  package torch 1 -> 2"),
        (report(PARTED, machine=()), "nothing that is recorded differs: "),
        (report(PARTED), f"parameters, code and packages are those recorded, and {RECORD.path} "),
    ],
)
def test_the_last_line_gives_the_possible_reason(result: Report, last: str) -> None:
    assert list(reports.lines(result))[-1].startswith(last)
    assert json.loads(json.dumps(reports.as_json(result, False), allow_nan=False))["status"] == 0


@pytest.mark.parametrize(
    ("bound", "words"), [(0, ", must be the same"), (0.01, ", 1% allowed"), (None, "")]
)
def test_a_line_says_by_how_much_a_number_may_differ(bound: float | None, words: str) -> None:
    output = Output(
        "checkpoints", "metrics/checkpoints/summary.json", False, (Number("steps", 200, 20, bound),)
    )
    lines = list(reports.lines(report(output)))
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
    old = {"code": "a", "params": {"steps": 1}, "data": {"shards": "1"}}
    new = {"code": "b", "params": {"steps": 2}, "data": {"shards": "2"}}
    old |= {"libraries": {"torch": "2.13.0"}, "machine": {"kind": "cpu, AVX512"}}
    new |= {"libraries": {"torch": "2.14.0"}, "machine": {"kind": "cpu, AVX2"}}
    expected = ["libraries.torch 2.13.0 -> 2.14.0", "machine.kind cpu, AVX512 -> cpu, AVX2"]
    assert environment.provenance(json.dumps(old).encode(), json.dumps(new).encode()) == expected
    # By stage, should others record it too
    nested = [json.dumps({"checkpoints": origin}).encode() for origin in (old, new)]
    assert environment.provenance(*nested) == [f"checkpoints.{text}" for text in expected]
    assert environment.provenance(nested[0], nested[0]) == []


def test_code_and_parameters_that_are_not_those_of_dvc_lock_are_reported() -> None:
    def entry(code: str, data: str, steps: int) -> dict[str, object]:
        deps = [{"path": "antimatter/a.py", "md5": code}, {"path": "data/shards", "md5": data}]
        parameters = {"checkpoints": {"steps": steps, "seed": 1}}
        return {"deps": deps, "params": {"params.yaml": parameters}}

    old, new = entry("a", "x", 1), entry("b", "y", 2)
    assert environment.changed_inputs(old, old, set(), set()) == []
    assert environment.changed_inputs(old, new, {"data/shards"}, set()) == [
        "file antimatter/a.py is not the one of dvc.lock",
        "parameter checkpoints.steps 1 -> 2",
    ]
    reproduced = {"data/shards", "antimatter/a.py"}
    assert environment.changed_inputs(old, new, reproduced, {"checkpoints.steps"}) == []
