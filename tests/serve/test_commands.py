import dataclasses

import pytest
from test_engine import CONFIG

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
    ("words", "message"),
    [
        ("temperature 11", "temperature must lie in [0, 10], got 11.0: it stays 0.0"),
        ("temperature warm", "temperature must be a number, got 'warm': it stays 0.0"),
        ("temperature 0,7", "temperature must be a number, got '0,7': it stays 0.0"),
        ("temperature nan", "temperature must be a number, got 'nan': it stays 0.0"),
        ("repeat_penalty inf", "repeat_penalty must be a number, got 'inf': it stays 1.0"),
        ("repeat_penalty 0", "repeat_penalty must be positive, got 0.0: it stays 1.0"),
        ("top_p 0", "top_p must lie in (0, 1], got 0.0: it stays 0.9"),
        ("top_k 4.5", "top_k must be a whole number, got '4.5': it stays 40"),
        ("top_k 0", "top_k must lie in [1, 2147483647], got 0: it stays 40"),
        (
            "num_predict 99999999999",
            "num_predict must lie in [1, 2147483647], got 99999999999: it stays 20",
        ),
        (
            f"num_predict {'9' * 5000}",
            f"num_predict must be a whole number, got '{'9' * 40}…': it stays 20",
        ),
        ("seed -1", "seed must lie in [0, 2147483647] or random, got -1: it stays random"),
        ("seed x", "seed must be a whole number or random, got 'x': it stays random"),
        (
            'system a"""b',
            'system must not hold """, which ends it in a Modelfile, got \'a"""b\': it stays ""',
        ),
        (
            "temprature 1",
            "there is no setting temprature (did you mean temperature?): known are temperature, top_p, ",
        ),
        ("temp 1", "there is no setting temp (did you mean temperature?): known are "),
        ("num_ctx 4096", "there is no setting num_ctx (did you mean num_predict?): known are "),
        ("name x", "there is no setting name: known are "),
        (
            "temperature=1",
            "there is no setting temperature=1 (did you mean temperature?): known are ",
        ),
    ],
)
def test_a_value_that_cannot_be_is_one_line_that_names_the_key(words: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        commands.change(START, words)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_set_alone_shows_every_setting_and_every_setting_is_one_of_the_parameters() -> None:
    same, shown = commands.change(Settings(CONFIG, 5), "")
    assert same == Settings(CONFIG, 5)
    names = [line.split()[0] for line in shown.splitlines()]
    assert names == [
        "temperature",
        "top_p",
        "top_k",
        "repeat_penalty",
        "num_predict",
        "seed",
        "system",
    ]
    assert set(names) - {"seed"} < {field.name for field in dataclasses.fields(OllamaConfig)}
    assert commands.change(START, "top_k") == (START, shown.splitlines()[2])


def test_help_names_every_command_and_every_command_is_known() -> None:
    assert {"help", "retry", "reset", "set", "show"} <= set(commands._NAMES)
    for name in commands._NAMES:
        assert f"/{name}" in commands.help_text(True) and f"/{name}" in commands.help_text(False)
        assert commands.split(f"/{name}") == (name, "")
    assert commands.split("/set  system  a\nb ") == ("set", "system  a\nb ")


def test_tab_completes_commands_at_the_start_and_settings_after_set() -> None:
    assert commands.completions("", "/r") == ["/retry ", "/reset "]
    assert commands.completions("/set ", "top") == ["top_p ", "top_k "]
    assert (
        commands.completions("/set top_k ", "t")
        == commands.completions("a text ", "/r")
        == commands.completions("", "h")
        == []
    )
