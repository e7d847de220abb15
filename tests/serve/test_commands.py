import dataclasses

import pytest
from helpers.backends import CONFIG

from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.serve.terminal import commands
from antimatter.serve.terminal.commands import Settings

START = Settings(CONFIG)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("temperature 0.35", 0.35),
        ("temperature 1", 1.0),
        ("temperature   1e-1  ", 0.1),
        ("top_p 1", 1.0),
        ("top_k 7", 7),
        ("repeat_penalty 1.3", 1.3),
        ("num_predict 99", 99),
        ("system You are  kind, a=b.", "You are  kind, a=b."),
        ('system ""', ""),
    ],
)
def test_set_changes_the_one_value_and_shows_it(words: str, value: object) -> None:
    name = words.split()[0]
    changed, shown = commands.change(START, words)
    assert changed == Settings(dataclasses.replace(CONFIG, **{name: value}))
    assert type(getattr(changed.config, name)) is type(value)
    assert shown.split()[0] == name and str(value) in shown and "\n" not in shown


def test_a_seed_is_a_number_or_random() -> None:
    seeded, shown = commands.change(START, "seed 7")
    assert (seeded.seed, shown.split()[:2]) == (7, ["seed", "7"])
    assert commands.change(seeded, "seed 0")[0].seed == 0
    assert commands.change(seeded, "seed random")[0] == START


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("temperature 11", ["temperature", "[0, 10]", "11.0", "stays 0.0"]),
        ("temperature warm", ["temperature", "number", "'warm'", "stays 0.0"]),
        ("temperature 0,7", ["temperature", "number", "'0,7'", "stays 0.0"]),
        ("temperature nan", ["temperature", "number", "'nan'", "stays 0.0"]),
        ("repeat_penalty inf", ["repeat_penalty", "number", "'inf'", "stays 1.0"]),
        ("repeat_penalty 0", ["repeat_penalty", "0.0", "stays 1.0"]),
        ("top_p 0", ["top_p", "(0, 1]", "0.0", "stays 0.9"]),
        ("top_k 4.5", ["top_k", "whole number", "'4.5'", "stays 40"]),
        ("top_k 0", ["top_k", "[1, 2147483647]", "got 0", "stays 40"]),
        ("num_predict 99999999999", ["num_predict", "[1, 2147483647]", "99999999999", "stays 20"]),
        (f"num_predict {'9' * 5000}", ["num_predict", f"'{'9' * 40}…'", "stays 20"]),
        ("seed -1", ["seed", "[0, 2147483647] or random", "-1", "stays random"]),
        ("seed x", ["seed", "whole number or random", "'x'", "stays random"]),
        ('system a"""b', ["system", "Modelfile", '\'a"""b\'', 'stays ""']),
    ],
)
def test_an_invalid_value_is_one_line_that_names_key_and_value(
    words: str, parts: list[str]
) -> None:
    with pytest.raises(UserError) as raised:
        commands.change(START, words)
    message = str(raised.value)
    assert all(part in message for part in parts) and "\n" not in message


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("temprature", "temperature"),
        ("temp", "temperature"),
        ("num_ctx", "num_predict"),
        ("temperature=1", "temperature"),
        ("name", None),
    ],
)
def test_an_unknown_setting_is_one_line_with_the_nearest_one(
    name: str, suggestion: str | None
) -> None:
    with pytest.raises(UserError) as raised:
        commands.change(START, f"{name} 1")
    message = str(raised.value)
    hint = f" (did you mean {suggestion}?)" if suggestion else ""
    assert message.startswith(f"there is no setting {name}{hint}: ")
    assert all(known in message for known in ("temperature", "seed", "system"))
    assert "\n" not in message


@pytest.mark.parametrize(("line", "hint"), [("/hlep me", "/help"), ("/re", "/retry"), ("/", None)])
def test_an_unknown_command_is_one_line_with_the_nearest_one(line: str, hint: str | None) -> None:
    with pytest.raises(UserError) as raised:
        commands.split(line)
    message = str(raised.value)
    assert (f"(did you mean {hint}?)" in message) if hint else "did you mean" not in message
    assert "/help shows all" in message and "\n" not in message


def test_set_alone_shows_every_setting_and_every_setting_is_one_of_the_parameters() -> None:
    same, shown = commands.change(Settings(CONFIG, 5), "")
    assert same == Settings(CONFIG, 5)
    names = [line.split()[0] for line in shown.splitlines()]
    sampling = ["temperature", "top_p", "top_k", "repeat_penalty"]
    assert names == [*sampling, "num_predict", "seed", "system"]
    assert set(names) - {"seed"} < {field.name for field in dataclasses.fields(OllamaConfig)}
    assert commands.change(START, "top_k") == (START, shown.splitlines()[2])


def test_help_names_every_command_and_every_command_is_known() -> None:
    assert {"help", "retry", "reset", "set", "show"} <= set(commands.NAMES)
    for name in commands.NAMES:
        assert f"/{name}" in commands.help_text(True) and f"/{name}" in commands.help_text(False)
        assert commands.split(f"/{name}") == (name, "")
    assert commands.split("/set  system  a\nb ") == ("set", "system  a\nb ")


def test_tab_completes_commands_at_the_start_and_settings_after_set() -> None:
    assert commands.completions("", "/r") == ["/retry ", "/reset "]
    assert commands.completions("/set ", "top") == ["top_p ", "top_k "]
    for before, word in (("/set top_k ", "t"), ("a text ", "/r"), ("", "h")):
        assert commands.completions(before, word) == []
