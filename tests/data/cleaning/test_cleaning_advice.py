"""The warning that names the parameter behind what the cleaning took."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from antimatter import params
from antimatter.data.cleaning import advice, config, junk, rules
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import Report

CONFIG = params.read(CleanConfig, "cleaned")
LITTLE = Report(
    documents_in=100,
    documents_out=20,
    bytes_in=3_000_000,
    bytes_out=250_000,
    bytes_trimmed=1_500_000,
    dropped={"gopher_short_doc": 60, "near_duplicate": 12, "markup": 8},
    dropped_bytes={"gopher_short_doc": 200_000, "near_duplicate": 50_000, "markup": 1_000_000},
    lines_dropped={"no_terminal_punc": 1_303, "javascript": 6},
    turns_in=0,
    turns_changed=0,
    turns_dropped={},
    personal={},
    lengths=[],
)


def reasons():
    """The reasons in the code of the rules, and those of the recorded run."""
    text = "".join(Path(module.__file__).read_text() for module in (rules, junk))
    found = set(re.findall(r'return False, "(\w+)"', text)) | set(junk.REASONS.values())
    found |= {f"gopher_{name}" for name in re.findall(r'yield "(\w+)"\n', text)}
    found |= {field.name for field in dataclasses.fields(config.JunkConfig)} - {
        *junk.REASONS,
        "enabled",
    }
    return sorted((found | set(json.loads(recorded())["dropped"])) - {"empty"})


def recorded():
    return Path("metrics/cleaned/summary.json").read_text()


@pytest.mark.parametrize("reason", reasons())
def test_every_reason_has_a_parameter(reason):
    assert advice._value(CONFIG, advice.parameter(reason)) is not None


def test_every_reason_of_a_line_has_a_parameter():
    text = Path(rules.__file__).read_text()
    found = set(re.findall(r'counts\["line-filter-(\w+)"\]', text))
    found |= set(re.findall(r'return "(\w+)"', text))
    assert {"no_terminal_punc", "policy"} <= found <= set(advice.LINES)
    for key in advice.LINES.values():
        assert advice._value(CONFIG, key) is not None


def test_it_names_what_took_most_and_the_parameter_with_its_value():
    first, lines, markup, short, fix = advice.lines(LITTLE, CONFIG)
    assert first.startswith("warning: 8% of the text was kept")
    assert "1.50 MB" in lines and "1,303 of them no_terminal_punc" in lines
    assert "cleaned.c4.terminal_punctuation (True)" in lines
    assert "1.00 MB" in markup and "8 documents: cleaned.junk.markup (0.1)" in markup
    assert "cleaned.gopher.min_words (50)" in short
    assert "antimatter inspect cleaned --reason" in fix


def test_it_says_nothing_if_half_was_kept():
    kept = dataclasses.replace(LITTLE, bytes_out=1_500_000)
    assert list(advice.lines(kept, CONFIG)) == []
