import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from ruamel.yaml import YAML  # what DVC reads params.yaml with

from antimatter import params


@dataclass(frozen=True, kw_only=True)
class Inner:
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int
    rate: float
    name: str
    fast: bool
    kind: Literal["a", "b"]
    parts: tuple[float, ...]
    versions: dict[str, str]
    inner: Inner
    limit: int | None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


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

PARAMS_FILES = [Path("params.yaml"), Path("presets/300m.yaml"), Path("presets/nano.yaml")]


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
            r"s\.stepps is not a parameter \(did you mean `steps`\?\)",
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
        ("    ratio: 1", "    ratios: 1", r"s\.inner\.ratios is not a parameter"),
        ("steps: 3", "steps: 3\n  steps: 4", r"key 'steps' stands twice"),
        ("s:", "t:", r"section `s` is missing"),
        ("steps: 3", "steps: [3", r"is not readable as YAML"),
    ],
)
def test_each_mistake_is_one_line_that_names_the_key(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run from the root of the repository"):
        params.load(tmp_path / "params.yaml")


def test_a_part_of_a_section_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("s: {ratio: 2, other: 3}")
    assert params.read(Inner, "s", tmp_path / "params.yaml", part=True) == Inner(ratio=2.0)


SCALARS = "6e-4 1e3 1E+3 -2.5e-3 .5 5. 0 012 0x1F 0o17 1_000 1.2.3 1:30 2024-01-01x yes no on off true True FALSE null ~ Null .inf -.INF 1e +3 -x"


@pytest.mark.parametrize("scalar", SCALARS.split())
def test_a_scalar_is_what_dvc_reads(tmp_path: Path, scalar: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"key: {scalar}\n")
    assert params.load(path) == dict(YAML(typ="safe").load(path))


@pytest.mark.parametrize("path", PARAMS_FILES, ids=str)
def test_every_preset_reads_alike_with_dvcs_reader(path: Path) -> None:
    assert params.load(path) == YAML(typ="safe").load(path)


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Inner(ratio=1.0).ratio = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("path", PARAMS_FILES, ids=str)
def test_an_experiment_changes_its_value_and_no_other_byte(tmp_path: Path, path: Path) -> None:
    """`dvc exp run -S` writes the whole file anew: a list as a block without comments inside, and with simple quotes. So ours is like that."""
    from dvc.utils import hydra

    text = path.read_text()
    assert text.count("  warmup_steps: ") == 1
    (tmp_path / "params.yaml").write_text(text)
    hydra.apply_overrides(tmp_path / "params.yaml", ["schedule.warmup_steps=7"])
    lines = [
        f"  warmup_steps: {7}" if line.startswith("  warmup_steps: ") else line
        for line in text.splitlines()
    ]
    assert (tmp_path / "params.yaml").read_text().splitlines() == lines
