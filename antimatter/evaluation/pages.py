"""What a model wrote, as a YAML file: a page for people, and data for programs.

Not Markdown: DVC restores a stage from its run-cache only if every output is in DVC's cache, a
metric or a plot, and it takes YAML for a plot, but no Markdown (decision 43).
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from antimatter import files

WIDTH = 100  # columns of the comment at the top
# Outside of a quoted text, YAML forbids the control characters, and takes the others for the end of
# a line, or for the mark at the beginning of a file
QUOTED = re.compile("[\0-\t\v-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class _Dumper(yaml.SafeDumper):
    """Keys as they are; texts as blocks, which show them as the model wrote them."""


def _represent(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if QUOTED.search(text) else "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


class _Text(str):
    """A value. Keys are plain strings."""


_Dumper.add_representer(_Text, _represent)


def write(path: Path, about: Iterable[str], content: Mapping[str, Any]) -> None:
    """
    Args:
        about: paragraphs, for a comment at the top.
        content: texts under headings, at any depth.
    """
    paragraphs = (textwrap.wrap(paragraph, WIDTH - 2) for paragraph in about)
    lines = [f"# {line}" for paragraph in paragraphs for line in paragraph]
    page = yaml.dump(
        _texts(content), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=float("inf")
    )
    files.write_text(path, "\n".join(lines) + "\n" + page)


def _texts(content: Mapping[str, Any]) -> dict[str, Any]:
    """With each text as a block, which cannot hold a space at the end of a line, or a tab."""
    return {
        key: _texts(value) if isinstance(value, Mapping) else _Text(_visible(value))
        for key, value in content.items()
    }


def _visible(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.expandtabs().split("\n")).rstrip("\n")


def add(texts: dict[str, str], caption: str, text: str) -> None:
    """Adds a text. If the caption is taken, the new one gets a number."""
    name, number = caption, 1
    while name in texts:
        number += 1
        name = f"{caption} ({number})"
    texts[name] = text


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as lines of aligned columns."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
