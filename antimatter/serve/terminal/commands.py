"""What a person says to the chat and not to the model: the lines that begin with a slash, and the settings that they change."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig

CHAT = "The model answers you. It is small: what it says need not be true."
BASE = "The model continues your text: it was trained on texts, not to answer questions."
_COMMANDS = """\
  /help          this text
  /set           the settings; /set NAME VALUE changes one, as in /set temperature 0
  /retry         answers your last text again
  /reset         forgets the conversation; system text and settings stay
  /show          engine and context, length of the conversation, where your lines are kept
  /bye, /quit    ends the chat, as Ctrl-D does
Ctrl-C stops an answer. A line that ends in a backslash goes on in the next one; a pasted text is one turn.
//text sends /text to the model. Arrow up brings earlier lines back, Tab completes commands."""
_NAMES = ("help", "set", "retry", "reset", "show", "bye", "quit")
_SETTINGS = {
    "temperature": (float, "0 always takes the likeliest token"),
    "top_p": (float, "choose among the likeliest tokens that share this probability"),
    "top_k": (int, "choose among this many of the likeliest tokens"),
    "repeat_penalty": (float, "above 1 avoids the last 64 tokens; 1 is none"),
    "num_predict": (int, "tokens of an answer, at most"),
    "seed": (int, "a number repeats an answer, random does not"),
    "system": (str, 'text before the conversation; "" is none'),
}
_MOST = 2**31 - 1  # what both engines take for a whole number


@dataclass(frozen=True)
class Settings:
    config: OllamaConfig  # its `system` is the text in use
    seed: int | None = None  # None: the engine picks one for each answer


def help_text(is_chat: bool) -> str:
    """What /help shows.

    Args:
        is_chat: the model was tuned to chat.
    """
    kind = CHAT if is_chat else BASE
    return f"{kind}\n{_COMMANDS}"


def split(line: str) -> tuple[str, str]:
    """A line that begins with a slash as the command's name and what follows.

    Raises:
        ValueError: there is no such command.
    """
    name, *rest = line[1:].split(maxsplit=1) or [""]
    if name not in _NAMES:
        raise UserError(
            f"there is no command /{_short(name)}{_did_you_mean(name, _NAMES, '/')}: /help shows all, //{_short(name)} is text for the model"
        )
    return name, rest[0] if rest else ""


def change(settings: Settings, words: str) -> tuple[Settings, str]:
    """The settings after `/set words`, and lines that show them: NAME VALUE changes one, NAME shows one, nothing shows all.

    Raises:
        ValueError: no such setting, or a value that it cannot have.
    """
    if not words:
        return settings, "\n".join(_line(settings, name) for name in _SETTINGS)
    name, *text = words.split(maxsplit=1)
    if name not in _SETTINGS:
        raise UserError(
            f"there is no setting {_short(name)}{_did_you_mean(name, _SETTINGS)}: known are {', '.join(_SETTINGS)}"
        )
    if text:
        try:
            settings = _changed(settings, name, text[0])
        except ValueError as error:
            raise UserError(f"{error}: it stays {_shown(settings, name)}") from None
    return settings, _line(settings, name)


def completions(before: str, word: str) -> list[str]:
    """What Tab makes of `word` after `before` on the same line."""
    known = (
        [f"/{name}" for name in _NAMES]
        if not before.strip()
        else list(_SETTINGS)
        if before.split() == ["/set"]
        else []
    )
    return [f"{name} " for name in known if name.startswith(word)]


def _changed(settings: Settings, name: str, text: str) -> Settings:
    if name == "seed":
        return replace(
            settings, seed=None if text == "random" else _number("seed", int, text, 0, " or random")
        )
    kind = _SETTINGS[name][0]
    value: Any = _number(name, kind, text) if kind is not str else "" if text == '""' else text
    return replace(settings, config=replace(settings.config, **{name: value}))


def _number(name: str, kind: type, text: str, least: int = 1, otherwise: str = "") -> Any:
    """Of type `kind`. OllamaConfig checks the ranges, where they are not those of a whole number."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"{name} must be a {'whole ' * (kind is int)}number{otherwise}, got {_short(text)!r}"
        )
    if kind is int and not least <= value <= _MOST:
        raise UserError(f"{name} must lie in [{least}, {_MOST}]{otherwise}, got {_short(text)}")
    return value


def _shown(settings: Settings, name: str) -> str:
    if name == "seed":
        return "random" if settings.seed is None else str(settings.seed)
    value = getattr(settings.config, name)
    return f'"{value}"' if name == "system" else str(value)


def _line(settings: Settings, name: str) -> str:
    return f"  {name:<14} {_shown(settings, name):<6}  {_SETTINGS[name][1]}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _did_you_mean(word: str, known: Iterable[str], mark: str = "") -> str:
    close = [name for name in known if word and name.startswith(word)] or difflib.get_close_matches(
        word, list(known), n=1
    )
    return f" (did you mean {mark}{close[0]}?)" if close else ""
