"""Reads a section of params.yaml into a frozen dataclass, strictly.

params.yaml holds every value. The dataclass, which is next to the code that uses it, declares which
values there are and in which interval each must be. A surplus key, a missing key, a wrong type or a
bad value is one UserError that names the key, the value and the fix.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml

from antimatter.errors import UserError
from antimatter.text import did_you_mean

T = TypeVar("T")
PARAMS = Path("params.yaml")


@dataclasses.dataclass(frozen=True)
class Within:
    """The interval of a number, in the usual notation: "[0, 1)" includes 0 and excludes 1."""

    interval: str

    def check(self, name: str, value: float) -> None:
        """Raises UserError for a value outside of the interval."""
        low, high = map(float, self.interval[1:-1].split(","))
        above = value >= low if self.interval[0] == "[" else value > low
        below = value <= high if self.interval[-1] == "]" else value < high
        if above and below:
            return
        rule = f"lie in {self.interval}"
        if high == float("inf") or (high == LARGEST and not above):
            rule = f"be at least {low:g}" if self.interval[0] == "[" else f"be above {low:g}"
        raise UserError(f"{name} must {rule}, got {value}")


# Of whole numbers: what the libraries below take everywhere
LARGEST = 2**31 - 1
Count = Annotated[int, Within(f"[0, {LARGEST}]")]
PositiveInt = Annotated[int, Within(f"[1, {LARGEST}]")]
NonNegative = Annotated[float, Within("[0, inf)")]
Positive = Annotated[float, Within("(0, inf)")]
Fraction = Annotated[float, Within("[0, 1]")]
# Of averages and dropped shares, where 1 would leave nothing
BelowOne = Annotated[float, Within("[0, 1)")]


class Section:
    """The base of the dataclasses that read a section: checks the intervals of the fields."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            for part in (hint, *typing.get_args(hint)):
                for rule in getattr(part, "__metadata__", ()):
                    if isinstance(rule, Within) and value is not None:
                        rule.check(name, value)
        self.validate()

    def validate(self) -> None:
        """Raises UserError for what an interval cannot express. Subclasses call super() first."""


# Parsed by libyaml where PyYAML has it: otherwise dvc.lock, which each stage reads, takes half a
# second
_Base = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Loader(_Base):  # type: ignore[valid-type, misc]
    """YAML 1.2 scalars, as DVC reads them.

    PyYAML alone reads YAML 1.1, where `6e-4` is text, `1:30` is 90 and `yes` is True.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise UserError(
                    f"line {key.start_mark.line + 1}: the key `{key.value}` must be text"
                )
        known = set[str]()
        for key, _ in node.value:
            # PyYAML would silently keep the last one
            if key.value in known:
                line = key.start_mark.line + 1
                raise UserError(f"line {line}: `{key.value}` is there twice: keep one of them")
            known.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [*_first.replace("\0", ""), ""],
    )
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10),
)
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(re.sub(r"\.(inf|nan)", r"\1", node.value.lower())),
)


def load(path: Path = PARAMS) -> dict[str, Any]:
    """The whole file as plain dictionaries.

    Raises:
        UserError: it is missing, not YAML, or not a mapping.
    """
    if not path.is_file():
        fix = f"`git checkout {path}`" if path.name == PARAMS.name else "correct the path"
        raise UserError(f"{path} is missing: run from the root of the repository, or {fix}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is not readable as YAML: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} must consist of sections of `key: value`, got {values!r}: "
            "correct it, or restore the committed one"
        )
    return values


def _reason(error: Exception) -> str:
    """What is wrong with a YAML file, and in which line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}: correct it"


def read(config: type[T], section: str, path: Path = PARAMS, *, part: bool = False) -> T:
    """The section of params.yaml as an instance of the dataclass `config`.

    Args:
        section: a top-level key of params.yaml.
        part: read only the keys that `config` declares. For `runtime`, which several stages share
            without sharing a class.

    Raises:
        UserError: an unknown or missing key, a wrong type, or a value outside of its interval.
    """
    return build(config, _section(section, path), f"{path}: {section}", part)


def check_keys(configs: Iterable[type], section: str, path: Path = PARAMS) -> None:
    """Raises UserError unless a section has the keys that these dataclasses declare, and no other.

    It names all unknown and all missing keys. Unlike read() it does not look at the values.
    """
    hints = {key: hint for config in configs for key, hint in typing.get_type_hints(config).items()}
    _require_keys(hints, _section(section, path), f"{path}: {section}")


def _section(name: str, path: Path) -> Any:
    values = load(path)
    if name not in values:
        raise UserError(f"{path}: section `{name}` is missing{did_you_mean(name, values)}")
    return values[name]


def build(config: type[T], values: Any, where: str, part: bool = False) -> T:
    """As read(), from values in memory.

    Args:
        where: the name of the values in error messages.
    """
    hints = typing.get_type_hints(config)
    _require_keys(hints, values, where, part)
    converted = {key: _convert(hint, values[key], f"{where}.{key}") for key, hint in hints.items()}
    try:
        return config(**converted)
    # From Section, which knows the key but not the file
    except UserError as error:
        raise UserError(f"{where}.{error}") from None


def _require_keys(hints: Mapping[str, Any], values: Any, where: str, part: bool = False) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a section of `key: value`, got {values!r}")
    if faults := _wrong_keys(hints, values, where, part):
        raise UserError("\nerror: ".join(faults))


def _wrong_keys(
    hints: Mapping[str, Any], values: Mapping[str, Any], where: str, part: bool = False
) -> list[str]:
    """What is wrong with the keys of a section and of the sections in it: a line for all unknown
    ones, and a line for all missing ones.
    """
    unknown = {key: did_you_mean(key, hints) for key in values if key not in hints and not part}
    # A misspelt key is not missing too
    meant = "".join(unknown.values())
    missing = [key for key in hints if key not in values and f"`{key}`" not in meant]
    file, blank, section = where.rpartition(" ")
    found = []
    if unknown:
        names = ", ".join(f"{section}.{key}{suggestion}" for key, suggestion in unknown.items())
        fault = "is not a parameter" if len(unknown) == 1 else "are not parameters"
        found.append(f"{file}{blank}{names} {fault}; known: {', '.join(hints)}")
    if missing:
        names = ", ".join(f"{section}.{key}" for key in missing)
        fault = "is missing" if len(missing) == 1 else "are missing"
        found.append(f"{file}{blank}{names} {fault}: presets/nano.yaml shows values")
    for key, hint in hints.items():
        # One with a short form is read by its own rules
        if not dataclasses.is_dataclass(hint) or hasattr(hint, "expand"):
            continue
        if isinstance(values.get(key), dict):
            found += _wrong_keys(typing.get_type_hints(hint), values[key], f"{where}.{key}")
    return found


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        # A section with a short form says so, such as FilesConfig; all others are strict
        expand = getattr(hint, "expand", None)
        return build(hint, expand(value) if expand else value, where)  # type: ignore[arg-type]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool):
            raise UserError(
                f"{where} must be one of {', '.join(map(str, arguments))}; got {value!r}"
            )
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            digits = len(str(value))
            raise UserError(f"{where} must be below 1e308, got {digits} digits") from None
        if not math.isfinite(number):
            raise UserError(f"{where} must be a finite number, got {value}")
        return number
    if origin is None and type(value) is hint:
        return value
    expected = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        hint, "a list" if origin is tuple else str(hint)
    )
    raise UserError(f"{where} must be {expected}, got {value!r}")
