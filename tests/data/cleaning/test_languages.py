"""The rules in languages other than English, on text that was written for these tests."""

import dataclasses
import re
from pathlib import Path

import pytest
from datatrove.data import Document
from helpers.languages import TEXTS

from antimatter import params
from antimatter.data import language_model
from antimatter.data.cleaning import languages
from antimatter.data.cleaning.config import LANGUAGES, CleanConfig, RepairConfig
from antimatter.data.cleaning.duplicates import bands, signature
from antimatter.data.cleaning.junk import Junk
from antimatter.data.cleaning.languages import traits
from antimatter.data.cleaning.rules import enabled_rules, first_rejection
from antimatter.errors import UserError


def rules(code, enabled=True):
    """All rules as by default for English, for another language."""
    config = params.read(CleanConfig, "cleaned")
    language = dataclasses.replace(config.language, code=code, enabled=enabled)
    repair = RepairConfig(straight_quotes=False, usual_width=False)
    config = dataclasses.replace(config, language=language, repair=repair)
    return [*enabled_rules(config), Junk(config.junk, traits(code))]


def cleaned(text, rules):
    document = Document(text, "1")
    return first_rejection(document, rules), document.text


@pytest.mark.parametrize("code", TEXTS)
def test_good_text_passes_the_rules_of_its_language_unchanged(code):
    assert cleaned(TEXTS[code], rules(code)) == ("", TEXTS[code])


@pytest.mark.parametrize("code", TEXTS)
def test_good_text_passes_where_no_language_is_named(code):
    assert cleaned(TEXTS[code], rules("any", enabled=False)) == ("", TEXTS[code])


NOTES = """\
# Backup – “the plan”

- disks: 2 × 4 TB
- NAS: rsync at 02:00
| day | what |
|---|---|
| Mon | full |

```sh
tar -czf /backup/$(date +%F).tgz ~/
```
See https://example.org/backup, and don’t forget the keys…"""
POEM = """\
The kettle sings,
the window wakes,
a spoon goes round
and morning breaks"""
SHORT = "Ring the plumber before Friday, please."


@pytest.mark.parametrize("text", [*TEXTS.values(), NOTES, POEM, SHORT])
def test_the_preset_for_ones_own_text_keeps_it_unchanged(text):
    config = params.read(CleanConfig, "cleaned", Path("presets/own.yaml"))
    assert not config.junk.enabled
    assert cleaned(text, enabled_rules(config)) == ("", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("yes no", "gopher_short_doc"),
        (40 * "= - = - = -\n", "gopher_below_alpha_threshold"),
        (40 * "the same line again and again\n", "dup_line_frac"),
    ],
)
def test_the_preset_for_ones_own_text_drops_what_is_none(text, reason):
    config = params.read(CleanConfig, "cleaned", Path("presets/own.yaml"))
    assert cleaned(text, enabled_rules(config))[0] in (reason, "gopher_short_doc")


@pytest.mark.parametrize("code", TEXTS)
def test_the_rules_of_another_language_drop_it(code):
    other = "de" if code != "de" else "fr"
    assert cleaned(TEXTS[code], rules(other))[0] == "language"


@pytest.mark.parametrize("code", TEXTS)
@pytest.mark.parametrize(
    ("spoil", "reasons"),
    [
        (lambda text: text[: len(text) // 12], {"gopher_short_doc"}),
        (lambda text: "\n".join(5 * text.splitlines()), {"char_dup_ratio"}),
        (
            lambda text: re.sub(r"\w", "7", text),
            {"gopher_below_alpha_threshold", "gopher_short_doc"},
        ),
        (lambda text: re.sub(r"((\w{2}\W*){6})", r"<b> \1 </b> ", text), {"markup"}),
    ],
    ids=["short", "repeated", "numbers", "markup"],
)
def test_bad_text_is_dropped_in_any_language(code, spoil, reasons):
    # C4's rule against short texts would come first
    judged = [rule for rule in rules("any", enabled=False) if rule.name != "c4"]
    assert cleaned(spoil(TEXTS[code]), judged)[0] in reasons


@pytest.mark.parametrize("code", TEXTS)
def test_lines_that_end_like_no_sentence_are_dropped(code):
    lines = TEXTS[code].splitlines()
    cut = [line[: len(line) // 2].rstrip(" ,،、，") for line in lines[:2]]
    assert cleaned("\n".join([*cut, *lines[2:]]), rules(code)) == ("", "\n".join(lines[2:]))


@pytest.mark.parametrize("code", TEXTS)
def test_near_duplicates_are_found_in_any_language(code):
    near = params.read(CleanConfig, "cleaned").near_duplicates
    text = TEXTS[code]
    changed = text[:40] + text[41:]

    def hashes(text):
        return set(bands(signature(traits("any").spaced(text.lower()).split(), near), near))

    assert hashes(text) & hashes(changed)
    assert not hashes(text) & hashes(TEXTS["de" if code != "de" else "ar"])


def test_a_word_is_a_letter_where_no_spaces_separate_words():
    assert traits("zh").spaced("我們 2 人走。").split() == ["我", "們", "2", "人", "走", "。"]
    assert traits("any").spaced("kein Wort ändert sich") == "kein Wort ändert sich"
    assert traits("en").spaced("我們") == "我們"


@pytest.mark.parametrize("code", languages._STOP_WORDS)
def test_stop_words_are_one_word_each_as_the_rule_counts_them(code):
    words = traits(code).stop_words
    assert len(words) >= 12
    for word in words:
        assert traits(code).spaced(word).split() == [word]


def test_a_language_that_is_none_is_an_error_that_names_the_fix():
    config = params.read(CleanConfig, "cleaned").language
    with pytest.raises(UserError, match=r"code must be .*such as en.*English"):
        dataclasses.replace(config, code="English")
    with pytest.raises(UserError, match=r"code is any.*set enabled to false"):
        dataclasses.replace(config, code="any")


def test_the_codes_are_the_labels_of_the_model():
    labels, _ = language_model.load().predict("text", k=1_000, threshold=-1.0)
    assert {label.removeprefix("__label__") for label in labels} == LANGUAGES
    assert {*TEXTS, *languages._STOP_WORDS} <= LANGUAGES


@pytest.mark.parametrize(
    ("code", "near"),
    [
        ("deu", "known: da, de, diq, dsb, dty, dv$"),
        ("xx", "known: xal, xmf$"),
        ("EN", "known: el, eml, en, eo, es, et, eu$"),
        ("", "known: af, .* zh$"),
    ],
)
def test_a_code_that_the_model_does_not_have_is_refused_with_its_neighbours(code, near):
    for enabled in (True, False):
        with pytest.raises(UserError, match=rf'code must be .* got "{code}"; {near}'):
            rules(code, enabled)
