"""What a module is made of: itself, everything of ours that it imports, and the libraries below. Found without running anything."""

import ast
import hashlib
import sys
from pathlib import Path

OURS = ("antimatter", "stages")


def files(module: str, root: Path = Path(".")) -> list[Path]:
    """The import closure of a module, e.g. "stages.raw", as sorted paths relative to `root`. An `__init__.py` counts only if it has content."""
    found, waiting = set[Path](), [module]
    while waiting:
        path = _path(waiting.pop(), root)
        if path is not None and path not in found:
            found.add(path)
            waiting += _imports(root / path)
    return sorted(
        path for path in found if path.name != "__init__.py" or (root / path).stat().st_size
    )


def libraries(module: str, root: Path = Path(".")) -> list[str]:
    """The packages that the closure imports and that are neither ours nor Python's."""
    names = {name.split(".")[0] for path in files(module, root) for name in _imports(root / path)}
    return sorted(names - {*OURS} - sys.stdlib_module_names)


def digests(module: str, root: Path = Path(".")) -> dict[str, str]:
    """The closure's files, each with the sha256 of its content."""
    return {
        path.as_posix(): hashlib.sha256((root / path).read_bytes()).hexdigest()
        for path in files(module, root)
    }


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _path(name: str, root: Path) -> Path | None:
    if name.split(".")[0] not in OURS:
        return None
    base = Path(*name.split("."))
    return next(
        (
            path
            for path in (base.with_suffix(".py"), base / "__init__.py")
            if (root / path).is_file()
        ),
        None,
    )
