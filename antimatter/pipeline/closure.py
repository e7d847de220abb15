"""Which code a stage consists of: its module, every module of this project that it imports, and the
libraries below. Found by parsing, without importing anything.
"""

import ast
import hashlib
import sys
import tokenize
from io import StringIO
from pathlib import Path

OURS = ("antimatter", "stages")

# Files that watch or steer a stage but decide no byte of its results: they check parameters, find
# the resume directory, report progress and print errors. They and what only they import belong to
# no stage's dependencies, so an edit of a progress line retrains nothing. tests/test_dvc.py holds
# the list, and tests/training/test_trainer.py that a training without observers gives equal bytes.
OBSERVERS = frozenset(
    {
        "antimatter/errors.py",
        "antimatter/pipeline/check.py",
        "antimatter/pipeline/closure.py",
        "antimatter/pipeline/recorded.py",
        "antimatter/pipeline/resume.py",
        "antimatter/pipeline/stage.py",
        "antimatter/progress.py",
        "antimatter/text.py",
        "antimatter/training/console.py",
    }
)


def files(module: str, root: Path = Path(".")) -> list[Path]:
    """The import closure of a module, e.g. "stages.raw", without observers.

    Returns:
        Sorted paths relative to `root`. An `__init__.py` counts only if it has content.
    """
    found, waiting = set[Path](), [module]
    while waiting:
        path = _path(waiting.pop(), root)
        if path is not None and path not in found and path.as_posix() not in OBSERVERS:
            found.add(path)
            waiting += _imports(root / path)
    return sorted(
        path for path in found if path.name != "__init__.py" or (root / path).stat().st_size
    )


def libraries(module: str, root: Path = Path(".")) -> list[str]:
    """The third-party packages that the closure imports."""
    names = {name.split(".")[0] for path in files(module, root) for name in _imports(root / path)}
    return sorted(names - {*OURS} - sys.stdlib_module_names)


def digests(module: str, root: Path = Path(".")) -> dict[str, str]:
    """The sha256 of what each file of the closure computes, by path.

    Comments, docstrings, layout, printed lines and the messages of errors do not count: a paused
    run resumes after such an edit.
    """
    return {
        path.as_posix(): hashlib.sha256(
            _computation((root / path).read_text(encoding="utf-8")).encode()
        ).hexdigest()
        for path in files(module, root)
    }


def _computation(source: str) -> str:
    """The text of a module without what decides no result, and without white space.

    Cut from the text and not printed from the syntax tree, as that prints differently in each
    version of Python.
    """
    # Not splitlines(), which also splits at a form feed, where Python counts no new line
    lines = source.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)

    def offset(row: int, byte: int) -> int:
        # The syntax tree counts columns in bytes of UTF-8
        return starts[row - 1] + len(lines[row - 1].encode()[:byte].decode())

    spans = []
    for node in ast.walk(ast.parse(source)):
        silent: ast.AST | None = None
        if isinstance(node, ast.Expr) and (_is_print(node.value) or _is_text(node.value)):
            silent = node
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            silent = node.exc
        if silent is not None:
            begin = offset(silent.lineno, silent.col_offset)  # type: ignore[attr-defined]
            end = offset(silent.end_lineno, silent.end_col_offset)  # type: ignore[attr-defined]
            spans.append((begin, end))
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            begin = starts[token.start[0] - 1] + token.start[1]
            spans.append((begin, begin + len(token.string)))
    kept, position = [], 0
    for begin, end in sorted(spans):
        kept.append(source[position:begin])
        position = max(position, end)
    return "".join("".join([*kept, source[position:]]).split())


def _is_print(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


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
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if (root / path).is_file()), None)
