"""The documented names of Python modules, and the shortest public path to each. The modules are
parsed, never imported.
"""

import ast
import inspect
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from antimatter.chat.docstrings import arguments, summary, without_signature


class Definition(NamedTuple):
    """A public function, class, method or property, and the contents of its docstring."""

    file: str
    module: str
    name: str  # within the module: DataFrame.merge
    what: str  # function, class, method or property
    summary: str  # an answer; empty if no sentence of the docstring is fit to be one
    arguments: list[tuple[str, str]]  # names and their descriptions


class Module(NamedTuple):
    """The names that a file defines, and those that it takes from others."""

    name: str
    is_package: bool
    definitions: list[Definition]
    imported: dict[str, tuple[str, str]]  # by its own name: the other module and the name there
    stars: list[str]  # modules of which it imports everything
    exported: list[str] | None  # `__all__`, if it is one list


def read_module(file: str, code: str) -> Module:
    """The public names of a module that have a docstring, and its imports. Empty if this Python
    cannot parse it: a template, or code for another version.
    """
    parts = file.removesuffix(".py").split("/")
    is_package = parts[-1] == "__init__"
    module = Module(".".join(parts[:-1] if is_package else parts), is_package, [], {}, [], None)
    # Half of the time goes into parsing
    if '"""' not in code and "import" not in code:
        return module
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(code, feature_version=(3, 11))
    except (SyntaxError, ValueError):
        return module
    definitions: dict[str, Definition] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom):
            _add_import(module, node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            # Another mention may extend it
            if code.count("__all__") > 1:
                continue
            module = module._replace(exported=_literal_names(node.value))
        for definition in _documented(file, module.name, node):
            definitions.setdefault(f"{definition.module} {definition.name}", definition)
    module.definitions.extend(definitions.values())
    return module


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, also those that depend on a condition, as for another version of Python."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])
        else:
            yield node


def _add_import(module: Module, node: ast.ImportFrom) -> None:
    source = node.module or ""
    if node.level:
        above = node.level - 1 if module.is_package else node.level
        base = module.name.split(".")
        source = ".".join([*base[: len(base) - above], *filter(None, [source])])
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(source)
        else:
            module.imported[alias.asname or alias.name] = (source, alias.name)


def _literal_names(value: ast.expr) -> list[str] | None:
    try:
        return [name for name in ast.literal_eval(value) if isinstance(name, str)]
    except ValueError:
        return None


# ---- docstrings


def _documented(file: str, module: str, node: ast.stmt, owner: str = "") -> Iterator[Definition]:
    if isinstance(node, ast.Expr | ast.Assign) and isinstance(node.value, ast.Call) and not owner:
        yield from _of_compiled(file, module, node)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    if node.name.startswith("_"):
        return
    name = owner + node.name
    documentation = ast.get_docstring(node)
    if isinstance(node, ast.ClassDef):
        what = "class"
        for child in _statements(node.body):
            yield from _documented(file, module, child, f"{name}.")
        # "Raised when ...": nobody asks for that
        if node.name.endswith(("Error", "Exception", "Warning")):
            return
    else:
        decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
        what = "property" if "property" in decorators else "method" if owner else "function"
    if documentation:
        yield from _definition(file, module, name, what, documentation)


def _of_compiled(file: str, module: str, node: ast.Expr | ast.Assign) -> Iterator[Definition]:
    """The docstring that numpy or torch gives to a compiled function in a call:

    add_newdoc("numpy._core", "nditer", ("close", text)), add_docstr(torch.abs, text),
    add_docstr_all("abs", text), or gamma = _add_docstr(_special.special_gamma, text).
    """
    assert isinstance(node.value, ast.Call)
    function, values = ast.unparse(node.value.func), node.value.args
    if not function.endswith(("add_newdoc", "add_docstr", "add_docstr_all")) or len(values) < 2:
        return
    parts = [part for value in values for part in ast.walk(value)]
    constants = [part for part in parts if isinstance(part, ast.Constant)]
    constants.sort(key=lambda part: (part.lineno, part.col_offset))
    texts = [part.value for part in constants if isinstance(part.value, str)]
    names = list(takewhile(lambda text: "\n" not in text, texts))
    documentation = inspect.cleandoc("".join(texts[len(names) :]))
    if isinstance(node, ast.Assign):
        names = [ast.unparse(node.targets[0])]
    elif function.endswith("add_newdoc") and names:
        module, *names = names
    elif function.endswith("add_docstr_all"):
        module, names = "torch", ["Tensor", *names]
    else:
        module, _, last = ast.unparse(values[0]).rpartition(".")
        names = [last]
    name = ".".join(names)
    if not documentation or not re.fullmatch(r"[A-Za-z]\w*(?:\.[A-Za-z]\w*)?", name):
        return
    has_signature = without_signature(documentation) != documentation
    nested = ("property", "method")[has_signature]
    what = nested if "." in name else ("class", "function")[has_signature]
    yield from _definition(file, module, name, what, documentation)


def _definition(file: str, module: str, name: str, what: str, text: str) -> Iterator[Definition]:
    definition = Definition(file, module, name, what, summary(name, text), arguments(text))
    if definition.summary or len(definition.arguments) > 1:
        yield definition


# ---- the paths that people know


def public_paths(modules: Sequence[Module]) -> dict[tuple[str, str], str]:
    """The shortest path without a private part to each function and class, by its module and name:
    numpy.argsort for argsort in numpy._core.fromnumeric. A definition without such a path is
    missing.
    """
    by_name = {module.name: module for module in modules}
    # Of each module the names that it defines, and where: a docstring may be written elsewhere
    defined: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for module in modules:
        for definition in module.definitions:
            first = definition.name.split(".")[0]
            defined[definition.module][first] = (definition.module, first)

    def origin(name: str, offer: str, visited: frozenset[str]) -> tuple[str, str] | None:
        """The place where the module `name` has what it offers as `offer` from. Modules may import
        each other in a circle: a visited one is not visited again.
        """
        if place := defined[name].get(offer):
            return place
        if name in visited or name not in by_name:
            return None
        module, visited = by_name[name], visited | {name}
        if offer in module.imported:
            return origin(*module.imported[offer], visited)
        candidates = (origin(star, offer, visited) for star in module.stars if lets(star, offer))
        return next(filter(None, candidates), None)

    def lets(name: str, offer: str) -> bool:
        exported = by_name[name].exported if name in by_name else None
        return exported is None or offer in exported

    def names(name: str, visited: frozenset[str]) -> set[str]:
        """All names that a module may offer."""
        if name in visited or name not in by_name:
            return set(defined[name])
        module, visited = by_name[name], visited | {name}
        offers = {*defined[name], *module.imported}
        for star in module.stars:
            offers |= {offer for offer in names(star, visited) if lets(star, offer)}
        return offers

    paths: dict[tuple[str, str], list[str]] = defaultdict(list)
    for place in [place for own in defined.values() for place in own.values()]:
        paths[place].append(".".join(place))
    for module in modules:
        for name in names(module.name, frozenset()) if module.is_package else ():
            if source := origin(module.name, name, frozenset()):
                paths[source].append(f"{module.name}.{name}")
    shortest = {}
    for place, every in paths.items():
        public = [path for path in every if not re.search(r"(?:^|\.)_", path)]
        if public:
            shortest[place] = min(public, key=lambda path: (path.count("."), path))
    return shortest
