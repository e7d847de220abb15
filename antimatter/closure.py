"""Which of our files a module is made of: itself and everything of ours that it imports, found without running anything."""

import ast
import hashlib
from pathlib import Path

OURS = ("antimatter", "stages")


def files(module: str, root: Path = Path(".")) -> list[Path]:
    """The import closure of a module, e.g. "stages.raw", as sorted paths relative to `root`. An `__init__.py` counts only if it has content."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path(name, root)
        if path is None or path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(path for path in found if path.name != "__init__.py" or (root / path).stat().st_size)


def digests(module: str, root: Path = Path(".")) -> dict[str, str]:
    """The closure's files, each with the sha256 of its content."""
    return {path.as_posix(): hashlib.sha256((root / path).read_bytes()).hexdigest() for path in files(module, root)}


def _path(name: str, root: Path) -> Path | None:
    if name.split(".")[0] not in OURS:
        return None
    base = Path(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if (root / path).is_file()), None)
