"""The slash commands of the chat, and the settings that they change."""

import math
from dataclasses import dataclass, replace
from typing import Any

from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.text import did_you_mean

CHAT = "The model answers you. It is small, so what it says may be wrong."
BASE = "The model continues your text: it was trained on texts, not to answer questions."
NAMES = ("help", "set", "retry", "reset", "show", "bye", "quit")
_COMMANDS = """\
  /help          this text
  /set           shows the settings; /set NAME VALUE changes one, as in /set temperature 0
  /retry         answers your last text again
  /reset         forgets the conversation, but not the settings and the system text
  /show          engine and context, length of the conversation, path of the history
  /bye, /quit    ends the chat, as Ctrl-D does
Ctrl-C stops an answer. A backslash at the end of a line continues the text in the next line. A
pasted text is one turn. //text sends /text to the model. Arrow up recalls earlier texts, Tab
completes commands."""
_SETTINGS = {
    "temperature": (float, "0 always takes the most likely token"),
    "top_p": (float, "choose among the most likely tokens that share this probability"),
    "top_k": (int, "choose among this number of most likely tokens"),
    "repeat_penalty": (float, "above 1 avoids the last 64 tokens; 1 has no effect"),
    "num_predict": (int, "maximum tokens of an answer"),
    "seed": (int, "a number makes an answer repeatable, random does not"),
    "system": (str, 'text before the conversation; "" is none'),
}
_MAX_INT = 2**31 - 1  # of both engines


@dataclass(frozen=True)
class Settings:
    config: OllamaConfig  # its `system` is the system text of the conversation
    seed: int | None = None  # None: the engine chooses one for each answer


def help_text(is_chat: bool) -> str:
    """The output of /help.

    Args:
        is_chat: the model was tuned to chat.
    """
    return f"{CHAT if is_chat else BASE}\n{_COMMANDS}"


def split(line: str) -> tuple[str, str]:
    """Splits a line that begins with a slash into the name of the command and its arguments.

    Raises:
        UserError: there is no such command.
    """
    name, *rest = line[1:].split(maxsplit=1) or [""]
    if name not in NAMES:
        hint = did_you_mean(f"/{name}", [f"/{known}" for known in NAMES], "") if name else ""
        raise UserError(
            f"there is no command /{_short(name)}{hint}: /help shows all, "
            f"//{_short(name)} is text for the model"
        )
    return name, rest[0] if rest else ""


def change(settings: Settings, words: str) -> tuple[Settings, str]:
    """Runs `/set words`: NAME VALUE changes a setting, NAME shows it, nothing shows all.

    Returns:
        The new settings, and the lines to show.

    Raises:
        UserError: there is no such setting, or the value is invalid.
    """
    if not words:
        return settings, "\n".join(_line(settings, name) for name in _SETTINGS)
    name, *value = words.split(maxsplit=1)
    if name not in _SETTINGS:
        hint = did_you_mean(name, _SETTINGS, "")
        known = ", ".join(_SETTINGS)
        raise UserError(f"there is no setting {_short(name)}{hint}: known are {known}")
    if value:
        try:
            settings = _changed(settings, name, value[0])
        except UserError as error:
            raise UserError(f"{error}: it stays {_value(settings, name)}") from None
    return settings, _line(settings, name)


def completions(before: str, word: str) -> list[str]:
    """What Tab offers for `word`, where `before` is the line before it."""
    names: list[str] = []
    if not before.strip():
        names = [f"/{name}" for name in NAMES]
    elif before.split() == ["/set"]:
        names = list(_SETTINGS)
    return [f"{name} " for name in names if name.startswith(word)]


def _changed(settings: Settings, name: str, text: str) -> Settings:
    if name == "seed":
        seed = None if text == "random" else _number("seed", int, text, 0, " or random")
        return replace(settings, seed=seed)
    kind = _SETTINGS[name][0]
    value: Any = _number(name, kind, text) if kind is not str else text
    if value == '""':
        value = ""
    return replace(settings, config=replace(settings.config, **{name: value}))


def _number(name: str, kind: type, text: str, least: int = 1, otherwise: str = "") -> Any:
    """A finite number of the type `kind`. OllamaConfig checks the other limits of its fields."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        noun = "whole number" if kind is int else "number"
        raise UserError(f"{name} must be a {noun}{otherwise}, got {_short(text)!r}")
    if kind is int and not least <= value <= _MAX_INT:
        limits = f"[{least}, {_MAX_INT}]"
        raise UserError(f"{name} must lie in {limits}{otherwise}, got {_short(text)}")
    return value


def _value(settings: Settings, name: str) -> str:
    if name == "seed":
        return "random" if settings.seed is None else str(settings.seed)
    value = getattr(settings.config, name)
    return f'"{value}"' if name == "system" else str(value)


def _line(settings: Settings, name: str) -> str:
    return f"  {name:<14} {_value(settings, name):<6}  {_SETTINGS[name][1]}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
