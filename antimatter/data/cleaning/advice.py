"""What to change if the cleaning takes too much: the parameter behind each reason."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import Report

ENOUGH = 0.5  # share of the bytes; below it the rules may be wrong for the text
SHOWN = 3  # reasons

# The key of params.yaml, below `cleaned`, that lets such documents or lines pass. A reason that is
# not here is the name of a key of `junk`
PARAMETERS = {
    "language": "language.code",
    "too_few_sentences": "c4.min_sentences",
    "curly_bracket": "c4.curly_bracket",
    "gopher_short_doc": "gopher.min_words",
    "gopher_long_doc": "gopher.max_words",
    "gopher_below_avg_threshold": "gopher.min_word_length",
    "gopher_above_avg_threshold": "gopher.max_word_length",
    "gopher_too_many_hashes": "gopher.max_symbol_ratio",
    "gopher_too_many_ellipsis": "gopher.max_symbol_ratio",
    "gopher_too_many_bullets": "gopher.max_bullet_lines",
    "gopher_too_many_end_ellipsis": "gopher.max_ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher.min_alphabetic_words",
    "gopher_enough_stop_words": "gopher.min_stop_words",
    "line_punct_ratio": "fineweb.min_punctuated_lines",
    "short_line_ratio": "fineweb.max_short_lines",
    "char_dup_ratio": "fineweb.max_duplicate_line_chars",
    "list_ratio": "fineweb.max_lines_per_word",
    "dup_para_frac": "repetition.max_duplicate_lines",
    "dup_line_frac": "repetition.max_duplicate_lines",
    "dup_para_char_frac": "repetition.max_duplicate_line_chars",
    "dup_line_char_frac": "repetition.max_duplicate_line_chars",
    "lorem_ipsum": "junk.filler",
    "mixed_language": "junk.foreign",
    "exact_duplicate": "exact_duplicates",
    "near_duplicate": "near_duplicates.enabled",
    "contaminated": "decontamination.texts",
    **{f"top_{n}_gram": "repetition.max_top_ngram_chars" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": "repetition.max_duplicate_ngram_chars" for n in range(5, 11)},
}
# Of single lines
LINES = {
    "no_terminal_punc": "c4.terminal_punctuation",
    "too_few_words": "c4.min_words_per_line",
    "too_long_word": "c4.enabled",
    "javascript": "c4.javascript",
    "policy": "c4.enabled",
}


def lines(report: Report, config: CleanConfig) -> Iterator[str]:
    """What took most, with the parameter behind it, if less than half of the text was kept."""
    if report.bytes_out >= ENOUGH * report.bytes_in:
        return
    share = report.bytes_out / report.bytes_in
    yield f"warning: {share:.0%} of the text was kept. What took most, and what decides it:"
    taken = [(report.dropped_bytes[reason], reason) for reason in report.dropped]
    taken.append((report.bytes_trimmed, ""))
    for size, reason in sorted(taken, reverse=True)[:SHOWN]:
        if reason:
            what = f"{reason}, {report.dropped[reason]:,} documents"
            key = parameter(reason)
        elif report.lines_dropped:
            most = max(report.lines_dropped, key=lambda line: report.lines_dropped[line])
            what = f"lines of documents kept, {report.lines_dropped[most]:,} of them {most}"
            key = LINES[most]
        else:
            what, key = "white space and repairs in documents kept", "repair"
        yield f"  {size / 1e6:,.2f} MB  {what}: cleaned.{key} ({_value(config, key)})"
    yield (
        "  `antimatter inspect cleaned --reason …` shows examples; presets/own.yaml has rules for "
        "one's own text"
    )


def parameter(reason: str) -> str:
    """The key below `cleaned` of the rule that gives a reason."""
    if reason.startswith("conversation_"):
        return "conversation.enabled"
    return PARAMETERS.get(reason, f"junk.{reason}")


def _value(config: CleanConfig, key: str) -> Any:
    """The value of a key; of a section, the names of its keys."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    if is_dataclass(value):
        return ", ".join(field.name for field in fields(value))
    return list(value) if isinstance(value, tuple) else value
