"""The strict reader of params.yaml, and the intervals that a section declares."""

import dataclasses
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

# DVC reads params.yaml with it
from ruamel.yaml import YAML

from antimatter import params
from antimatter.errors import UserError
from antimatter.params import BelowOne, PositiveInt, Section, Within


@dataclass(frozen=True, kw_only=True)
class Inner:
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    steps: PositiveInt
    rate: float
    name: str
    fast: bool
    kind: Literal["a", "b"]
    parts: tuple[float, ...]
    versions: dict[str, str]
    inner: Inner
    limit: int | None


GOOD = """
s:
  steps: 3
  rate: 6e-4
  name: x
  fast: false
  kind: a
  parts: [1, 0.5]
  versions: {numpy: 2.4.6}
  inner:
    ratio: 1
  limit: null
"""

PARAMS_FILES = [Path("params.yaml"), *sorted(Path("presets").glob("*.yaml"))]


def read(tmp_path: Path, text: str) -> Config:
    (tmp_path / "params.yaml").write_text(text)
    return params.read(Config, "s", tmp_path / "params.yaml")


def test_a_section_becomes_its_dataclass(tmp_path: Path) -> None:
    expected = Config(
        steps=3,
        rate=0.0006,
        name="x",
        fast=False,
        kind="a",
        parts=(1.0, 0.5),
        versions={"numpy": "2.4.6"},
        inner=Inner(ratio=1.0),
        limit=None,
    )
    assert read(tmp_path, GOOD) == expected


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "  rate: 6e-4",
            "  rate: 6e-4\n  stepps: 4",
            r"s\.stepps \(did you mean `steps`\?\) is not a parameter",
        ),
        ("  rate: 6e-4\n", "", r"s\.rate is missing"),
        ("steps: 3", "steps: 3.5", r"s\.steps must be a whole number, got 3\.5"),
        ("steps: 3", "steps: true", r"s\.steps must be a whole number, got True"),
        ("steps: 3", "steps: 0", r"s\.steps must be at least 1, got 0"),
        ("rate: 6e-4", "rate: fast", r"s\.rate must be a number, got 'fast'"),
        ("fast: false", "fast: 'no'", r"s\.fast must be true or false, got 'no'"),
        ("name: x", "name: 3", r"s\.name must be text, got 3"),
        ("kind: a", "kind: c", r"s\.kind must be one of a, b; got 'c'"),
        ("parts: [1, 0.5]", "parts: [1, x]", r"s\.parts\[1\] must be a number, got 'x'"),
        ("parts: [1, 0.5]", "parts: 1", r"s\.parts must be a list, got 1"),
        ("{numpy: 2.4.6}", "{numpy: 2}", r"s\.versions\.numpy must be text, got 2"),
        ("    ratio: 1", "    ratios: 1", r"s\.inner\.ratios \(.*`ratio`\?\) is not a parameter"),
        ("steps: 3", "steps: 3\n  steps: 4", r"line \d: `steps` is there twice"),
        ("s:", "t:", r"section `s` is missing"),
        ("steps: 3", "steps: [3", r"is not readable as YAML: line \d+, column \d+: .+: correct it"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_key(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=words) as error:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_all_wrong_keys_of_a_section_are_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("  name: x\n", "").replace("  fast: false\n", "  fsat: false\n  zzz: 1\n")
    text = text.replace("  limit: null\n", "").replace("    ratio: 1\n", "    {}\n")
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    path = tmp_path / "params.yaml"
    # fast is misspelt, so it is not missing too
    assert str(error.value).split("\nerror: ") == [
        f"{path}: s.fsat (did you mean `fast`?), s.zzz are not parameters; known: "
        "steps, rate, name, fast, kind, parts, versions, inner, limit",
        f"{path}: s.name, s.limit are missing: presets/nano.yaml shows values",
        f"{path}: s.inner.ratio is missing: presets/nano.yaml shows values",
    ]


@pytest.mark.parametrize("content", ["", "3", "- 1", "\udcff"])
def test_a_file_without_sections_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=r"params\.yaml"):
        params.load(path)


def test_a_missing_file_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml is missing: .*git checkout"):
        params.load(tmp_path / "params.yaml")


@dataclass(frozen=True, kw_only=True)
class Base(Section):
    dropout: BelowOne
    power: Annotated[float, Within("(1, 2]")]
    # What a file may leave out with `null`
    limit: Annotated[int, Within("[1, inf)")] | None

    def validate(self) -> None:
        if self.limit is not None and self.limit < self.power:
            raise UserError(f"limit must be at least power ({self.power:g}), got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    scale: Annotated[float, Within("(0, inf)")]


VALID = Derived(dropout=0.0, power=2.0, limit=None, scale=0.5)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("dropout", 0.0, ""),
        ("dropout", math.nextafter(1, 0), ""),
        ("dropout", 1.0, "must lie in [0, 1), got 1.0"),
        ("dropout", -1e-9, "must lie in [0, 1), got -1e-09"),
        ("dropout", math.nan, "must lie in [0, 1), got nan"),
        ("power", 1.0, "must lie in (1, 2], got 1.0"),
        ("power", math.nextafter(1, 2), ""),
        ("power", 2.0, ""),
        ("power", math.nextafter(2, 3), "must lie in (1, 2], got 2.0000000000000004"),
        ("limit", None, ""),
        ("limit", 10**400, ""),
        ("limit", 0, "must be at least 1, got 0"),
        ("scale", 5e-324, ""),
        ("scale", 0.0, "must be above 0, got 0.0"),
        ("scale", math.inf, "must be above 0, got inf"),
    ],
)
def test_a_value_lies_in_the_interval_of_its_field(key: str, value: Any, rule: str) -> None:
    """In that of an optional or an inherited field too, and after replace()."""
    if rule:
        with pytest.raises(UserError) as error:
            replace(VALID, **{key: value})
        assert str(error.value) == f"{key} {rule}"
    else:
        assert getattr(replace(VALID, **{key: value}), key) == value


def test_a_rule_of_two_fields_is_checked_after_those_of_one() -> None:
    with pytest.raises(UserError, match=r"^limit must be at least power \(2\), got 1$"):
        replace(VALID, limit=1)
    with pytest.raises(UserError, match=r"^power must lie in"):
        replace(VALID, limit=1, power=9.0)


def test_a_value_outside_of_its_interval_is_named_with_file_and_section(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("s: {dropout: 1, power: 2, limit: null, scale: 1}")
    with pytest.raises(
        UserError, match=r"params\.yaml: s\.dropout must lie in \[0, 1\), got 1\.0$"
    ):
        params.read(Derived, "s", path)


def test_a_part_of_a_section_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("s: {ratio: 2, other: 3}")
    assert params.read(Inner, "s", tmp_path / "params.yaml", part=True) == Inner(ratio=2.0)


SCALARS = (
    "6e-4 1e3 1E+3 -2.5e-3 .5 5. 0 012 0x1F 0o17 1_000 1.2.3 1:30 2024-01-01x yes no on off true "
    "True FALSE null ~ Null .inf -.INF 1e +3 -x"
)


@pytest.mark.parametrize("scalar", SCALARS.split())
def test_a_scalar_is_what_dvc_reads(tmp_path: Path, scalar: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"key: {scalar}\n")
    assert params.load(path) == dict(YAML(typ="safe").load(path))


@pytest.mark.parametrize("path", PARAMS_FILES, ids=str)
def test_every_preset_is_the_same_to_the_reader_of_dvc(path: Path) -> None:
    assert params.load(path) == YAML(typ="safe").load(path)


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Inner(ratio=1.0).ratio = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("path", PARAMS_FILES, ids=str)
def test_an_experiment_changes_its_value_and_no_other_byte(tmp_path: Path, path: Path) -> None:
    """`dvc exp run -S` rewrites the whole file: lists as blocks without comments, and with single
    quotes. So the committed files have that layout.
    """
    from dvc.utils import hydra

    text = path.read_text()
    assert text.count("  warmup_steps: ") == 1
    (tmp_path / "params.yaml").write_text(text)
    hydra.apply_overrides(tmp_path / "params.yaml", ["schedule.warmup_steps=7"])
    expected = re.sub(r"(?m)^  warmup_steps: .*", "  warmup_steps: 7", text)
    assert (tmp_path / "params.yaml").read_text().splitlines() == expected.splitlines()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {1: 2}", "key `1` must be text"),
        ("s: {rate: " + "9" * 400 + "}", "rate must be below 1e308"),
        ("s: {rate: .nan}", "rate must be a finite number, got nan"),
        ("s: {rate: -.inf}", "rate must be a finite number, got -inf"),
    ],
)
def test_a_value_that_no_number_or_name_can_be_is_one_line(
    tmp_path: Path, text: str, named: str
) -> None:
    @dataclass(frozen=True)
    class Config(params.Section):
        rate: float

    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=named):
        params.read(Config, "s", path)


def test_whole_numbers_end_where_the_libraries_do() -> None:
    for value, rule in ((-1, "at least 0"), (2**31, r"lie in \[0, 2147483647\]")):
        with pytest.raises(UserError, match=rule):
            params.Within(f"[0, {params.LARGEST}]").check("seed", value)
