"""Text files of a user with one entry a line under `# heading` lines, as in prompts/."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from antimatter.errors import UserError

ALL = "all"  # the name of the figures of all headings together


class Entry(NamedTuple):
    heading: str
    text: str
    line: int  # from 1


def read(path: Path, heading: str, fix: str, reserved: Collection[str] = ()) -> list[Entry]:
    """The entries of a file, without the white space around them.

    Args:
        heading: of the entries before the first heading.
        fix: ends an error about a file without an entry.
        reserved: headings that the file must not have, as they name figures.

    Raises:
        UserError: the file is missing, is not UTF-8, has a reserved heading or no entry.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: `git checkout {path}`, or {fix}")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): convert it") from None
    entries = []
    # Not splitlines(), which also splits at characters within a line, such as U+2028
    for number, line in enumerate(content.split("\n"), 1):
        if line.startswith("#"):
            heading = line.lstrip("# ").strip()
            if heading in reserved:
                raise UserError(
                    f"{path}, line {number}: the heading `{heading}` is the name of the figures "
                    "of all entries together: rename it"
                )
        elif line.strip():
            entries.append(Entry(heading, line.strip(), number))
    if not entries:
        raise UserError(f"{path} holds no entry: {fix}")
    return entries
