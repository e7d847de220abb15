"""The kinds of files that can be read, by their endings.

Kept apart from the readers, so that names are checked without importing them.
"""

import importlib.util
import re
from typing import NamedTuple

from antimatter.errors import UserError

# Endings of each kind, without packing
ENDINGS = {
    "txt": ("txt", "text"),
    "markdown": ("md", "markdown"),
    "rst": ("rst",),
    "html": ("html", "htm", "xhtml"),
    "csv": ("csv",),
    "tsv": ("tsv",),
    # One object a line, arrays and pretty-printed objects: the content tells them apart
    "json": ("json", "jsonl", "ndjson"),
    "parquet": ("parquet",),
    "epub": ("epub",),
    "pdf": ("pdf",),
    "zip": ("zip",),
}
# Not of these, which are packed by themselves
PACKED = {"parquet", "epub", "pdf", "zip"}
PACKINGS = (".gz", ".zst", ".bz2", ".xz")
# Kinds that are rows with columns
TABLES = {"json", "csv", "tsv", "parquet"}
KNOWN = (
    ".txt, .md, .rst, .html, .csv, .tsv, .json, .jsonl (each also .gz, .zst, .bz2, .xz), .parquet, "
    ".epub, .pdf and .zip"
)

_KINDS = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
_ENDING = re.compile(r"\.(\w+)((?:\.gz|\.zst|\.bz2|\.xz)?)$", re.IGNORECASE)


class Kind(NamedTuple):
    name: str  # a key of ENDINGS
    packing: str  # one of PACKINGS, or empty


def kind_of(path: str) -> Kind | None:
    """What a file holds and how it is packed; None if its ending is not known."""
    match = _ENDING.search(path)
    name = _KINDS.get(match[1].lower()) if match else None
    if not match or not name or (match[2] and name in PACKED):
        return None
    return Kind(name, match[2].lower())


def ending(path: str) -> str:
    """The ending of a file of another kind, for counting them."""
    match = re.search(r"[^/](\.\w{1,12})$", path)
    return match[1].lower() if match else "without ending"


def unknown(path: str, key: str) -> UserError:
    return UserError(f"{path} is of an unknown kind: {key} takes {KNOWN}")


def require(kind: str, path: str, key: str) -> None:
    """Raises UserError if the kind needs a package that is not installed."""
    if kind == "pdf" and importlib.util.find_spec("pypdf") is None:
        install = "pip install -c requirements.lock -e '.[documents]'"
        fix = f"install it with `{install}`, or take the file out of {key}"
        raise UserError(f"{path} needs the package pypdf: {fix}")
