"""Reads the body of a request: strict JSON, and values of the right type in their intervals.

Validation is strict, because a client whose option is silently ignored gets an answer that it did
not ask for. Unknown keys, wrong types, and values that would change the answer but are not
implemented are refused by name.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from antimatter.serve.http.errors import APIError

INT32_MAX = 2**31 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises APIError if it is anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value:
                raise APIError(400, f"duplicate key {shown(key)}", param=key[:60])
            value[key] = item
        return value

    def whole(text: str) -> int:
        # int() refuses some more, with a hint for who writes Python
        if len(text) > 4000:
            raise APIError(400, f"{text[:40]}… is too large a number")
        return int(text)

    def finite(text: str) -> float:
        if not math.isfinite(float(text)):
            raise APIError(400, f"{text[:40]} is not a finite number")
        return float(text)

    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=whole,
            parse_float=finite,
            parse_constant=finite,
        )
    except UnicodeDecodeError as error:
        raise APIError(400, f"the body is not UTF-8, see byte {error.start}") from None
    except RecursionError:
        raise APIError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise APIError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise APIError(400, f"the body must be a JSON object, got {shown(value)}")
    return value


def select(
    values: Mapping[str, Any],
    options: Collection[str],
    ignored: Collection[str],
    fixed: Mapping[str, list[Any]],
    prefix: str = "",
) -> dict[str, Any]:
    """The values that are set. Clients send null for those that are not.

    Args:
        options: keys that are implemented.
        ignored: keys that change nothing in the answer.
        fixed: keys that are not implemented, with the values that ask for what is done anyway.
        prefix: of the keys in messages.

    Raises:
        APIError: a key is unknown, or has a value that is not implemented.
    """
    found = {}
    for key, value in values.items():
        if key not in options and key not in ignored and key not in fixed:
            message = f"the key {shown(prefix + key)} is not known here: leave it out"
            raise APIError(400, message, param=(prefix + key)[:60])
        if value is None:
            continue
        if key in fixed and not any(_is_same(value, same) for same in fixed[key]):
            raise unsupported(prefix + key, value)
        found[key] = value
    return found


def unsupported(name: str, value: Any) -> APIError:
    return APIError(400, f"{name} {shown(value)} is not supported: leave it out", param=name)


def wrong(name: str, must: str, value: Any) -> APIError:
    return APIError(400, f"{name} must {must}, got {shown(value)}", param=name)


def integer(value: Any, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(name, "be an integer", value)
    if not least <= value <= most:
        raise wrong(name, f"lie in [{least}, {most}]", value)
    return value


def number(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong(name, "be a number", value)
    if not least <= value <= most:
        raise wrong(name, f"lie in [{least:g}, {most:g}]", value)
    return value


def boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, "be true or false", value)
    return value


def text(value: Any, name: str, must: str = "be a text") -> str:
    if not isinstance(value, str):
        raise wrong(name, must, value)
    if match := _SURROGATE.search(value):
        half = f"\\u{ord(match[0]):04x}"
        raise APIError(400, f"{name} has half of a surrogate pair, {half}", param=name)
    return value


def shown(value: Any) -> str:
    """A value of a request, short enough for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    content = json.dumps(value)
    return content if len(content) <= 60 else f"{content[:60]}…"


def dumps(value: Any) -> str:
    """Compact JSON. Half of a surrogate pair, which UTF-8 cannot encode, becomes `?`."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return content.encode("utf-8", "replace").decode()


def _is_same(value: Any, fixed: Any) -> bool:
    return isinstance(value, bool) == isinstance(fixed, bool) and bool(value == fixed)
