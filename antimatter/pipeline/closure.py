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
# the resume directory, report progress and print errors. So is the entry of other programs, which
# every import of ours runs. They and what only they import belong to no stage's dependencies, so an
# edit of a progress line retrains nothing. tests/test_dvc.py holds the list, and
# tests/training/test_trainer.py that a training without observers gives equal bytes.
OBSERVERS = frozenset(
    {
        "antimatter/__init__.py",
        "antimatter/errors.py",
        "antimatter/launch/attempts.py",
        "antimatter/launch/cluster.py",
        "antimatter/launch/config.py",
        "antimatter/launch/inside.py",
        "antimatter/launch/launch.py",
        "antimatter/launch/ray.py",
        "antimatter/launch/slurm.py",
        "antimatter/pipeline/check.py",
        "antimatter/pipeline/recorded.py",
        "antimatter/pipeline/resume.py",
        "antimatter/pipeline/stage.py",
        "antimatter/progress.py",
        "antimatter/text.py",
        "antimatter/threads.py",
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

    Comments, docstrings, printed lines and the messages of a UserError do not count: a paused run
    resumes after such an edit.
    """
    digests = {}
    for path in files(module, root):
        text = _computation((root / path).read_text(encoding="utf-8"))
        digests[path.as_posix()] = hashlib.sha256(text.encode()).hexdigest()
    return digests


def _computation(source: str) -> str:
    """The text of a module without what decides no result.

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
        for silent in _silent(node):
            end_row, end_column = silent.end_lineno or 0, silent.end_col_offset or 0
            begin = offset(silent.lineno, silent.col_offset)
            spans.append((begin, offset(end_row, end_column)))
    strings = set[int]()
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            begin = starts[token.start[0] - 1] + token.start[1]
            spans.append((begin, begin + len(token.string)))
        elif token.start[0] < token.end[0]:
            strings.update(range(token.start[0], token.end[0]))
    kept, position = [], 0
    for begin, end in sorted(spans):
        # Rows keep their number, so that those inside of strings are known below
        kept += [source[position:begin], "\n" * source.count("\n", max(position, begin), end)]
        position = max(position, end)
    rows = "".join([*kept, source[position:]]).split("\n")
    return "\n".join(row for number, row in enumerate(rows, 1) if row.strip() or number in strings)


def _silent(node: ast.AST) -> list[ast.expr]:
    """The parts of a statement that are text for people and have no effect."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        # The text of another exception may be data: hub_conversations counts rows by it
        is_users = isinstance(node.exc.func, ast.Name) and node.exc.func.id == "UserError"
        return [text for text in node.exc.args if is_users and _is_pure(text)]
    if not isinstance(node, ast.Expr):
        return []
    value = node.value
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return [value]
    if isinstance(value, ast.Call) and all(map(_is_pure, value.args)):
        name = value.func.id if isinstance(value.func, ast.Name) else ""
        if name == "print" or (isinstance(value.func, ast.Attribute) and value.func.attr == "log"):
            return [value]
    return []


def _is_pure(node: ast.expr) -> bool:
    """Whether an expression only shows values: it calls nothing but what formats them."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            name = getattr(part.func, "id", getattr(part.func, "attr", ""))
            if name not in ("join", "len", "max", "min", "repr", "sorted", "str", "sum"):
                return False
        elif isinstance(part, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return False
    return True


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
